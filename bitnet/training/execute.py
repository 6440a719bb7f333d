"""One frozen run, from its folder to its outcome: resumes, trains, and records how it ended."""

from __future__ import annotations

import functools
import os
import platform
import traceback
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from bitnet.common.console import say
from bitnet.common.errors import UserError, is_disk_error, one_line
from bitnet.common.memory import keep_large_blocks
from bitnet.common.stopping import StopRequests, stop_requests
from bitnet.config.identity import digest, identity
from bitnet.config.run import RunConfig, load_config
from bitnet.data.prepared import Prepared, open_prepared
from bitnet.data.run_data import data_facts, prepare_data
from bitnet.model.transformer import parameter_counts
from bitnet.runs import heartbeat
from bitnet.runs.provenance import provenance
from bitnet.runs.record import RunRecord, last_heldout_loss, lock_run, utc_now
from bitnet.runs.statuses import DONE, FAILED, FINAL, QUEUED, RUNNING
from bitnet.runs.trunk import keep_for_branches, trunk_threads
from bitnet.training import resume
from bitnet.training.build import build
from bitnet.training.device import describe, make_deterministic, pick_device
from bitnet.training.loop import Outcome, train
from bitnet.training.progress import Progress, Timing

_GO_ON = "the same command resumes"


# ------------------------------------------------------------------------------------------------------------ execution
def execute(
    folder: Path,
    *,
    threads: int | None = None,
    lease: AbstractContextManager[str | None] | None = None,
    wait: bool = False,
    supervised: bool = False,
) -> float | None:
    """Run, or go on with, the run in `folder`; returns its last held-out loss, None when it has none.

    Args:
        threads: CPU threads where the configuration leaves them open.
        lease: gives the device in place of the configured one, None for no other. Entered once this process alone works on
            the run, so that nothing is held by one that waits, and left when it has ended.
        wait: whether to wait for another process that works on the run, instead of refusing.
        supervised: whether another process decides how long a run that is asked to stop may take; else it ends itself when
            it is asked again (see `common.stopping`).
    Raises:
        UserError: when the folder, its data or its checkpoint don't belong together.
        KeyboardInterrupt: after saving, when it was asked to stop.
        SystemExit: likewise in a cluster's job, which is then requeued.
    """
    record = RunRecord(folder)
    config = load_config(record.config())
    with stop_requests(None if supervised else functools.partial(_cut_off, record)) as requests:
        try:
            with lock_run(record, wait=wait):
                if record.frozen()["status"] not in FINAL:
                    _attempt(record, config, nullcontext() if lease is None else lease, config.threads or threads, requests)
        except KeyboardInterrupt:
            say(f"{folder}: stopped at step {record.read().get('step', 0)}, saved; the same command resumes")
            requests.requeue()  # now that the run's lock is free
            raise
    return last_heldout_loss(folder)


def _attempt(
    record: RunRecord,
    config: RunConfig,
    lease: AbstractContextManager[str | None],
    threads: int | None,
    requests: StopRequests,
) -> None:
    """Train, and record an end that is none of the loop's own: a failure, or a stop, which is passed on."""
    try:
        with lease as device:
            if not _train(record, config, config.device if device is None else device, threads, requests):
                return
    except UserError as error:
        record.update(status=FAILED, reason=str(error), finished=utc_now())
        raise
    except Exception as error:
        _note_failure(record, error)
        raise
    except KeyboardInterrupt:
        step = record.read().get("step", 0)
        record.update(status=QUEUED, reason=f"stopped by {requests.reason()} at step {step}; {_GO_ON}")
        raise
    raise KeyboardInterrupt


def _cut_off(record: RunRecord) -> None:
    """Record that this process ends before the run, at work here, has saved: in the midst of whatever its thread does."""
    known = record.read()
    if known.get("status") == RUNNING and known.get("pid") == os.getpid():
        record.update(status=QUEUED, reason=f"ended when asked to stop again; {_GO_ON} from the last checkpoint")
        heartbeat.remove(record.folder)


def _note_failure(record: RunRecord, error: Exception) -> None:
    """Record why a run failed; where the disk does not even take that, say so."""
    try:
        record.update(status=FAILED, reason=one_line(error), finished=utc_now())
        if not is_disk_error(error):
            (record.folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
    except OSError as second:
        say(f"{record.folder}: run.json can't say that the run failed: {second.strerror}")


def _its_data(record: RunRecord, config: RunConfig) -> Prepared:
    """The tokens that the run was frozen with: as they were prepared then, or, where those are gone, prepared again.

    So an upgraded package or an edited file does not stop a run that has begun.

    Raises:
        UserError: when they are gone and the source gives others now, or config.yaml was changed.
    """
    known = record.read()
    kept = known.get("data", {})
    prepared = open_prepared(Path(kept["folder"]), say) if kept.get("folder") else None
    same_source = prepared is not None and prepared.manifest["data"] == config.data.model_dump(mode="json")
    if prepared is None or not same_source:
        prepared = prepare_data(config)
    run_id = digest(identity(config, prepared.sha256))
    if known.get("id", run_id) != run_id:
        same_data = kept.get("sha256") == prepared.sha256
        what = "its config.yaml was changed since it began" if same_data else "the data is not what this run was begun with"
        raise UserError(f"resume={record.folder}: {what}; restore it, or start another run")
    return prepared


def _train(record: RunRecord, config: RunConfig, device_name: str, threads: int | None, requests: StopRequests) -> bool:
    """Build, resume, train, record; whether it was stopped before its end."""
    device = pick_device(device_name)
    prepared = _its_data(record, config)
    known = record.read()
    # the number of threads that a run, or its trunk, began with stays, since another one gives other last bits
    threads = resume.known_threads(record) or config.threads or trunk_threads(record) or threads or torch.get_num_threads()
    keep_large_blocks()
    make_deterministic(threads)
    trainer = build(config, prepared, device)
    facts = resume.checkpoint_facts(known["id"], prepared.sha256, threads, device)
    start = resume.find_start(record, config, trainer, facts)
    branch_at, for_branches = known.get("branch_at", ()), functools.partial(keep_for_branches, record=record, say=say)
    if start.saved is not None:
        trainer.load(start.saved)
        if start.step in branch_at:
            for_branches(start.saved.path)
    last = trainer.batches.end(config.steps)
    session = {"began": utc_now(), "after_step": start.step, "device": describe(device), "threads": threads}
    session |= {"host": platform.node(), "changed": start.changed}
    (record.folder / "error.txt").unlink(missing_ok=True)
    record.update(
        status=RUNNING,
        reason=None,
        step=start.step,
        started=known.get("started") or session["began"],
        finished=None,
        pid=os.getpid(),
        device=session["device"],
        threads=threads,
        began_as=start.began_as,
        sessions=[*start.earlier, session | provenance()],
        **_slurm_job(),
        data=data_facts(config, prepared),
        parameters=parameter_counts(trainer.model),
        heldout_text=trainer.probe.reference(),
    )
    timing = Timing(known.get("timing", {}) if start.step > 0 else {}, start.step, config.batch_size * config.seq_len)
    with Progress(record.folder, start.step, last, timing.tokens_per_step) as progress:
        requests.at_once = False
        trainer.probe.alive = progress.alive
        outcome = train(
            trainer,
            record,
            start=start.step,
            last=last,
            eval_every=config.eval_every,
            saving=config.checkpoint,
            branch_at=branch_at,
            for_branches=for_branches,
            facts=facts,
            stopped=requests.reason,
            timing=timing,
            progress=progress,
        )
        _finish(record, config, outcome, timing)
    return outcome.status == QUEUED


def _slurm_job() -> dict[str, dict[str, str | None]]:
    """What run.json says of the SLURM job that this process is: `job` is 123, or 123_4 in an array. Empty in any other."""
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return {}
    job, array, task = (os.environ.get(f"SLURM_{key}") for key in ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID"))
    return {"slurm": {"name": os.environ.get("SLURM_JOB_NAME"), "job": job if array is None else f"{array}_{task}"}}


def _finish(record: RunRecord, config: RunConfig, outcome: Outcome, timing: Timing) -> None:
    """Write how the run ended."""
    reason = outcome.reason
    if outcome.status == QUEUED:
        reason = f"stopped by {outcome.reason} at step {outcome.step}; {_GO_ON}"
    elif outcome.status == DONE and outcome.step < config.steps:
        reason = f"the single pass over the data ended at step {outcome.step} of {config.steps}"
    record.update(
        status=outcome.status,
        reason=reason,
        step=outcome.step,
        finished=None if outcome.status == QUEUED else utc_now(),
        final=_last_row(record),
        timing=timing.until(outcome.step),
    )


def _last_row(record: RunRecord) -> dict[str, float]:
    """The last evaluation, without its empty cells."""
    lines = record.metrics.read_text(encoding="utf-8").splitlines()
    if len(lines) < 2:
        return {}
    cells = zip(lines[0].split(","), lines[-1].split(","), strict=True)
    return {name: float(cell) for name, cell in cells if cell}

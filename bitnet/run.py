"""One frozen run, from its folder to its outcome: builds what the loop needs, resumes, trains, and records how it ended."""

from __future__ import annotations

import functools
import os
import platform
import traceback
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitnet import branches, checkpoint, data, losses, optim, schedules
from bitnet.config import RunConfig, load
from bitnet.device import describe, make_deterministic, pick_device
from bitnet.errors import UserError, in_one_line, is_of_disk
from bitnet.freeze import alone, check_data, data_facts, prepare, say
from bitnet.identity import digest, identity
from bitnet.loop import Outcome, Trainer, train
from bitnet.model import BitNet, parameter_counts
from bitnet.probe import Probe
from bitnet.progress import Progress, Timing
from bitnet.records import FINAL, RunRecord, now, provenance, result
from bitnet.stopping import StopRequests, stop_requests
from bitnet.tokenizer import decode

_GO_ON = "launch again to go on"


# ------------------------------------------------------------------------------------------------------------- building
def build(config: RunConfig, prepared: data.Prepared, device: torch.device) -> Trainer:
    """Everything that the loop receives. The initial weights depend on the seed alone, not on the device."""
    batches, heldout = check_data(config, prepared)
    torch.manual_seed(config.seed)
    model = BitNet(config.model, config.quant, prepared.vocab_size, max(config.seq_len, config.probe.context_length))
    model = model.to(device)

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16")

    hidden_size, lag = config.model.hidden_size, config.schedule_lag
    applied_lr, applied_wd = schedules.applied_rates(config.lr, config.wd, config.steps, hidden_size, lag)
    state = losses.initial_state(config.regularizer.kind, prepared.vocab_size, config.regularizer.memory)
    first_batch = batches.at(1)
    return Trainer(
        model=model,
        optimizer=optim.build(model, config.optimizer),
        batches=batches,
        probe=Probe(model, config.probe, seed=config.seed, first_batch=first_batch, heldout=heldout, autocast=autocast),
        lr=schedules.lr_schedule(config.lr, config.steps, hidden_size),
        wd=schedules.wd_schedule(config.wd, config.steps),
        applied_lr=applied_lr,
        applied_wd=applied_wd,
        clip=config.clip,
        smoothing=config.smoothing,
        regularizer=config.regularizer,
        log_frequency_V=log_frequencies(config, prepared).to(device),
        autocast=autocast,
        decode=functools.partial(decode, prepared.folder),
        device=device,
        forget_at=schedules.forget_step(config.optimizer.reset_at, config.steps, lag),
        regularizer_state={k: v.to(device) for k, v in state.items()},
    )


def log_frequencies(config: RunConfig, prepared: data.Prepared) -> torch.Tensor:
    """Log of the add-one smoothed unigram frequencies of the training tokens, V; empty where no regulariser asks for them."""
    if config.regularizer.kind != "token_frequency":
        return torch.empty(0)
    counts_V = np.ones(prepared.vocab_size)
    for start in range(0, len(prepared.train), 1 << 24):
        counts_V += np.bincount(prepared.train[start : start + (1 << 24)], minlength=prepared.vocab_size)
    return torch.from_numpy(np.log(counts_V / counts_V.sum())).float()


# ------------------------------------------------------------------------------------------------------------ execution
def execute(
    folder: Path, *, threads: int | None = None, lease: AbstractContextManager[str | None] | None = None, wait: bool = False
) -> float | None:
    """Run, or go on with, the run in `folder`; returns its last held-out loss, None when it has none.

    Args:
        threads: CPU threads where the configuration leaves them open.
        lease: gives the device in place of the configured one, None for no other. Entered once this process alone works on
            the run, so that nothing is held by one that waits, and left when it has ended.
        wait: whether to wait for another process that works on the run, instead of refusing.
    Raises:
        UserError: when the folder, its data or its checkpoint don't belong together.
        KeyboardInterrupt: after saving, when it was asked to stop.
        SystemExit: likewise in a cluster's job, which is then requeued.
    """
    record = RunRecord(folder)
    config = load(record.config())
    with stop_requests() as requests:
        try:
            with alone(record, wait=wait):
                if record.read().get("status") not in FINAL:
                    _attempt(record, config, nullcontext() if lease is None else lease, config.threads or threads, requests)
        except KeyboardInterrupt:
            say(f"{folder}: stopped at step {record.read().get('step', 0)}, saved; the same command goes on from there")
            requests.requeue()  # now that the run's lock is free
            raise
    return result(folder)


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
        record.update(status="failed", reason=str(error), finished=now())
        raise
    except Exception as error:
        _note_failure(record, error)
        raise
    except KeyboardInterrupt:
        step = record.read().get("step", 0)
        record.update(status="queued", reason=f"stopped by {requests.reason()} at step {step}; {_GO_ON}")
        raise
    raise KeyboardInterrupt


def _note_failure(record: RunRecord, error: Exception) -> None:
    """Record why a run failed; where the disk does not even take that, say so."""
    try:
        record.update(status="failed", reason=in_one_line(error), finished=now())
        if not is_of_disk(error):
            (record.folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
    except OSError as second:
        say(f"{record.folder}: run.json can't say that the run failed: {second.strerror}")


def _its_data(record: RunRecord, config: RunConfig) -> data.Prepared:
    """The tokens that the run was frozen with: as they were prepared then, or, where those are gone, prepared again.

    So an upgraded package or an edited file does not stop a run that has begun.

    Raises:
        UserError: when they are gone and the source gives others now, or config.yaml was changed.
    """
    known = record.read()
    kept = known.get("data", {})
    prepared = data.open_prepared(Path(kept["folder"]), say) if "folder" in kept else None
    same_source = prepared is not None and prepared.manifest["data"] == config.data.model_dump(mode="json")
    if prepared is None or not same_source:
        prepared = prepare(config)
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
    threads = known.get("threads") or config.threads or branches.threads_of_trunk(record) or threads or torch.get_num_threads()
    make_deterministic(threads)
    trainer = build(config, prepared, device)
    branch_at, for_branches = known.get("branch_at", ()), functools.partial(branches.leave, record=record, say=say)
    saved, began_as, sessions = _saved(record, config, threads, describe(device))
    start = 0
    if saved is not None:
        trainer.load(saved)
        start = saved.facts["step"]
        if start in branch_at:
            for_branches(saved.path)
    last = trainer.batches.end(config.steps)
    session = {"began": now(), "after_step": start, "device": describe(device), "threads": threads, "host": platform.node()}
    (record.folder / "error.txt").unlink(missing_ok=True)
    record.update(
        status="running",
        reason=None,
        started=known.get("started") or session["began"],
        finished=None,
        pid=os.getpid(),
        device=session["device"],
        threads=threads,
        began_as=began_as,
        sessions=[*sessions, session | provenance()],
        **_slurm_job(),
        data=data_facts(config, prepared),
        parameters=parameter_counts(trainer.model),
        heldout_text=trainer.probe.reference(),
    )
    timing = Timing(known.get("timing", {}) if start > 0 else {}, start, config.batch_size * config.seq_len)
    with Progress(record.folder, start, last, timing.tokens_per_step) as progress:
        requests.at_once = False
        outcome = train(
            trainer,
            record,
            start=start,
            last=last,
            eval_every=config.eval_every,
            saving=config.checkpoint,
            branch_at=branch_at,
            for_branches=for_branches,
            facts={"id": known["id"]},
            stopped=requests.reason,
            timing=timing,
            progress=progress,
        )
        _finish(record, config, outcome, timing)
    return outcome.status == "queued"


def _saved(
    record: RunRecord, config: RunConfig, threads: int, device: str
) -> tuple[checkpoint.Checkpoint | None, dict[str, Any] | None, list[dict[str, Any]]]:
    """Where the run goes on from; which other run's steps it began with, if any; the sessions until there.

    Raises:
        UserError: when the checkpoint is of another run.
    """
    known = record.read()
    saved = checkpoint.newest(record.checkpoints, say)
    if saved is not None:
        if saved.facts["id"] != known["id"]:
            raise UserError(f"resume={record.folder}: its checkpoint belongs to another run; remove it, or start another run")
        say(f"{record.folder.name}: resuming after step {saved.facts['step']}")
        return saved, known.get("began_as"), known.get("sessions", [])
    begun = branches.take(record, config, threads, device)
    if begun is None:
        return None, None, [s for s in known.get("sessions", []) if "of" not in s]
    step, trunk = begun.began_as["step"], begun.began_as["from"]
    say(f"{record.folder.name}: going on after step {step} of {trunk}, which trains the same until there")
    return begun.saved, begun.began_as, begun.sessions


def _slurm_job() -> dict[str, dict[str, str | None]]:
    """What run.json says of the SLURM job that this process is: `job` is 123, or 123_4 in an array. Empty in any other."""
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return {}
    job, array, task = (os.environ.get(f"SLURM_{key}") for key in ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID"))
    return {"slurm": {"name": os.environ.get("SLURM_JOB_NAME"), "job": job if array is None else f"{array}_{task}"}}


def _finish(record: RunRecord, config: RunConfig, outcome: Outcome, timing: Timing) -> None:
    """Write how the run ended."""
    reason = outcome.reason
    if outcome.status == "queued":
        reason = f"stopped by {outcome.reason} at step {outcome.step}; {_GO_ON}"
    elif outcome.status == "done" and outcome.step < config.steps:
        reason = f"the single pass over the data ended at step {outcome.step} of {config.steps}"
    record.update(
        status=outcome.status,
        reason=reason,
        step=outcome.step,
        finished=None if outcome.status == "queued" else now(),
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

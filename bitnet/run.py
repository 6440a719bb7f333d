"""One run, from its folder to its outcome: builds what the loop needs, resumes, and records how it ended.

A run is first `enqueue`d (validated, its configuration frozen, its data prepared) and then `execute`d from its folder alone,
in the same process or on another machine.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from bitnet import checkpoint, data, losses, optim, schedules
from bitnet.config import RunConfig, load
from bitnet.errors import UserError
from bitnet.identity import digest, identity
from bitnet.loop import Outcome, Trainer, train
from bitnet.model import BitNet, parameter_counts
from bitnet.probe import Probe, heldout_windows
from bitnet.progress import Progress
from bitnet.records import FINAL, RunRecord, check_writable, locate, now, provenance, readable


def say(message: str) -> None:
    """One line to the person who started the run."""
    print(message, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------------------- devices
def pick_device(name: str) -> torch.device:
    """The device that `name` means; `auto` is the first GPU, else the CPU.

    Raises:
        UserError: for a name that torch doesn't know, or a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device={name}: allowed are auto, cpu, cuda and cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        there = torch.cuda.device_count()
        raise UserError(f"device={name}: this machine has {there} CUDA devices; try device=cpu or device=auto")
    if device.type not in {"cpu", "cuda"}:
        # "mps" among them: the statistics are gathered in float64, which it lacks
        raise UserError(f"device={name}: allowed are auto, cpu, cuda and cuda:N")
    return device


def make_deterministic(threads: int | None) -> None:
    """Ask torch for the algorithms that give the same bits each time; where an operation has none, torch warns."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    if threads is not None:
        torch.set_num_threads(threads)


# ------------------------------------------------------------------------------------------------------------ enqueuing
@dataclass(frozen=True)
class Queued:
    """A run that is ready to be executed, or that is finished already."""

    folder: Path
    run_id: str
    finished: bool


def check_data(config: RunConfig, prepared: data.Prepared) -> tuple[data.Batches, np.ndarray]:
    """The batches and held-out windows of a run.

    Raises:
        UserError: when there is too little data for them.
    """
    batches = data.Batches(
        prepared.train,
        batch_size=config.batch_size,
        seq_len=config.seq_len,
        order=config.data.order,
        at_end=config.data.at_end,
        seed=config.seed,
    )
    return batches, heldout_windows(prepared.heldout, config.probe.heldout_sequences, config.seq_len)


def enqueue(
    config: RunConfig, *, overrides: list[str], label: str, arm: str | None, choices: dict[str, str], check_device: bool
) -> Queued:
    """Validate a run against the machine and its data, and freeze it into its folder.

    Raises:
        UserError: before anything of the run is written.
    """
    if check_device:
        pick_device(config.device)
    out = Path(config.out)
    check_writable(out)
    prepared = data.prepare(config.data, config.tokenizer, say=say)
    check_data(config, prepared)
    what = identity(config, prepared.sha256)
    run_id = digest(what)
    group = None if config.sweep is None else config.sweep.name
    folder = locate(out, group, f"{readable(overrides)}-{run_id}")
    record = RunRecord(folder)
    known = record.read()
    if config.overwrite and known:
        clear(record)
        known = {}
    if known.get("id") == run_id and (folder / "config.yaml").exists():
        return Queued(folder, run_id, known.get("status") in FINAL)
    record.create(
        config.model_dump(mode="json"),
        {
            "id": run_id,
            "arm_id": digest(what, without_seed=True),
            "label": label,
            "arm": arm,
            "seed": config.seed,
            "steps": config.steps,
            "sweep": group,
            "published": [] if config.sweep is None else config.sweep.published,
            "overrides": overrides,
            "choices": choices,
            "identity": what,
        },
    )
    return Queued(folder, run_id, False)


def clear(record: RunRecord) -> None:
    """Remove a run's results, for `overwrite=true`; refused while another process works on it."""
    with _alone(record):
        record.metrics.unlink(missing_ok=True)
        for path in record.checkpoints.glob("*"):
            path.unlink()
        for name in ("run.json", "error.txt"):
            (record.folder / name).unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(record: RunRecord) -> Iterator[None]:
    """Hold the run's lock.

    Raises:
        UserError: when another process holds it.
    """
    try:
        with FileLock(record.lock, timeout=0):
            yield
    except Timeout:
        raise UserError(f"{record.folder}: another process is working on this run") from None


# ------------------------------------------------------------------------------------------------------------- building
def build(config: RunConfig, prepared: data.Prepared, device: torch.device) -> Trainer:
    """Everything that the loop receives. The initial weights depend on the seed alone, not on the device."""
    batches, heldout = check_data(config, prepared)
    torch.manual_seed(config.seed)
    model = BitNet(config.model, config.quant, prepared.vocab_size, max(config.seq_len, config.probe.context_length))
    model = model.to(device)

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16")

    lr = schedules.lr_schedule(config.lr, config.steps, config.model.hidden_size)
    wd = schedules.wd_schedule(config.wd, config.steps)
    state = losses.initial_state(config.regularizer.kind, prepared.vocab_size, config.regularizer.memory)
    first_batch = batches.at(1)
    return Trainer(
        model=model,
        optimizer=optim.build(model, config.optimizer),
        batches=batches,
        probe=Probe(model, config.probe, seed=config.seed, first_batch=first_batch, heldout=heldout, autocast=autocast),
        lr=lr,
        wd=wd,
        applied_lr=schedules.applied(lr, config.schedule_lag, schedules.peak_lr(config.lr, config.model.hidden_size)),
        applied_wd=schedules.applied(wd, config.schedule_lag, schedules.first_weight_decay(config.wd)),
        clip=config.clip,
        smoothing=config.smoothing,
        regularizer=config.regularizer,
        log_frequency_V=log_frequencies(prepared).to(device),
        autocast=autocast,
        device=device,
        regularizer_state={k: v.to(device) for k, v in state.items()},
    )


def log_frequencies(prepared: data.Prepared) -> torch.Tensor:
    """Log of the add-one smoothed unigram frequencies of the training tokens, V."""
    counts_V = np.bincount(prepared.train, minlength=prepared.vocab_size) + 1.0
    return torch.from_numpy(np.log(counts_V / counts_V.sum())).float()


# ------------------------------------------------------------------------------------------------------------ execution
@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], str | None]]:
    """Turn SIGINT and SIGTERM into a reason that the loop reads at its next step boundary; a second one changes nothing."""
    received: list[str] = []

    def note(number: int, frame: object) -> None:
        received.append(signal.Signals(number).name)
        say(f"{received[0]}: saving at the next step")

    previous = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def execute(folder: Path, *, threads: int | None = None, device: str | None = None) -> float | None:
    """Run, or go on with, the run in `folder`; returns its last held-out loss, None when it has none.

    Args:
        threads: CPU threads where the configuration leaves them open.
        device: the device in place of the configured one: that of a lease.
    Raises:
        UserError: when the folder, its data or its checkpoint don't belong together.
        KeyboardInterrupt: after saving, when it was asked to stop.
    """
    record = RunRecord(folder)
    config = load(record.config())
    with _alone(record):
        try:
            outcome = _train(record, config, device or config.device, threads if config.threads is None else config.threads)
        except UserError:
            raise
        except Exception as error:
            (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
            record.update(status="failed", reason=f"{type(error).__name__}: {error}".splitlines()[0], finished=now())
            raise
    if outcome.status == "queued":
        say(f"{folder}: stopped at step {outcome.step}, saved; the same command goes on from there")
        raise KeyboardInterrupt
    return result(folder)


def result(folder: Path) -> float | None:
    """A run's objective: its last held-out loss, None when it has none."""
    return RunRecord(folder).read().get("final", {}).get("heldout_loss")


def _saved(record: RunRecord, run_id: str, data_sha256: str) -> checkpoint.Checkpoint | None:
    """The checkpoint to go on from; refused when it was made by another configuration or from other data."""
    saved = checkpoint.newest(record.checkpoints, say)
    if saved is None:
        return None
    if saved.facts["data_sha256"] != data_sha256:
        raise UserError(f"resume={record.folder}: the data is not what its checkpoint was trained on; restore it")
    if saved.facts["id"] != run_id:
        raise UserError(f"resume={record.folder}: its config.yaml was changed since it began; restore it, or start another run")
    return saved


def _train(record: RunRecord, config: RunConfig, device_name: str, threads: int | None) -> Outcome:
    """Build, resume, train, record."""
    device = pick_device(device_name)
    make_deterministic(threads)
    prepared = data.prepare(config.data, config.tokenizer, say=say)
    run_id = digest(identity(config, prepared.sha256))
    known = record.read()
    if known.get("id", run_id) != run_id:
        same_data = known.get("identity", {}).get("data", {}).get("sha256") == prepared.sha256
        what = "its config.yaml was changed since it began" if same_data else "the data is not what this run was begun with"
        raise UserError(f"resume={record.folder}: {what}; restore it, or start another run")
    trainer = build(config, prepared, device)
    start = 0
    if (saved := _saved(record, run_id, prepared.sha256)) is not None:
        trainer.load(saved)
        start = saved.facts["step"]
        say(f"{record.folder.name}: resuming after step {start}")
    last = min(config.steps, trainer.batches.last_step or config.steps)
    tokens_per_step = config.batch_size * config.seq_len
    record.update(
        status="running",
        reason=None,
        started=known.get("started") or now(),
        pid=os.getpid(),
        host=platform.node(),
        device=_describe(device),
        data=_data_facts(config, prepared),
        parameters=parameter_counts(trainer.model),
        **provenance(),
    )
    with stop_requests() as stopped, Progress(record.folder, start, last, tokens_per_step) as progress:
        outcome = train(
            trainer,
            record,
            start=start,
            last=last,
            tokens_per_step=tokens_per_step,
            eval_every=config.eval_every,
            saving=config.checkpoint,
            facts={"id": run_id, "data_sha256": prepared.sha256},
            stopped=stopped,
            progress=progress,
        )
    _finish(record, config, outcome, start, tokens_per_step)
    return outcome


def _finish(record: RunRecord, config: RunConfig, outcome: Outcome, start: int, tokens_per_step: int) -> None:
    """Write how the run ended; times add up over resumptions."""
    before: dict[str, Any] = record.read().get("timing", {}) if start > 0 else {}
    trained = before.get("steps_timed", 0) + outcome.step - start
    seconds = before.get("train_seconds", 0.0) + outcome.train_seconds
    reason = outcome.reason
    if outcome.status == "queued":
        reason = f"stopped by {outcome.reason} at step {outcome.step}; launch again to go on"
    elif outcome.status == "done" and outcome.step < config.steps:
        reason = f"the single pass over the data ended at step {outcome.step} of {config.steps}"
    record.update(
        status=outcome.status,
        reason=reason,
        step=outcome.step,
        finished=None if outcome.status == "queued" else now(),
        final=_last_row(record),
        timing={
            "train_seconds": round(seconds, 3),
            "eval_seconds": round(before.get("eval_seconds", 0.0) + outcome.eval_seconds, 3),
            "steps_timed": trained,
            "tokens_per_second": round(trained * tokens_per_step / seconds, 1) if seconds > 0 else None,
        },
    )


def _last_row(record: RunRecord) -> dict[str, float]:
    """The last evaluation, without its empty cells."""
    lines = record.metrics.read_text(encoding="utf-8").splitlines()
    if len(lines) < 2:
        return {}
    cells = zip(lines[0].split(","), lines[-1].split(","), strict=True)
    return {name: float(cell) for name, cell in cells if cell}


def _describe(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def _data_facts(config: RunConfig, prepared: data.Prepared) -> dict[str, Any]:
    return {
        "name": config.data.source,
        "sha256": prepared.sha256,
        "train_tokens": len(prepared.train),
        "heldout_tokens": len(prepared.heldout),
        "vocab_size": prepared.vocab_size,
        "ln_vocab": float(np.log(prepared.vocab_size)),
        "unigram_entropy": prepared.unigram_entropy,
    }

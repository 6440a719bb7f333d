"""From a configuration to a run's folder: validated against machine and data, named after what it is, frozen.

What `run.execute` does later depends on the folder alone.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from bitnet import data
from bitnet.batches import Batches
from bitnet.config import RunConfig
from bitnet.errors import UserError
from bitnet.heldout import Heldout
from bitnet.identity import digest, identity, source_key
from bitnet.records import FINAL, RunRecord, check_inside, check_writable, locate, readable


def say(message: str) -> None:
    """One line to the person who started the run."""
    print(message, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Resolved:
    """A run that can be carried out: its configuration, its data, its identity and the folder that is named after it."""

    config: RunConfig
    prepared: data.Prepared
    identity: dict[str, Any]
    run_id: str
    group: str | None
    overrides: list[str]
    folder: Path
    last_step: int


@dataclass(frozen=True)
class Queued:
    """A run that is ready to be executed, or that is finished already."""

    folder: Path
    finished: bool


_prepared: dict[str, data.Prepared] = {}  # the arms of a sweep share their data: read and verified once a process


def prepare(config: RunConfig) -> data.Prepared:
    """The run's data; made if it isn't there, and verified once in this process."""
    key = source_key(config)
    if key not in _prepared or not _prepared[key].folder.exists():
        _prepared[key] = data.prepare(config.data, config.tokenizer, say=say)
    return _prepared[key]


def check_data(config: RunConfig, prepared: data.Prepared) -> tuple[Batches, Heldout]:
    """The batches and the held-out text of a run.

    Raises:
        UserError: when there is too little data for them.
    """
    batches = Batches(
        prepared.train,
        batch_size=config.batch_size,
        seq_len=config.seq_len,
        order=config.data.order,
        at_end=config.data.at_end,
        seed=config.seed,
    )
    return batches, Heldout(prepared.heldout, config.probe.heldout_sequences, config.seq_len)


def resolve(config: RunConfig, overrides: list[str], *, check_device: bool) -> Resolved:
    """Validate a run against the machine and its data, and find out what it is called.

    Raises:
        UserError: when it can't be carried out.
    """
    if check_device and config.device not in {"auto", "cpu"}:
        from bitnet.device import pick_device  # imports torch, which takes a second

        pick_device(config.device)
    check_writable(Path(config.out))
    prepared = prepare(config)
    batches, _ = check_data(config, prepared)
    _warn_of_the_end(config, batches.last_step)
    what = identity(config, prepared.sha256)
    run_id = digest(what)
    group = None if config.sweep is None else config.sweep.name
    folder = locate(Path(config.out), group, f"{readable(overrides)}-{run_id}")
    check_inside(folder, Path(config.out))
    return Resolved(config, prepared, what, run_id, group, overrides, folder, batches.end(config.steps))


@functools.cache
def _warn_once(message: str) -> None:
    say(message)


def _warn_of_the_end(config: RunConfig, last_step: int | None) -> None:
    """Say before any work that the data ends before the run does: its schedules, and stage 2, are laid out for `steps`."""
    if last_step is not None and last_step < config.steps:
        _warn_once(
            f"note: a single pass over this data is {last_step:,} steps of {config.steps:,}; the run ends there, with its "
            f"schedules laid out for all {config.steps:,}. steps={last_step} fits them to the data, stream=shuffled repeats it"
        )


def freeze(
    run: Resolved,
    *,
    label: str,
    arm: str | None,
    choices: dict[str, str],
    provenance: dict[str, Any],
    written: dict[str, str] | None = None,
) -> Queued:
    """Write the run's folder, or find it there. What may change between sessions (device, threads, saving) is brought up
    to date in a run that is not finished; one that another process works on is left as it is.

    Raises:
        UserError: for `overwrite=true` on a run that another process works on.
    """
    record = RunRecord(run.folder)
    run.folder.mkdir(parents=True, exist_ok=True)
    try:
        with alone(record):
            known = record.read()
            if run.config.overwrite and known:
                record.clear()
                known = {}
            if known.get("id") == run.run_id:
                names = {"label": label, "arm": arm, "written": written or {}, "scale": run.config.scale_name}
                if any(known.get(k) != v for k, v in names.items()):  # as the sweep's file has it now
                    record.update(**names)
                if known.get("status") in FINAL:
                    return Queued(run.folder, True)
                record.write_config(run.config.model_dump(mode="json"))
            else:
                facts = _facts(run, label, arm, choices) | {"written": written or {}} | provenance
                record.create(run.config.model_dump(mode="json"), facts)
            if run.group is not None and not run.config.overwrite:
                return Queued(run.folder, _take_over(record, Path(run.config.out), run.run_id))
    except Busy:
        if run.config.overwrite:
            raise
    return Queued(run.folder, False)


def _take_over(record: RunRecord, out: Path, run_id: str) -> bool:
    """Where another sweep has finished the same run, take its results, since the same run gives the same bits; whether it has."""
    for place in sorted(out.glob(f"*/*-{run_id}/run.json")):
        theirs = RunRecord(place.parent)
        known = theirs.read()
        if theirs.folder != record.folder and known.get("id") == run_id and known.get("status") in FINAL:
            record.copy_results(theirs)
            return True
    return False


def _facts(run: Resolved, label: str, arm: str | None, choices: dict[str, str]) -> dict[str, Any]:
    return {
        "id": run.run_id,
        "arm_id": digest(run.identity, without_seed=True),
        "label": label,
        "arm": arm,
        "seed": run.config.seed,
        "steps": run.config.steps,
        "sweep": run.group,
        "scale": run.config.scale_name,
        "published": [] if run.config.sweep is None else run.config.sweep.published,
        "overrides": run.overrides,
        "choices": choices,
        "identity": run.identity,
        "data": data_facts(run.config, run.prepared),
    }


def data_facts(config: RunConfig, prepared: data.Prepared) -> dict[str, Any]:
    """What `run.json` says of the data: above all ln V and the unigram entropy, which losses are read against."""
    return {
        "name": config.data.source,
        "folder": str(prepared.folder),
        "sha256": prepared.sha256,
        "train_tokens": len(prepared.train),
        "heldout_tokens": len(prepared.heldout),
        "vocab_size": prepared.vocab_size,
        "ln_vocab": float(np.log(prepared.vocab_size)),
        "unigram_entropy": prepared.unigram_entropy,
    }


class Busy(UserError):
    """Another process is working on the run."""


@contextlib.contextmanager
def alone(record: RunRecord, *, wait: bool = False) -> Iterator[None]:
    """Hold the run's lock, which the system releases with the process.

    Raises:
        Busy: when another process holds it and `wait` is not asked for.
    """
    check_inside(record.folder.resolve(), record.folder.resolve())  # before the lock, which is a file in it
    try:
        lock = FileLock(record.lock, timeout=-1 if wait else 0)
        with lock:
            yield
    except Timeout:
        raise Busy(f"{record.folder}: another process is working on this run") from None

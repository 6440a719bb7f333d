"""From a configuration to a run's folder: validated against machine and data, named after what it is, frozen.

What `training.execute` does later depends on the folder alone.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet.common.console import say
from bitnet.common.limits import check_threads
from bitnet.config.identity import digest, identity
from bitnet.config.run import RunConfig
from bitnet.config.sweep import FORMER_NAMES
from bitnet.data import prepared as prepared_data
from bitnet.data.run_data import batches_and_heldout, data_facts, prepare_data
from bitnet.runs.folders import check_inside, check_writable, folder_label, run_folder
from bitnet.runs.record import RunLocked, RunRecord, lock_run
from bitnet.runs.statuses import FINAL


@dataclass(frozen=True)
class ResolvedRun:
    """A run that can be carried out: its configuration, its data, its identity and the folder that is named after it."""

    config: RunConfig
    prepared: prepared_data.Prepared
    identity: dict[str, Any]
    run_id: str
    group: str | None
    overrides: list[str]
    folder: Path
    last_step: int


@dataclass(frozen=True)
class QueuedRun:
    """A run that is ready to be executed, or that is finished already."""

    folder: Path
    finished: bool


def folder_of(config: RunConfig, overrides: list[str], run_id: str) -> Path:
    """Where a run lies, or will: the same for whoever plans it and whoever trains it."""
    former = FORMER_NAMES.get(config.sweep_name or "")
    return run_folder(Path(config.out), config.sweep_name, f"{folder_label(overrides)}-{run_id}", former)


def resolve(config: RunConfig, overrides: list[str], *, check_device: bool) -> ResolvedRun:
    """Validate a run against the machine and its data, and find out what it is called.

    Raises:
        UserError: when it can't be carried out.
    """
    if check_device and config.device not in {"auto", "cpu"}:
        from bitnet.training.device import pick_device  # imports torch, which takes a second

        pick_device(config.device)
    if check_device and config.threads is not None:
        check_threads(config.threads)
    check_writable(Path(config.out))
    prepared = prepare_data(config)
    batches, _ = batches_and_heldout(config, prepared)
    _warn_of_the_end(config, batches.last_step)
    what = identity(config, prepared.sha256)
    run_id = digest(what)
    folder = folder_of(config, overrides, run_id)
    check_inside(folder, Path(config.out))
    return ResolvedRun(config, prepared, what, run_id, config.sweep_name, overrides, folder, batches.end(config.steps))


@functools.cache
def _warn_once(message: str) -> None:
    say(message)


def _warn_of_the_end(config: RunConfig, last_step: int | None) -> None:
    """Say before any work that the data ends before the run does: its schedules, and stage 2, are laid out for `steps`."""
    if last_step is not None and last_step < config.steps:
        _warn_once(
            f"note: a single pass over this data is {last_step:,} steps of {config.steps:,}; the run ends there, with schedules "
            f"laid out for {config.steps:,}. steps={last_step} fits them to the data, stream=shuffled repeats the data"
        )


def freeze(
    run: ResolvedRun,
    *,
    label: str,
    arm: str | None,
    choices: dict[str, str],
    provenance: dict[str, Any],
    written: dict[str, str] | None = None,
) -> QueuedRun:
    """Write the run's folder, or find it there. What may change between sessions (device, threads, saving) is brought up
    to date in a run that is not finished; one that another process works on is left as it is.

    Raises:
        UserError: for `overwrite=true` on a run that another process works on.
    """
    record = RunRecord(run.folder)
    run.folder.mkdir(parents=True, exist_ok=True)
    try:
        with lock_run(record):
            known = record.read()
            if not known and (damage := record.set_aside()) is not None:
                say(f"note: {damage}")
            if run.config.overwrite and known:
                record.clear()
                known = {}
            if known.get("id") == run.run_id:
                names = {"label": label, "arm": arm, "written": written or {}, "scale": run.config.scale_name}
                if any(known.get(k) != v for k, v in names.items()):  # as the sweep's file has it now
                    record.update(**names)
                if known.get("status") in FINAL:
                    return QueuedRun(run.folder, True)
                record.write_config(run.config.model_dump(mode="json"))
            else:
                facts = _facts(run, label, arm, choices) | {"written": written or {}} | provenance
                record.create(run.config.model_dump(mode="json"), facts)
            if run.group is not None and not run.config.overwrite:
                return QueuedRun(run.folder, _take_over(record, Path(run.config.out), run.run_id))
    except RunLocked:
        if run.config.overwrite:
            raise
    return QueuedRun(run.folder, False)


def _take_over(record: RunRecord, out: Path, run_id: str) -> bool:
    """Where another sweep has finished the same run, take its results, since the same run gives the same bits; whether it has."""
    for place in sorted(out.glob(f"*/*-{run_id}/run.json")):
        theirs = RunRecord(place.parent)
        known = theirs.read()
        if theirs.folder != record.folder and known.get("id") == run_id and known.get("status") in FINAL:
            record.copy_results(theirs)
            return True
    return False


def _facts(run: ResolvedRun, label: str, arm: str | None, choices: dict[str, str]) -> dict[str, Any]:
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

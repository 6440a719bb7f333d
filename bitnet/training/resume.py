"""Where a run goes on from: its newest checkpoint that is whole and whose rows are there, its trunk's, or the first step."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bitnet.common.console import say
from bitnet.common.errors import UserError
from bitnet.config.run import RunConfig
from bitnet.runs.metrics_file import evaluation_steps, rows_problem
from bitnet.runs.provenance import provenance
from bitnet.runs.record import RunRecord
from bitnet.training import branches, checkpoint, optim
from bitnet.training.checkpoint import Checkpoint
from bitnet.training.device import describe
from bitnet.training.loop import Trainer

_WATCHED = ("torch", "numpy", "bitnet-ablation")  # packages that decide a run's last bits


@dataclass(frozen=True)
class Start:
    """Where a run goes on from.

    saved: None for the first step. began_as: which other run's steps it began with. earlier: what run.json says of the times
    that it was at work before. changed: what differs from how it was begun, as `torch 2.7.1 -> 2.8.0`.
    """

    saved: Checkpoint | None = None
    began_as: dict[str, Any] | None = None
    earlier: list[dict[str, Any]] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    @property
    def step(self) -> int:
        """The last step that is done."""
        return 0 if self.saved is None else self.saved.facts["step"]


def checkpoint_facts(run_id: str, data_sha256: str, threads: int, device: torch.device) -> dict[str, Any]:
    """What a run is made with, which its checkpoints carry, so that it outlives run.json."""
    versions = {name: version for name, version in provenance()["versions"].items() if name in _WATCHED}
    return {"id": run_id, "data_sha256": data_sha256, "threads": threads, "device": device.type, "versions": versions}


def known_threads(record: RunRecord) -> int | None:
    """The number of threads that a run began with: by its record or, where that was lost, its newest checkpoint."""
    return record.read().get("threads") or checkpoint.newest_facts(record.checkpoints).get("threads")


def find_start(record: RunRecord, config: RunConfig, trainer: Trainer, facts: Mapping[str, Any]) -> Start:
    """Where a run goes on from.

    Args:
        facts: `checkpoint_facts` of this process.
    Raises:
        UserError: when the checkpoint is of another run, or made with something else and `checkpoint.on_mismatch` is `refuse`.
    """
    known = record.read()
    last = trainer.batches.end(config.steps)
    problem = functools.partial(_problem, layout=_layout(trainer), last=last)
    found = checkpoint.newest(record.checkpoints, say, problem)
    if found is not None:
        for key, what in (("id", "another run"), ("data_sha256", "a run on other data")):
            if found.facts.get(key, facts[key]) != facts[key]:
                raise UserError(f"resume={record.folder}: its checkpoint belongs to {what}; remove it, or start another run")
    if found is not None and (saved := _with_its_rows(record, config, found, problem, last)) is not None:
        changed = list(_changes(saved.facts, facts))
        _tell_changes(record, config, changed)
        say(f"{record.folder.name}: resuming after step {saved.facts['step']}")
        return Start(saved, known.get("began_as"), known.get("sessions", []), changed)
    begun = branches.start_from_trunk(record, config, facts["threads"], describe(trainer.device))
    if begun is not None and (why := problem(begun.saved)) is not None:
        say(f"{record.folder.name}: its trunk's checkpoint is not used ({why}); training the common steps again")
        begun = None
    if begun is None:
        return Start(earlier=[s for s in known.get("sessions", []) if "of" not in s])
    step, trunk = begun.began_as["step"], begun.began_as["from"]
    say(f"{record.folder.name}: going on after step {step} of {trunk}, which trains the same until there")
    return Start(begun.saved, begun.began_as, begun.sessions)


def _with_its_rows(
    record: RunRecord, config: RunConfig, newest: Checkpoint, problem: Callable[[Checkpoint], str | None], last: int
) -> Checkpoint | None:
    """The newest checkpoint up to which every evaluation is in metrics.csv; None where there is none.

    Those of later steps are set aside: the rows before them can only be made again by training.
    """
    saved: Checkpoint | None = newest
    while saved is not None:
        steps = evaluation_steps(saved.facts["step"], config.eval_every, last)
        why = rows_problem(record.metrics, steps, saved.facts.get("metrics_sha256"))
        if why is None:
            return saved
        if saved is newest:
            if record.metrics.exists():
                shutil.copyfile(record.metrics, record.folder / "metrics.csv.damaged")
            kept = "kept as metrics.csv.damaged, " if record.metrics.exists() else ""
            again = "going back to a step from which every row is made again"
            say(f"{record.folder.name}: metrics.csv {why}; {kept}later checkpoints as *.without-rows; {again}")
        # sound, but for its rows: aside, in case that the right file turns up
        saved.path.replace(saved.path.with_name(f"{saved.path.name}.without-rows"))
        saved = checkpoint.newest(record.checkpoints, say, problem)
    return None


def _problem(saved: Checkpoint, layout: Mapping[str, str], last: int) -> str | None:
    """Why a checkpoint is not the whole state of this run at a step that it has; None where it is."""
    if not saved.facts.get("id"):
        return "it does not say of which run"
    if not 0 < saved.facts["step"] <= last:
        return f"step {saved.facts['step']} is beyond the run's end, {last}"
    there = {name: _form(tensor) for name, tensor in saved.tensors.items()}
    there.pop("rng/cuda", None)  # of a device that may be another one now
    if missing := sorted(layout.keys() - there.keys()):
        return f"{missing[0]} is missing"
    if unknown := sorted(there.keys() - layout.keys()):
        return f"{unknown[0]} is no part of this run"
    wrong = [name for name, form in layout.items() if there[name] != form]
    return f"{wrong[0]} is {there[wrong[0]]}, not {layout[wrong[0]]}" if wrong else None


def _layout(trainer: Trainer) -> dict[str, str]:
    """Type and shape of every tensor that a checkpoint of this run has."""
    fresh = {name: _form(tensor) for name, tensor in trainer.tensors().items() if name != "rng/cuda"}
    memory = {f"optimizer/{name}": _form(tensor) for name, tensor in optim.expected_state(trainer.optimizer).items()}
    return fresh | memory


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What differs between two `checkpoint_facts`; what the first one does not say is not compared."""
    for what in ("device", "threads"):
        if what in before and before[what] != now[what]:
            yield f"{what} {before[what]} -> {now[what]}"
    versions = before.get("versions") or {}
    for package, version in now["versions"].items():
        if versions.get(package, version) != version:
            yield f"{package} {versions[package]} -> {version}"


def _tell_changes(record: RunRecord, config: RunConfig, changed: list[str]) -> None:
    if not changed:
        return
    what = ", ".join(changed)
    if config.checkpoint.on_mismatch == "refuse":
        raise UserError(
            f"resume={record.folder}: it was begun with something else ({what}) and checkpoint.on_mismatch=refuse; "
            "restore that, or go on with checkpoint.on_mismatch=continue"
        )
    say(f"{record.folder.name}: note: {what}; from here on its last bits may differ from those of an undisturbed run")

"""Runs of a sweep that begin alike train their common steps once: a stage tree (Hippo, Shin et al. 2020).

Two runs that differ in nothing but their schedules are one run until the schedules part. The later of them, the branch, goes
on from what the earlier one, the trunk, saved there: with the bits that training it alone would give, since that is what
resuming gives.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bitnet import schedules
from bitnet.columns import COLUMNS, format_value
from bitnet.config import RunConfig
from bitnet.identity import digest, identity
from bitnet.records import FINAL, RunRecord, rows_until, write_atomically

if TYPE_CHECKING:
    from bitnet.checkpoint import Checkpoint

_LEAST_SHARED = 0.1  # of a run's steps; less is not worth a checkpoint


@dataclass(frozen=True)
class Branch:
    """Where a run begins: after `step` steps of the run at place `trunk` of the list."""

    trunk: int
    step: int


# ------------------------------------------------------------------------------------------------------------ planning
def plan(runs: Sequence[tuple[RunConfig, str]]) -> list[Branch | None]:
    """For each run the earlier one that it shares most steps with, None where it shares too few.

    Args:
        runs: configurations, each with the hash of its data.
    """
    found: list[Branch | None] = []
    families: dict[str, list[int]] = {}
    courses: dict[str, np.ndarray] = {}
    for place, (config, data_sha256) in enumerate(runs):
        family = families.setdefault(_all_but_schedules(config, data_sha256), [])
        family.append(place)
        found.append(None)
        if not config.checkpoint.branch:
            continue
        for earlier in family[:-1]:
            shared = _shared_steps(_course(runs[earlier][0], courses), _course(config, courses))
            best = found[place]
            if shared >= _LEAST_SHARED * config.steps and (best is None or shared > best.step):
                found[place] = Branch(earlier, shared)
    return found


def _all_but_schedules(config: RunConfig, data_sha256: str) -> str:
    """The same for runs that nothing but the schedules can tell apart."""
    what = identity(config, data_sha256)
    optimizer = {k: v for k, v in what["optimizer"].items() if k != "reset_at"}
    return digest({k: v for k, v in what.items() if k not in {"lr", "wd"}} | {"optimizer": optimizer})


def _course(config: RunConfig, known: dict[str, np.ndarray]) -> np.ndarray:
    """Learning rate, weight decay and whether the optimizer forgets, as each update uses them: steps x 3."""
    hidden_size, steps = config.model.hidden_size, config.steps
    forget_at = schedules.forget_step(config.optimizer.reset_at, steps, config.schedule_lag)
    key = f"{config.lr.model_dump_json()} {config.wd.model_dump_json()} {hidden_size} {steps} {config.schedule_lag} {forget_at}"
    if key not in known:
        lr, wd = schedules.applied_rates(config.lr, config.wd, steps, hidden_size, config.schedule_lag)
        known[key] = np.array([(lr(s), wd(s), s == forget_at) for s in range(1, steps + 1)])
    return known[key]


def _shared_steps(a: np.ndarray, b: np.ndarray) -> int:
    differs = (a != b).any(axis=1)
    # two that never part are the same run spelt twice
    return int(differs.argmax()) if differs.any() else 0


def facts(found: Sequence[Branch | None], folders: Sequence[Path], ids: Sequence[str]) -> list[dict[str, Any]]:
    """What `run.json` says of each run: where it branches from, and at which steps others branch from it."""
    at: dict[int, set[int]] = {}
    for branch in found:
        if branch is not None:
            at.setdefault(branch.trunk, set()).add(branch.step)
    said: list[dict[str, Any]] = []
    for place, branch in enumerate(found):
        begins = None
        if branch is not None:
            begins = {"from": folders[branch.trunk].name, "id": ids[branch.trunk], "step": branch.step}
        said.append({"branch": begins, "branch_at": sorted(at.get(place, ()))})
    return said


# ------------------------------------------------------------------------------------------------------------- running
def leave(saved: Path, record: RunRecord) -> None:
    """Keep a checkpoint of a run for the branches, whatever becomes of its others."""
    place = record.branches / saved.name
    if place.exists():
        return
    place.parent.mkdir(exist_ok=True)
    try:
        os.link(saved, place)
    except OSError:  # a file system without links
        partial = place.with_name(f".{place.name}")
        shutil.copyfile(saved, partial)
        partial.replace(place)


def beginning(record: RunRecord) -> Path | None:
    """The checkpoint that a branch begins with, None where it isn't one or its trunk has not saved it."""
    branch = record.read().get("branch")
    if not branch:
        return None
    trunk = RunRecord(record.folder.parent / branch["from"])
    return next(trunk.branches.glob(f"step-{branch['step']:08d}-*.safetensors"), None)


def take(record: RunRecord, config: RunConfig, threads: int, device: str) -> Checkpoint | None:
    """Begin a run where its trunk left it, with the trunk's evaluations until there; None where it has to begin by itself.

    Args:
        threads, device: of this process; the trunk must have run with the same ones, since others give other last bits.
    """
    path = beginning(record)
    if path is None:
        return None
    branch = record.read()["branch"]
    trunk = RunRecord(path.parents[1])
    known = trunk.read()
    if (known.get("id"), known.get("threads"), known.get("device")) != (branch["id"], threads, device):
        return None
    from bitnet import checkpoint  # imports torch, which a controller does without

    saved = checkpoint.read(path)
    if saved is None or saved.facts.get("id") != branch["id"]:
        return None
    write_atomically(record.metrics, _rewritten(rows_until(trunk.metrics, branch["step"]), config))
    return saved


def _rewritten(rows: Sequence[Sequence[str]], config: RunConfig) -> str:
    """The trunk's rows as the branch writes them: the values that a step's schedules announce for the next one are its own."""
    own: Mapping[str, Callable[[int], float]] = {
        "LR": schedules.lr_schedule(config.lr, config.steps, config.model.hidden_size),
        "WD": schedules.wd_schedule(config.wd, config.steps),
    }
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        cells = dict(zip(COLUMNS, row, strict=True))
        step = int(cells["Step"])
        writer.writerow((cells | {name: format_value(name, value(step)) for name, value in own.items()}).values())
    return buffer.getvalue()


def tidy(folders: Sequence[Path]) -> None:
    """Remove what was kept for branches, where each of them is over."""
    known = [RunRecord(f).read() for f in folders]
    needed = {r["branch"]["from"] for r in known if r.get("branch") and r.get("status") not in FINAL}
    for kept in (RunRecord(f).branches for f in folders if f.name not in needed):
        if kept.exists():
            shutil.rmtree(kept)

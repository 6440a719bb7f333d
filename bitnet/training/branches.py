"""Runs of a sweep that begin alike train their common steps once: a stage tree (Hippo, Shin et al. 2020).

Two runs that differ in nothing but their schedules are one run until the schedules part. The later of them, the branch, goes
on from what the earlier one, the trunk, saved there: with the bits that training it alone would give, since that is what
resuming gives.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bitnet.common.files import write_atomically
from bitnet.config.identity import digest, identity
from bitnet.config.run import RunConfig
from bitnet.runs.columns import COLUMNS, format_value
from bitnet.runs.metrics_file import csv_text, evaluation_steps, rows_problem, rows_until
from bitnet.runs.record import RunRecord
from bitnet.runs.trunk import find_trunk, kept_checkpoint
from bitnet.training import schedules

if TYPE_CHECKING:
    from bitnet.training.checkpoint import Checkpoint

_LEAST_SHARED = 0.1  # of a run's steps; less is not worth a checkpoint


@dataclass(frozen=True)
class Branch:
    """Where a run begins: after `step` steps of the run at place `trunk` of the list."""

    trunk: int
    step: int


# ------------------------------------------------------------------------------------------------------------ planning
@dataclass(frozen=True)
class Candidate:
    """A run of a sweep: its configuration, the hash of its data, its last step; `can_be_trunk` at a step, as things stand."""

    config: RunConfig
    data_sha256: str
    last_step: int
    can_be_trunk: Callable[[int], bool] = lambda step: True


def plan_branches(runs: Sequence[Candidate]) -> list[Branch | None]:
    """For each run the earlier one that it shares most steps with, None where it shares too few."""
    found: list[Branch | None] = []
    families: dict[str, list[int]] = {}
    courses: dict[str, np.ndarray] = {}
    for place, run in enumerate(runs):
        family = families.setdefault(_all_but_schedules(run), [])
        found.append(_best(run, family, runs, courses) if run.config.checkpoint.branch else None)
        family.append(place)
    return found


def _best(run: Candidate, family: Sequence[int], runs: Sequence[Candidate], courses: dict[str, np.ndarray]) -> Branch | None:
    shared = {e: _shared_steps(_course(runs[e].config, courses), _course(run.config, courses)) for e in family}
    # past its last step, where the data ends, no run saves anything
    enough = {e: n for e, n in shared.items() if _LEAST_SHARED * run.config.steps <= n < run.last_step}
    usable = [e for e, n in enough.items() if runs[e].can_be_trunk(n)]
    return None if not usable else Branch(best := max(usable, key=enough.__getitem__), enough[best])


def _all_but_schedules(run: Candidate) -> str:
    """The same for runs that nothing but the schedules can tell apart."""
    what = identity(run.config, run.data_sha256)
    optimizer = {k: v for k, v in what["optimizer"].items() if k != "reset_at"}
    return digest({k: v for k, v in what.items() if k not in {"lr", "wd"}} | {"optimizer": optimizer})


def _course(config: RunConfig, known: dict[str, np.ndarray]) -> np.ndarray:
    """Learning rate, weight decay and whether the optimizer forgets, as each update uses them: steps x 3."""
    hidden_size, steps, lag = config.model.hidden_size, config.steps, config.schedule_lag
    reset_at_step = schedules.reset_step(config.optimizer.reset_at, steps, lag)
    size = "" if config.lr.reference_hidden_size is None else hidden_size
    key = f"{config.lr.model_dump_json()} {config.wd.model_dump_json()} {size} {steps} {lag} {reset_at_step}"
    if key not in known:
        lr, wd = schedules.applied_rates(config.lr, config.wd, steps, hidden_size, lag)
        known[key] = np.array([(lr(s), wd(s), s == reset_at_step) for s in range(1, steps + 1)])
    return known[key]


def _shared_steps(a: np.ndarray, b: np.ndarray) -> int:
    differs = (a != b).any(axis=1)
    # two that never part are the same run spelt twice
    return int(differs.argmax()) if differs.any() else 0


@dataclass(frozen=True)
class Beginning:
    """What a branch begins with: the trunk's checkpoint, what to note of it, and the sessions that it was trained in."""

    saved: Checkpoint
    began_as: dict[str, Any]
    sessions: list[dict[str, Any]]


def start_from_trunk(record: RunRecord, config: RunConfig, threads: int, device: str) -> Beginning | None:
    """Begin a run where its trunk left it, with the trunk's evaluations until there; None where it has to begin by itself.

    Args:
        threads, device: of this process; the trunk must have run with the same ones, since others give other last bits.
    """
    found = find_trunk(record)
    if found is None:
        return None
    from bitnet.training import checkpoint  # imports torch, which a controller does without

    trunk, branch = found
    known, saved = trunk.read(), None
    if (known.get("id"), known.get("threads"), known.get("device")) == (branch.get("id"), threads, device):
        with contextlib.suppress(OSError):  # gone in the meantime: another controller has tidied up
            path = kept_checkpoint(trunk, branch["step"])
            saved = None if path is None else checkpoint.read(path)
    if saved is None or saved.facts.get("id") != branch.get("id"):
        return None
    evaluated = evaluation_steps(branch["step"], config.eval_every)
    if rows_problem(trunk.metrics, evaluated, saved.facts.get("metrics_sha256")) is not None:
        return None
    write_atomically(record.metrics, _rewritten(rows_until(trunk.metrics, branch["step"]), config))
    sessions = [s | {"of": branch.get("id")} for s in known.get("sessions", []) if s.get("after_step", 0) < branch["step"]]
    return Beginning(saved, branch, sessions)


def _rewritten(rows: Sequence[Sequence[str]], config: RunConfig) -> str:
    """The trunk's rows as the branch writes them: the values that a step's schedules announce for the next one are its own."""
    own: Mapping[str, Callable[[int], float]] = {
        "LR": schedules.lr_schedule(config.lr, config.steps, config.model.hidden_size),
        "WD": schedules.wd_schedule(config.wd, config.steps),
    }
    written: list[Iterable[str]] = [COLUMNS]
    for row in rows:
        cells = dict(zip(COLUMNS, row, strict=True))
        step = int(cells["Step"])
        written.append((cells | {name: format_value(name, value(step)) for name, value in own.items()}).values())
    return csv_text(written)

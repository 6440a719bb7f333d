"""Crossed sweeps: which factors their runs cross completely, and what each of them does to the held-out loss."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from bitnet.analysis.factors import anova, contrasts, inert
from bitnet.analysis.frames import Records
from bitnet.common.errors import UserError
from bitnet.config.claims import ENOUGH_SEEDS, setting
from bitnet.runs.statuses import UNFINISHED
from bitnet.verdicts.evaluations import Evaluations
from bitnet.verdicts.selection import unlike

RESPONSE = "heldout_loss"

MOMENTS = {"boundary": "at the boundary", "end": "at the end"}


@dataclass(frozen=True)
class Effects:
    """What each factor of a crossed sweep does to the held-out loss at a moment.

    table, contrasts: of `analysis.factors`; None where `problem` says why not. seeds: of which every cell has a number; p only
    from `ENOUGH_SEEDS` of them on. spread: the standard deviation over the runs that were analysed, nats. lost: runs without a
    number there, by status; where one of them is over, nothing is computed. inert: factors that are left out, since runs that
    differ in them alone are the same run.
    """

    moment: str
    table: pd.DataFrame | None = None
    contrasts: pd.DataFrame | None = None
    seeds: int = 0
    spread: float = math.nan
    lost: Mapping[str, int] = field(default_factory=dict)
    problem: str | None = None
    inert: tuple[str, ...] = ()


# -------------------------------------------------------------------------------------------------------------- factors
def crossing(sweep: Mapping[str, Any], runs: pd.DataFrame) -> dict[str, list[str]]:
    """Levels of each factor of a sweep's grid (and `arm`, where it has several) as its runs have them, in the file's order.

    Only factors of two levels or more. Empty unless there are two of them and every combination has a run.
    """
    grid = dict(sweep.get("grid") or {})
    declared = ({"arm": list(sweep.get("arms") or {})} if len(sweep.get("arms") or {}) > 1 else {}) | grid
    if not grid or len(declared) < 2 or not len(runs):
        return {}
    levels = {}
    for factor, wanted in declared.items():
        there = list(dict.fromkeys(level_of(runs, factor)))
        order = [str(level) for level in wanted]
        levels[factor] = sorted(there, key=lambda level: order.index(level) if level in order else len(order))
    levels = {factor: there for factor, there in levels.items() if len(there) > 1}
    cells = set(zip(*(level_of(runs, factor) for factor in levels), strict=True)) if levels else set()
    whole = len(levels) > 1 and all(cell in cells for cell in itertools.product(*levels.values()))
    return levels if whole else {}


def level_of(runs: pd.DataFrame, factor: str) -> pd.Series:
    """Which level of a factor (a group, a dotted key, or `arm`) each run has, as text."""
    if factor == "arm":
        return runs["arm"].astype(str)
    pairs = zip(runs["choices"], runs["config"], strict=True)
    return pd.Series([str(setting(factor, *pair)) for pair in pairs], runs.index)


def effects_at(records: Records, factors: Mapping[str, list[str]], moment: str) -> Effects:
    """What each factor of a crossed sweep does to the held-out loss at `moment`, a key of `MOMENTS`."""
    runs, evaluations = records.runs, Evaluations(records.metrics)
    if moment == "boundary" and runs["boundary"].nunique() > 1:
        parts = ", ".join(f"{part:g}" for part in sorted(runs["boundary"].unique()))
        return Effects(moment, problem=f"Stage 2 begins at different fractions of the run ({parts}): there is no common moment")
    if (why := unlike({"the grid": runs}, RESPONSE)) is not None:
        return Effects(moment, problem=f"{why[0].upper()}{why[1:]}")
    values = [evaluations.value(run, RESPONSE, moment) for _, run in runs.iterrows()]
    table = pd.DataFrame({f: level_of(runs, f) for f in factors}, runs.index)
    table = table.assign(seed=runs["seed"], **{RESPONSE: pd.Series(values, runs.index, dtype="float64")})
    lost = runs["status"][table[RESPONSE].isna()].value_counts().to_dict()
    if over := ", ".join(f"{n} {status}" for status, n in lost.items() if status not in UNFINISHED):
        why = f"Some runs ended without this number ({over}); analysing only the others would bias the shares"
        return Effects(moment, lost=lost, problem=why)
    per_seed = table.groupby("seed")[RESPONSE]
    complete = per_seed.transform("count") == per_seed.size().max()
    table, seeds = table[complete], int(table["seed"][complete].nunique())
    idle = tuple(inert(table, RESPONSE, factors))
    acting = len(factors) - len(idle)
    order = acting - (seeds < 2)  # of one seed, the largest interaction has to serve as the error
    try:
        found = [anova(table, RESPONSE, factors, order=order)]
        found.append(contrasts(table, RESPONSE, factors))
        if seeds < ENOUGH_SEEDS:
            found = [part.assign(p=math.nan, p_holm=math.nan) for part in found]
        return Effects(moment, *found, seeds, float(table[RESPONSE].std()), lost, inert=idle)
    except UserError as error:
        return Effects(moment, seeds=seeds, lost=lost, problem=str(error), inert=idle)

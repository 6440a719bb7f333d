"""Experiments as they lie on disk, judged: what a sweep's folder declares, its own runs, and what they say to its claims.

A sweep is judged by the runs of its own folder. Read together with others, a run that several sweeps share is one row with
one arm's name; within its folder it has the arm that this sweep calls it by.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from bitnet import experiments, factors, tables, verdicts
from bitnet import runs as run_folders
from bitnet.claims import AnyClaim
from bitnet.collapse import NEEDED, run_facts
from bitnet.columns import COLUMNS, HOW, TEXT_NUMBERS
from bitnet.errors import UserError
from bitnet.evidence import Evaluations
from bitnet.published import value_at
from bitnet.runs import Records
from bitnet.verdicts import Verdict

# What is read of metrics.csv for tables, classes and curves; claims may add to it.
TEXT_COLUMNS = tuple(f"{how}_{name}" for how in HOW for name in TEXT_NUMBERS)
READ = tuple(dict.fromkeys([*tables.METRICS, *NEEDED, *TEXT_COLUMNS]))
RESPONSE = "heldout_loss"
MOMENTS = {"boundary": "at the boundary", "end": "at the end"}


@dataclass(frozen=True)
class Declaration:
    """What a sweep says of itself: the newest version in its folder.

    sweep: as in a run's configuration (`question`, `arms`, `grid`, `seeds`, `claims`). scale: its name, None for full.
    at: when this version was written, None where the folder has no `sweep.json`. late: claims that were added, changed or
    taken back after the first run began. notes: what a reader must know of it.
    """

    sweep: Mapping[str, Any]
    scale: str | None = None
    at: str | None = None
    late: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Effects:
    """What each factor of a crossed sweep does to the held-out loss at a moment.

    table, contrasts: of `bitnet.factors`; None where `problem` says why not. seeds: behind them. lost: runs without a number
    there, by status.
    """

    moment: str
    table: pd.DataFrame | None = None
    contrasts: pd.DataFrame | None = None
    seeds: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class Judged:
    """An experiment: its runs, and for a sweep what it claims, with a verdict each.

    folder: the sweep's, None for runs of no sweep. facts: `collapse.run_facts`. factors: levels by factor of a sweep whose
    runs cross two or more of them completely, else empty. problem: why its claims could not be judged.
    """

    name: str
    records: Records
    facts: pd.DataFrame
    folder: Path | None = None
    declaration: Declaration = Declaration({})
    claims: Mapping[str, AnyClaim] = field(default_factory=dict)
    verdicts: Sequence[Verdict] = ()
    factors: Mapping[str, list[str]] = field(default_factory=dict)
    problem: str | None = None

    @functools.cached_property
    def effects(self) -> list[Effects]:
        """What each factor does at the boundary (the first evaluation of stage 2) and at the end; empty without a crossing."""
        return [_effects(self, moment) for moment in MOMENTS] if self.factors else []


def judged(records: Records, directories: Sequence[Path]) -> list[Judged]:
    """Every experiment of `records`: sweeps by their folders, then runs of no sweep by the command that started them.

    Args:
        records: read with the columns `READ`.
        directories: where they were read from. The sweep of a run that was named alone is not judged by that one run.
    """
    if not len(records.runs):
        return []
    found = []
    for (folder, name), ids in _folders(records.runs).items():
        if any(folder.is_relative_to(d) for d in directories):
            found.append(_sweep(name, folder, ids, records))
        else:
            found.append(_plain(f"sweep {name}", records.of(ids)))
    twice = {e.name for i, e in enumerate(found) if e.name in {other.name for other in found[:i]}}
    found = [replace(e, name=f"{e.name} in {e.folder}") if e.name in twice else e for e in found]
    free = records.runs[records.runs["sweeps"].map(len) == 0]
    for name, ids in (experiments.experiments(free) if len(free) else {}).items():
        found.append(_plain(name, records.of(ids)))
    return found


def _folders(runs: pd.DataFrame) -> dict[tuple[Path, str], list[str]]:
    """Ids of the runs in each sweep's folder, by that and the sweep's name."""
    found: dict[tuple[Path, str], list[str]] = {}
    for run, places in zip(runs["id"], runs["places"], strict=True):
        for place, sweep in places:
            if sweep is not None:
                path = Path(place) if Path(place).name else Path(place).absolute()  # "." has no parent of another name
                found.setdefault((path.parent, sweep), []).append(run)
    return found


def _plain(name: str, records: Records) -> Judged:
    """Runs that no claim is judged by."""
    return Judged(name, records, run_facts(records.runs, records.metrics))


def _sweep(name: str, folder: Path, ids: list[str], records: Records) -> Judged:
    shared = records.runs.loc[ids]
    declaration = declared(folder, shared)
    try:
        claims, problem = verdicts.parse(declaration.sweep), None
    except UserError as error:
        claims, problem = {}, str(error)
    columns = [c for c in dict.fromkeys([*READ, *verdicts.columns(claims)]) if c in COLUMNS]
    alone = not shared["also_in"].map(len).any() and set(columns) <= set(records.metrics.columns)
    own = records.of(ids) if alone else _only(run_folders.read([folder], columns), name)
    facts = run_facts(own.runs, own.metrics)
    found = verdicts.judge(declaration.sweep, own.runs, own.metrics, facts) if claims else []
    late = "declared or changed after the first run began"
    found = [replace(v, warnings=(late, *v.warnings)) if v.claim in declaration.late else v for v in found]
    crossed = crossing(declaration.sweep, own.runs)
    return Judged(f"sweep {name}", own, facts, folder, declaration, claims, found, crossed, problem)


def _only(records: Records, sweep: str) -> Records:
    runs = records.runs
    return records.of(list(runs.index[runs["sweep"] == sweep]))


# ---------------------------------------------------------------------------------------------------------- declaration
def declared(folder: Path, runs: pd.DataFrame) -> Declaration:
    """The newest version of what the sweep in `folder` declares; without one, what its newest run was frozen with.

    Args:
        runs: of `bitnet.runs.Records`, those in the folder.
    """
    versions, problem = _versions(folder / "sweep.json")
    if not versions:
        return _frozen(runs, problem)
    newest = versions[-1]
    began = pd.to_datetime(runs["started"], errors="coerce", format="ISO8601", utc=True).min()
    late: dict[str, None] = {}
    for before, after in itertools.pairwise(versions):
        if pd.notna(began) and pd.to_datetime(after.get("at"), errors="coerce", format="ISO8601", utc=True) > began:
            late |= dict.fromkeys(_differing(_claims(before), _claims(after)))
    notes = []
    if late:
        notes.append(
            f"claims changed after the first run began ({began.isoformat()}): {', '.join(late)}. The newest version, of "
            f"{newest.get('at')}, is judged; sweep.json keeps all {len(versions)}"
        )
    scale = newest.get("scale")
    return Declaration(newest["sweep"], scale, newest.get("at"), tuple(late), tuple(notes))


def _versions(path: Path) -> tuple[list[dict[str, Any]], str | None]:
    """What `sweep.json` holds, oldest first, and what is wrong with it."""
    try:
        versions = json.loads(path.read_text(encoding="utf-8"))["declared"]
        if all(isinstance(version["sweep"], dict) for version in versions):
            return list(versions), None
        return [], "sweep.json does not hold what a sweep declares"
    except FileNotFoundError:
        return [], "no sweep.json"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [], f"sweep.json can't be read ({type(error).__name__})"


def _frozen(runs: pd.DataFrame, problem: str | None) -> Declaration:
    """What the run that began last was frozen with."""
    order = runs.assign(began=runs["started"].fillna("").astype(str)).sort_values("began", kind="stable")
    copies = [config["sweep"] for config in order["config"] if isinstance(config.get("sweep"), dict)]
    if not copies:
        return Declaration({})
    notes = [f"{problem}: the claims are those that the newest run was frozen with"] if copies[-1].get("claims") else []
    if any(_differing(c.get("claims") or {}, copies[-1].get("claims") or {}) for c in copies):
        notes.append("its runs were frozen with different claims")
    scale = value_at(order["config"].iloc[-1], "scale.name")
    return Declaration(copies[-1], scale if isinstance(scale, str) else None, notes=tuple(notes))


def _claims(version: Mapping[str, Any]) -> Mapping[str, Any]:
    return version["sweep"].get("claims") or {}


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [name for name in dict.fromkeys([*after, *before]) if before.get(name) != after.get(name)]


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
    return pd.Series([str(c[factor] if factor in c else value_at(config, factor)) for c, config in pairs], runs.index)


def _effects(experiment: Judged, moment: str) -> Effects:
    runs, evaluations = experiment.records.runs, Evaluations(experiment.records.metrics)
    values = [evaluations.value(run, RESPONSE, moment) for _, run in runs.iterrows()]
    table = pd.DataFrame({f: level_of(runs, f) for f in experiment.factors}, runs.index)
    table = table.assign(seed=runs["seed"], **{RESPONSE: pd.Series(values, runs.index, dtype="float64")})
    lost = runs["status"][table[RESPONSE].isna()].value_counts().to_dict()
    whole = table.dropna(subset=[RESPONSE])
    seeds = int(whole["seed"].nunique())
    order = len(experiment.factors) - (seeds < 2)  # of one seed, the largest interaction has to serve as the error
    try:
        shares = factors.anova(table, RESPONSE, experiment.factors, order=order)
        return Effects(moment, shares, factors.contrasts(table, RESPONSE, experiment.factors), seeds, lost)
    except UserError as error:
        return Effects(moment, seeds=seeds, lost=lost, problem=str(error))


# --------------------------------------------------------------------------------------------------------------- labels
def arm_names(experiment: Judged) -> pd.Series:
    """A name for each arm, by arm_id: the levels of a crossing, the sweep's own name for it, or what it was given."""
    runs = experiment.records.runs
    first = runs.drop_duplicates("arm_id").set_index("arm_id")
    given = tables.arms(runs)["arm"]
    if experiment.factors:
        levels = {f: level_of(first, f) for f in experiment.factors}
        order = sorted(first.index, key=lambda arm: [experiment.factors[f].index(levels[f][arm]) for f in levels])
        names = pd.Series({arm: ", ".join(f"{f}={of[arm]}" for f, of in levels.items()) for arm in order}, dtype="object")
        given = given.reindex(order)
    else:
        names = first["arm"].fillna("").astype(str).reindex(given.index)
        if len(names) > 1 and names.nunique() == 1:
            return given  # one arm along a grid: its name tells nothing apart
    names = names.mask(names == "", given)
    return names.mask(names.duplicated(keep=False), names + ": " + given)

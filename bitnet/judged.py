"""Experiments as they lie on disk, judged: what a sweep's folder declares, its own runs, and what they say to its claims.

A sweep is judged by the runs of its own folder. Read together with others, a run that several sweeps share is one row with
one arm's name; within its folder it has the arm that this sweep calls it by. Runs of another scale, length or text lie in the
same folder, or with other overrides that were typed beside the sweep's own, and are never averaged with the others: each kind
is judged by itself.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from bitnet import experiments, factors, tables, verdicts
from bitnet import runs as run_folders
from bitnet.claims import ENOUGH_SEEDS, AnyClaim, setting
from bitnet.collapse import NEEDED, run_facts
from bitnet.columns import COLUMNS, HOW, TEXT_NUMBERS
from bitnet.declared import Declaration, declared, frozen, versions
from bitnet.errors import UserError
from bitnet.evidence import ALIKE, NOT_OVER, Evaluations, varies
from bitnet.keys import is_decisive
from bitnet.runs import Records
from bitnet.verdicts import Verdict

# What is read of metrics.csv for tables, classes and curves; claims may add to it.
TEXT_COLUMNS = tuple(f"{how}_{name}" for how in HOW for name in TEXT_NUMBERS)
READ = tuple(dict.fromkeys([*tables.METRICS, *NEEDED, *TEXT_COLUMNS]))
RESPONSE = "heldout_loss"
MOMENTS = {"boundary": "at the boundary", "end": "at the end"}
_LATE = "declared or changed after the first run began"
_KNOWN = "declared when results of some of its runs existed: they were taken over from another sweep"


@dataclass(frozen=True)
class Effects:
    """What each factor of a crossed sweep does to the held-out loss at a moment.

    table, contrasts: of `bitnet.factors`; None where `problem` says why not. seeds: of which every cell has a number; p only
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


@dataclass(frozen=True)
class Judged:
    """An experiment: its runs, and for a sweep what it claims, with a verdict each.

    folder: the sweep's, None for runs of no sweep. facts: `collapse.run_facts`. factors: levels by factor of a sweep whose
    runs cross two or more of them completely, else empty. problem: why its claims could not be judged. kind: scale, length,
    data and overrides of its runs as far as they set them apart from others of the folder. leading: whether its verdicts are the
    sweep's.
    """

    name: str
    records: Records
    facts: pd.DataFrame
    folder: Path | None = None
    declaration: Declaration = field(default_factory=lambda: Declaration({}))
    claims: Mapping[str, AnyClaim] = field(default_factory=dict)
    verdicts: Sequence[Verdict] = ()
    factors: Mapping[str, list[str]] = field(default_factory=dict)
    problem: str | None = None
    kind: str = ""
    leading: bool = True

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
            found += _sweep(name, folder, ids, records)
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


def _sweep(name: str, folder: Path, ids: list[str], records: Records) -> list[Judged]:
    """A sweep, and after it those of its runs that are of another scale, length, data or override, each kind by itself."""
    shared = records.runs.loc[ids]
    sweeps = [version["sweep"] for version in versions(folder)[0]] or frozen(shared)
    columns = [c for c in dict.fromkeys([*READ, *_named(sweeps)]) if c in COLUMNS]
    alone = not shared["also_in"].map(len).any() and set(columns) <= set(records.metrics.columns)
    own = records.of(ids) if alone else _only(run_folders.read([folder], columns), name)
    kinds = _kinds(own.runs, sweeps[-1] if sweeps else {})
    inside = [Path(place).parent == folder for place in records.unreadable["folder"]]
    lost = records.unreadable.loc[pd.Series(inside, records.unreadable.index, dtype="bool")]
    parts = {label: replace(own.of(of), unreadable=lost) for label, of in kinds.items()}
    found = [_kind(f"sweep {name}", folder, part, label) for label, part in parts.items()]
    if len(found) < 2:
        return found
    leader, *others = found
    apart = ", ".join(f"{_many(len(e.records.runs))} of {e.kind}" for e in others)
    note = f"judged are the {_many(len(leader.records.runs))} of {leader.kind}; this folder also holds {apart}, judged apart"
    others = [replace(e, name=f"{e.name} ({e.kind})", leading=False) for e in others]
    return [replace(leader, declaration=replace(leader.declaration, notes=(*leader.declaration.notes, note))), *others]


def _many(n: int) -> str:
    return f"{n} run{'s' * (n != 1)}"


def _named(sweeps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Columns that the claims of any version need; of a version that can't be read, none."""
    different: list[Mapping[str, Any]] = []
    different += [sweep for sweep in sweeps if sweep not in different]
    names: list[str] = []
    for sweep in different:
        with contextlib.suppress(UserError):  # said where the version is judged
            names += verdicts.columns(verdicts.parse(sweep))
    return names


def _kind(name: str, folder: Path, own: Records, kind: str) -> Judged:
    """Runs of a sweep that belong together, and what they say to its claims."""
    declaration = declared(folder, own.runs)
    try:
        claims, problem = verdicts.parse(declaration.sweep), None
    except UserError as error:
        claims, problem = {}, str(error)
    facts = run_facts(own.runs, own.metrics)
    found = verdicts.judge(declaration.sweep, own.runs, own.metrics, facts) if claims else []
    if len(own.unreadable):
        why = _unreadable(own.unreadable)
        found = [v if v.why.startswith(verdicts.NOT_YET) else replace(v, word="inconclusive", why=why) for v in found]
    for names, remark in ((declaration.known, _KNOWN), (declaration.late, _LATE)):
        found = [replace(v, warnings=(remark, *v.warnings)) if v.claim in names else v for v in found]
    crossed = crossing(declaration.sweep, own.runs)
    return Judged(name, own, facts, folder, declaration, claims, found, crossed, problem, kind)


def _unreadable(lost: pd.DataFrame) -> str:
    first, more = lost.iloc[0], "" if len(lost) < 2 else f", and {len(lost) - 1} more"
    said = f"{Path(first['folder']).name} ({first['reason']}){more}"
    return f"a run can't be read: {said}. To judge by the others would select by what was lost; mend, repeat or remove it"


def _only(records: Records, sweep: str) -> Records:
    runs = records.runs
    return records.of(list(runs.index[runs["sweep"] == sweep]))


# ------------------------------------------------------------------------------------------------- runs that belong together
def _kinds(runs: pd.DataFrame, sweep: Mapping[str, Any]) -> dict[str, list[str]]:
    """Ids of the runs of each scale, data, length and set of typed overrides, unless the sweep's arms vary or its claims name it.

    First the kind of which most arms have a run that is done; then the largest scale; within one, that which follows the sweep's
    file closest, then that of most runs.
    """
    keys = [o.partition("=")[0] for text in (sweep.get("arms") or {}).values() for o in shlex.split(text)]
    keys += sweep.get("grid") or {}
    claims = sweep.get("claims")
    for claim in claims.values() if isinstance(claims, Mapping) else ():
        sides = claim.values() if isinstance(claim, Mapping) else ()
        keys += [key for side in sides if isinstance(side, Mapping) for key in side]
    runs = runs.join(_typed(runs, keys))
    runs = runs.assign(size=runs["steps"] * runs["tokens_per_step"] * runs["hidden_size"] ** 2)
    runs["scale_size"] = runs.groupby(runs["scale"].fillna(""))["size"].transform("max")
    fixed = ["scale", *(column for column, (_, own) in ALIKE.items() if not varies(keys, own)), "typed"]
    of = runs[fixed].astype("object").where(runs[fixed].notna(), None)
    groups: dict[tuple[Any, ...], list[str]] = {}
    for run, kind in zip(runs.index, of.itertuples(index=False, name=None), strict=True):
        groups.setdefault(kind, []).append(run)
    ordered = sorted(groups.items(), key=lambda item: _weight(runs.loc[item[1]]), reverse=True)
    differing = [i for i in range(len(fixed)) if len({kind[i] for kind in groups}) > 1]
    return {", ".join(_label(fixed[i], kind[i]) for i in differing): ids for kind, ids in ordered}


def _typed(runs: pd.DataFrame, own: Sequence[str]) -> pd.DataFrame:
    """`typed`: each run's values of the keys that some run was given beside those of the sweep's file (`own`), where they
    differ and can change a result. `beside`: how many such keys, and the length, the run itself was given."""
    given = [{o.partition("=")[0].lstrip("+~") for o in overrides} for overrides in runs["overrides"]]
    decisive = {key for key in set().union(*given) - {*own, "seed", "scale"} if is_decisive(key)}
    of = {key: level_of(runs, key) for key in sorted(decisive - {"steps"})}
    differing = {key: values for key, values in of.items() if values.nunique() > 1}
    texts = [" ".join(f"{key}={values[run]}" for key, values in differing.items()) for run in runs.index]
    return pd.DataFrame({"typed": texts, "beside": [len(keys & decisive) for keys in given]}, runs.index)


def _weight(runs: pd.DataFrame) -> tuple[int, float, int, int, float, str]:
    """What orders kinds: how many arms have a run that is done; about how much the largest run of this scale computes; how few
    overrides were typed beside the sweep's file; how many runs are done; the largest of these; when the last began."""
    done = runs["arm_id"][runs["status"] == "done"]
    began = runs["started"].fillna("").astype(str).max()
    return done.nunique(), runs["scale_size"].max(), -runs["beside"].min(), len(done), runs["size"].max(), began


def _label(column: str, value: Any) -> str:
    if column == "steps":
        return f"{value:,.0f} steps"
    if column == "scale":
        return "no scale" if value is None else f"scale={value}"
    return str(value) if column == "typed" else f"data {str(value)[:10]}"


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


def _effects(experiment: Judged, moment: str) -> Effects:
    runs, evaluations = experiment.records.runs, Evaluations(experiment.records.metrics)
    if moment == "boundary" and runs["boundary"].nunique() > 1:
        parts = ", ".join(f"{part:g}" for part in sorted(runs["boundary"].unique()))
        return Effects(moment, problem=f"Stage 2 begins at different parts of the run ({parts} of its steps): no one moment")
    values = [evaluations.value(run, RESPONSE, moment) for _, run in runs.iterrows()]
    table = pd.DataFrame({f: level_of(runs, f) for f in experiment.factors}, runs.index)
    table = table.assign(seed=runs["seed"], **{RESPONSE: pd.Series(values, runs.index, dtype="float64")})
    lost = runs["status"][table[RESPONSE].isna()].value_counts().to_dict()
    if over := ", ".join(f"{n} {status}" for status, n in lost.items() if status not in NOT_OVER):
        why = f"runs without this number are over ({over}): shares of the others would select by the outcome"
        return Effects(moment, lost=lost, problem=why)
    per_seed = table.groupby("seed")[RESPONSE]
    complete = per_seed.transform("count") == per_seed.size().max()
    table, seeds = table[complete], int(table["seed"][complete].nunique())
    inert = tuple(factors.inert(table, RESPONSE, experiment.factors))
    acting = len(experiment.factors) - len(inert)
    order = acting - (seeds < 2)  # of one seed, the largest interaction has to serve as the error
    try:
        found = [factors.anova(table, RESPONSE, experiment.factors, order=order)]
        found.append(factors.contrasts(table, RESPONSE, experiment.factors))
        if seeds < ENOUGH_SEEDS:
            found = [part.assign(p=math.nan, p_holm=math.nan) for part in found]
        return Effects(moment, *found, seeds, float(table[RESPONSE].std()), lost, inert=inert)
    except UserError as error:
        return Effects(moment, seeds=seeds, lost=lost, problem=str(error), inert=inert)


# --------------------------------------------------------------------------------------------------------------- labels
def arm_names(experiment: Judged) -> pd.Series:
    """A name for each arm, by arm_id: the levels of a crossing, else as `tables.arms` has it."""
    runs = experiment.records.runs
    names = tables.arms(runs)["arm"]
    if not experiment.factors:
        return names
    first = runs.drop_duplicates("arm_id").set_index("arm_id")
    levels = {f: level_of(first, f) for f in experiment.factors}
    order = sorted(first.index, key=lambda arm: [experiment.factors[f].index(levels[f][arm]) for f in levels])
    crossed = pd.Series({arm: ", ".join(f"{f}={of[arm]}" for f, of in levels.items()) for arm in order}, dtype="object")
    return crossed.mask(crossed.duplicated(keep=False), crossed + ": " + names.reindex(order))

"""Experiments as they lie on disk: the runs that belong together, what their sweep's folder declares, and what they say to it.

Tables and claims are about the same experiments (`experiments_in`), so that both count the same runs.

A sweep is judged by the runs of its own folder. Read together with others, a run that several sweeps share is one row with
one arm's name; within its folder it has the arm that this sweep calls it by. Runs of another scale, length or text lie in the
same folder, or with other overrides that were typed beside the sweep's own, and are never averaged with the others: each kind
is judged by itself.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from bitnet.analysis import frames, grouping, tables
from bitnet.analysis.collapse import NEEDED, run_facts
from bitnet.analysis.frames import Records
from bitnet.common.errors import UserError
from bitnet.common.text import counted, format_list
from bitnet.config.claims import AnyClaim
from bitnet.runs.columns import COLUMNS, HOW, TEXT_NUMBERS
from bitnet.verdicts import verdict
from bitnet.verdicts.crossing import MOMENTS, Effects, crossing, effects_at, level_of
from bitnet.verdicts.declaration import Declaration, declared_versions, frozen_sweeps, read_declaration
from bitnet.verdicts.kinds import kinds_of_runs
from bitnet.verdicts.selection import NOT_YET
from bitnet.verdicts.verdict import Verdict

# What is read of metrics.csv for tables, classes and curves; claims may add to it.
TEXT_COLUMNS = tuple(f"{how}_{name}" for how in HOW for name in TEXT_NUMBERS)

READ = tuple(dict.fromkeys([*tables.METRICS, *NEEDED, *TEXT_COLUMNS]))

_LATE = "declared or changed after the first run began"

_KNOWN = "declared when some of its runs already had results, taken from another sweep"

_LOOKING = "adding seeds until a claim holds makes a false verdict likelier (docs/error_rates.md)"


@dataclass(frozen=True)
class Experiment:
    """An experiment: its runs, and for a sweep what it claims, with a verdict each.

    sweep: the sweep's name, None for runs of no sweep. folder: the sweep's, None where no claim is judged. facts:
    `collapse.run_facts`. factors: levels by factor of a sweep whose runs cross two or more of them completely, else empty.
    problem: why its claims could not be judged. kind: scale, length, data and overrides of its runs as far as they set them
    apart from others of the folder. leading: whether its verdicts are the sweep's.
    """

    name: str
    records: Records
    facts: pd.DataFrame
    sweep: str | None = None
    folder: Path | None = None
    declaration: Declaration = field(default_factory=lambda: Declaration({}))
    claims: Mapping[str, AnyClaim] = field(default_factory=dict)
    verdicts: Sequence[Verdict] = ()
    factors: Mapping[str, list[str]] = field(default_factory=dict)
    problem: str | None = None
    kind: str = ""
    leading: bool = True

    @property
    def title(self) -> str:
        """What it is called whatever its folder and kind: a sweep's experiments share one set of tables."""
        return self.name if self.sweep is None else f"sweep {self.sweep}"

    def lies_in(self, directory: Path) -> bool:
        """Whether one of its runs' folders is below `directory`."""
        places = (place for of in self.records.runs["places"] for place in of)
        return any(sweep == self.sweep and Path(folder).is_relative_to(directory) for folder, sweep in places)

    @functools.cached_property
    def effects(self) -> list[Effects]:
        """What each factor does at the boundary (the first evaluation of stage 2) and at the end; empty without a crossing."""
        return [effects_at(self.records, self.factors, moment) for moment in MOMENTS] if self.factors else []


def experiments_in(records: Records, directories: Sequence[Path]) -> list[Experiment]:
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
            found.append(_plain(f"sweep {name}", records.of(ids), name))
    twice = {e.name for i, e in enumerate(found) if e.name in {other.name for other in found[:i]}}
    found = [replace(e, name=f"{e.name} in {e.folder}") if e.name in twice else e for e in found]
    free = records.runs[records.runs["sweeps"].map(len) == 0]
    found += [_plain(name, records.of(ids)) for name, ids in grouping.group_by_command(free).items()]
    return found


def experiments_by_table(experiments: Sequence[Experiment], directories: Sequence[Path]) -> dict[str, list[Experiment]]:
    """The experiments that one set of tables is about, by its title: each sweep by itself, or all together.

    Directories that hold one experiment each were named in order to compare them, so their runs share one set of tables.
    """
    found: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        found.setdefault(experiment.title, []).append(experiment)
    held = [{e.title for e in experiments if e.lies_in(directory)} for directory in directories]
    return {" + ".join(found): list(experiments)} if all(len(titles) <= 1 for titles in held) else found


def records_of(experiments: Sequence[Experiment], records: Records) -> Records:
    """The runs of some experiments, each once, in the order of `records`.

    A run that several sweeps share is called by the arm's name of the only experiment where there is one.
    """
    if len(experiments) == 1:
        return experiments[0].records
    ids = {run for e in experiments for run in e.records.runs.index}
    return records.of([run for run in records.runs.index if run in ids])


def _folders(runs: pd.DataFrame) -> dict[tuple[Path, str], list[str]]:
    """Ids of the runs in each sweep's folder, by that and the sweep's name."""
    found: dict[tuple[Path, str], list[str]] = {}
    for run, places in zip(runs["id"], runs["places"], strict=True):
        for place, sweep in places:
            if sweep is not None:
                path = Path(place) if Path(place).name else Path(place).absolute()  # "." has no parent of another name
                found.setdefault((path.parent, sweep), []).append(run)
    return found


def _plain(name: str, records: Records, sweep: str | None = None) -> Experiment:
    """Runs that no claim is judged by."""
    return Experiment(name, records, run_facts(records.runs, records.metrics), sweep)


def _sweep(name: str, folder: Path, ids: list[str], records: Records) -> list[Experiment]:
    """A sweep, and after it those of its runs that are of another scale, length, data or override, each kind by itself."""
    shared = records.runs.loc[ids]
    sweeps = [version["sweep"] for version in declared_versions(folder)[0]] or frozen_sweeps(shared)
    columns = [c for c in dict.fromkeys([*READ, *_named(sweeps)]) if c in COLUMNS]
    alone = not shared["also_in"].map(len).any() and set(columns) <= set(records.metrics.columns)
    own = records.of(ids) if alone else _only(frames.read_runs([folder], columns), name)
    kinds = kinds_of_runs(own.runs, sweeps[-1] if sweeps else {})
    inside = [Path(place).parent == folder for place in records.unreadable["folder"]]
    lost = records.unreadable.loc[pd.Series(inside, records.unreadable.index, dtype="bool")]
    parts = {label: replace(own.of(of), unreadable=lost) for label, of in kinds.items()}
    found = [_kind(name, folder, part, label) for label, part in parts.items()]
    if len(found) < 2:
        return found
    leader, *others = found
    apart = ", ".join(f"{counted(len(e.records.runs), 'run')} with {e.kind}" for e in others)
    own_runs = counted(len(leader.records.runs), "run")
    note = f"judged here: {own_runs} with {leader.kind}; this folder also holds {apart}, judged separately"
    others = [replace(e, name=f"{e.name} ({e.kind})", leading=False) for e in others]
    return [replace(leader, declaration=replace(leader.declaration, notes=(*leader.declaration.notes, note))), *others]


def _named(sweeps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Columns that the claims of any version need; of a version that can't be read, none."""
    different: list[Mapping[str, Any]] = []
    different += [sweep for sweep in sweeps if sweep not in different]
    names: list[str] = []
    for sweep in different:
        with contextlib.suppress(UserError):  # said where the version is judged
            names += verdict.columns(verdict.parse(sweep))
    return names


def _kind(sweep: str, folder: Path, own: Records, kind: str) -> Experiment:
    """Runs of a sweep that belong together, and what they say to its claims."""
    declaration = read_declaration(folder, own.runs)
    try:
        claims, problem = verdict.parse(declaration.sweep), None
    except UserError as error:
        claims, problem = {}, str(error)
    facts = run_facts(own.runs, own.metrics)
    found = verdict.judge(declaration.sweep, own.runs, own.metrics, facts) if claims else []
    if len(own.unreadable):
        why = _unreadable(own.unreadable)
        found = [v if v.why.startswith(NOT_YET) else replace(v, word="inconclusive", why=why) for v in found]
    for names, remark in ((declaration.known, _KNOWN), (declaration.late, _LATE)):
        found = [replace(v, warnings=(remark, *v.warnings)) if v.claim in names else v for v in found]
    found = [_looked_at_before(v, declaration.added) for v in found]
    crossed = crossing(declaration.sweep, own.runs)
    return Experiment(f"sweep {sweep}", own, facts, sweep, folder, declaration, claims, found, crossed, problem, kind)


def _looked_at_before(found: Verdict, added: Mapping[int, int]) -> Verdict:
    """A verdict with a warning where it rests on seeds that were added when others had results."""
    used = set().union(*found.sides.values()) if found.sides is not None else set(added)
    later = sorted(used & set(added))
    if not later or not found.n:
        return found
    known = counted(max(added[seed] for seed in later), "run")
    warning = f"{format_list('seed', later)} added when {known} of this sweep had results: {_LOOKING}"
    return replace(found, warnings=(warning, *found.warnings))


def _unreadable(lost: pd.DataFrame) -> str:
    first, more = lost.iloc[0], "" if len(lost) < 2 else f", and {len(lost) - 1} more"
    said = f"{Path(first['folder']).name} ({first['reason']}){more}"
    return f"a run can't be read: {said}. Judging by the remaining runs would bias the verdict; repair, repeat or remove it"


def _only(records: Records, sweep: str) -> Records:
    runs = records.runs
    return records.of(list(runs.index[runs["sweep"] == sweep]))


# --------------------------------------------------------------------------------------------------------------- labels
def arm_names(experiment: Experiment) -> pd.Series:
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

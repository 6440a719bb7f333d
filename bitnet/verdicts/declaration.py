"""What a sweep said of itself before its runs: the claims of `sweep.json`, since when each stands, and what was known by then."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from bitnet.common.text import format_list
from bitnet.config.base import ConfigModel
from bitnet.config.claims import measured
from bitnet.config.messages import misfit
from bitnet.config.sweep import SweepConfig, judged_apart
from bitnet.runs.reading import Unreadable, read_json_mapping

_Versions = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Declaration:
    """What a sweep says of itself: the newest version in its folder, at the scale of the runs that are judged.

    sweep: as in a run's configuration (`question`, `arms`, `grid`, `seeds`, `claims`). scale: its name, None for none.
    at: when this version was written, None where the folder has no `sweep.json`. late: claims that were added, changed or
    taken back after the first of the runs began; other words for the same claim are no change. known: claims that are younger
    than results which the sweep took over from another one. added: seeds that are younger than results of other seeds of the
    sweep, by how many runs had finished when each was added. notes: what a reader must know of it.
    """

    sweep: Mapping[str, Any]
    scale: str | None = None
    at: str | None = None
    late: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    added: Mapping[int, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class _Version(ConfigModel):
    """One of the versions in `sweep.json`."""

    at: str | None = None
    sweep: SweepConfig
    scale: str | None = None


def declared_versions(folder: Path) -> tuple[list[dict[str, Any]], str | None]:
    """What the `sweep.json` of a folder holds, oldest first, and what is wrong with it."""
    try:
        found = read_json_mapping(folder / "sweep.json").get("declared")
    except Unreadable as error:
        return [], str(error)
    wrong = [_wrong(version) for version in found] if isinstance(found, list) and found else ["it declares nothing"]
    problem = next(filter(None, wrong), None)
    return ([], f"sweep.json: {problem}") if problem else (found, None)


def _wrong(version: Any) -> str | None:
    """Why this is no version of a sweep's declaration, None when it is one."""
    if not isinstance(version, dict) or not isinstance(version.get("sweep"), dict):
        return "a version in it is no sweep"
    return misfit(_Version, version | {"sweep": judged_apart(version["sweep"])}, lambda prefix: set())


def frozen_sweeps(runs: pd.DataFrame) -> list[Mapping[str, Any]]:
    """What runs were frozen with, the newest last."""
    order = runs.assign(began=runs["started"].fillna("").astype(str)).sort_values("began", kind="stable")
    return [config["sweep"] for config in order["config"] if isinstance(config.get("sweep"), dict)]


def read_declaration(folder: Path, runs: pd.DataFrame) -> Declaration:
    """What the sweep in `folder` declares for `runs`; without a `sweep.json`, what the newest of them was frozen with.

    Args:
        runs: of one scale, as of `bitnet.analysis.frames.Records.runs`.
    """
    every, problem = declared_versions(folder)
    scale = runs["scale"].iloc[0] if len(runs) else None
    if not every:
        return _frozen(runs, scale, problem)
    own = [version for version in every if version.get("scale") == scale] or every
    newest = own[-1]
    since = {name: _stands_since(own, name) for name in _claims(newest)}
    taken = runs["taken_from"].notna()
    began = _times(runs["started"][~taken]).min()
    late = [name for name, at in since.items() if at > began]
    late += [name for name, at in _taken_back(own).items() if at > began]
    finished = _times(runs["finished"][taken])
    known = {name: n for name, at in since.items() if (n := int((finished < at).sum()))}
    notes = []
    if late:
        different = [v for i, v in enumerate(own) if i == 0 or _claims(v) != _claims(own[i - 1])]
        notes.append(
            f"claims added, changed or withdrawn after the first run began ({began.isoformat()}): {', '.join(late)}. The newest "
            f"version ({different[-1].get('at')}) is the one judged; sweep.json keeps every version ({len(different)})"
        )
    added = _added(own, runs[~taken])
    if added:
        listed = format_list("seed", list(added))
        notes.append(f"{listed} added after the first run had ended: if results prompted this, the intervals are too narrow")
    if known:
        notes.append(
            f"{max(known.values())} of {len(runs)} runs had already finished in another sweep when these claims were declared: "
            f"{', '.join(known)}"
        )
    return Declaration(newest["sweep"], scale, newest.get("at"), tuple(late), tuple(known), added, tuple(notes))


def _frozen(runs: pd.DataFrame, scale: str | None, problem: str | None) -> Declaration:
    copies, added = frozen_sweeps(runs), _added([], runs[runs["taken_from"].isna()])
    if not copies:
        return Declaration({}, scale, added=added)
    notes = [f"{problem}: the claims are taken from the newest run's own configuration"] if copies[-1].get("claims") else []
    if any(_measured(c) != _measured(copies[-1]) for c in copies):
        notes.append("the runs' own configurations hold different claims")
    return Declaration(copies[-1], scale, added=added, notes=tuple(notes))


def _stands_since(every: _Versions, name: str) -> pd.Timestamp:
    """When a claim was first declared as the newest version has it, and was never changed again."""
    since = every[-1]
    for version in reversed(every):
        if _claims(version).get(name) != _claims(every[-1])[name]:
            break
        since = version
    return _time(since)


def _taken_back(every: _Versions) -> dict[str, pd.Timestamp]:
    """Claims that the newest version lacks, and when they were last taken out."""
    gone: dict[str, pd.Timestamp] = {}
    for before, after in itertools.pairwise(every):
        gone |= {name: _time(after) for name in _claims(before) if name not in _claims(after)}
    return {name: at for name, at in gone.items() if name not in _claims(every[-1])}


def _added(every: _Versions, runs: pd.DataFrame) -> dict[int, int]:
    """Seeds that were first declared, and first frozen, when runs of other seeds had finished, and how many of these had."""
    since, finished = _seeds_since(every), _times(runs["finished"])
    found = {}
    for seed, created in _times(runs["created"]).groupby(runs["seed"].astype(int)).min().items():
        known_since = min((at for at in (created, since.get(seed)) if not pd.isna(at)), default=pd.NaT)
        if n := int((finished[runs["seed"] != seed] < known_since).sum()):
            found[seed] = n
    return found


def _seeds_since(every: _Versions) -> dict[int, pd.Timestamp]:
    """Each seed that a version names, and when it was first named."""
    since: dict[int, pd.Timestamp] = {}
    for version in every:
        for seed in version["sweep"].get("seeds") or []:
            since.setdefault(seed, _time(version))
    return since


def _claims(version: Mapping[str, Any]) -> dict[str, Any]:
    """What a version's claims measure, by name."""
    return _measured(version["sweep"])


def _measured(sweep: Mapping[str, Any]) -> dict[str, Any]:
    claims = sweep.get("claims")
    written = claims if isinstance(claims, Mapping) else {}  # what is no claim is said where claims are judged
    return {name: measured(claim) if isinstance(claim, Mapping) else claim for name, claim in written.items()}


def _time(version: Mapping[str, Any]) -> pd.Timestamp:
    """When a version was written, NaT where it does not say."""
    return pd.to_datetime(version.get("at"), errors="coerce", format="ISO8601", utc=True)


def _times(texts: pd.Series) -> pd.Series:
    return pd.to_datetime(texts, errors="coerce", format="ISO8601", utc=True)

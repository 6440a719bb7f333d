"""Which runs belong together: those of one sweep, or of one command.

Tables over runs that were started to answer different questions compare what nobody meant to compare.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

ONE_BY_ONE = "runs started one by one"


def group_runs(runs: pd.DataFrame) -> dict[str, list[str]]:
    """Ids of the runs of each experiment, by its name, in the order of `runs` (those of `bitnet.analysis.frames.Records`).

    A run of named sweeps belongs to each of them. Runs of no sweep belong together when one command started them, or when
    their commands share an arm: seeds that were added later join the earlier ones. What is alone then stands with the
    others that are alone.
    """
    found: dict[str, list[str]] = {}
    for run, sweeps in zip(runs["id"], runs["sweeps"], strict=True):
        for sweep in sweeps:
            found.setdefault(_of_sweep(sweep), []).append(run)
    return found | _of_no_sweep(runs)


def _of_sweep(name: str) -> str:
    return f"sweep {name}"


def _of_no_sweep(runs: pd.DataFrame) -> dict[str, list[str]]:
    free = runs[runs["sweeps"].map(len) == 0]
    first = _joined(zip(free["command"], free["arm_id"], strict=True))
    found: dict[str, list[str]] = {}
    for command, ids in free.groupby(free["command"].map(first), sort=False)["id"]:
        found.setdefault(ONE_BY_ONE if len(ids) == 1 else short_command(command), []).extend(ids)
    return found


def group_for_tables(runs: pd.DataFrame, directories: Sequence[Path]) -> dict[str, list[str]]:
    """Ids of the runs that one set of tables is about, by its name: each experiment, or all together.

    Folders that hold one experiment each were named in order to compare them, so their runs stand together.
    """
    found = group_runs(runs)
    free = {run: name for name, ids in _of_no_sweep(runs).items() for run in ids}
    held: dict[Path, set[str]] = {directory: set() for directory in directories}
    for run, places in zip(runs["id"], runs["places"], strict=True):
        for folder, sweep in places:
            # a folder outside the run's sweeps adds nothing to what the sweeps hold
            name = free.get(run) if sweep is None else _of_sweep(sweep)
            for directory in directories:
                if name is not None and Path(folder).is_relative_to(directory):
                    held[directory].add(name)
    return {" + ".join(found): list(runs["id"])} if all(len(names) <= 1 for names in held.values()) else found


def short_command(command: str) -> str:
    """A recorded command without the interpreter and the paths that lead to it."""
    return re.sub(r"^.*?\bbitnet[.-]train\S*\s*", "", command) or command


def _joined(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Each command's first one of those that it is joined with; `pairs` are of a command and an arm that it started."""
    first: dict[str, str] = {}
    by_arm: dict[str, str] = {}

    def root(command: str) -> str:
        while first.setdefault(command, command) != command:
            command = first[command]
        return command

    for command, arm in pairs:
        first[root(command)] = root(by_arm.setdefault(arm, command))
    return {command: root(command) for command in first}

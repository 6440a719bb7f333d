"""Which runs of no sweep belong together: those of one command.

Tables over runs that were started to answer different questions compare what nobody meant to compare.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd

ONE_BY_ONE = "runs started one by one"


def group_by_command(runs: pd.DataFrame) -> dict[str, list[str]]:
    """Ids of the runs (of `bitnet.analysis.frames.Records`) that belong together, by what their command asked for, in order.

    They do when one command started them, or when their commands share an arm: seeds that were added later join the earlier
    ones. Runs that are alone after that form one group, `ONE_BY_ONE`.
    """
    first = _joined(zip(runs["command"], runs["arm_id"], strict=True))
    found: dict[str, list[str]] = {}
    for command, ids in runs.groupby(runs["command"].map(first), sort=False)["id"]:
        found.setdefault(ONE_BY_ONE if len(ids) == 1 else short_command(command), []).extend(ids)
    return found


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

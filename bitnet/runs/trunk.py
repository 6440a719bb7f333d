"""The checkpoints that a run keeps for others that begin with its steps, and who waits for them.

`training/branches.py` finds out which runs share their first steps; here are the files and records by which they do.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bitnet.runs.folders import checkpoints
from bitnet.runs.record import RunRecord
from bitnet.runs.statuses import FINAL


def keep_for_branches(saved: Path, record: RunRecord, say: Callable[[str], None]) -> None:
    """Keep a checkpoint of a run for the branches, whatever becomes of its others; where that can't be, they train alone."""
    place = record.branches / saved.name
    partial = record.branches / f".{saved.name}"
    try:
        record.branches.mkdir(exist_ok=True)
        partial.unlink(missing_ok=True)
        try:
            os.link(saved, partial)
        except OSError:  # a file system without links
            shutil.copyfile(saved, partial)
        partial.replace(place)
    except OSError as error:
        why = f"can't keep a checkpoint for runs that share these steps ({error.strerror})"
        say(f"{record.folder.name}: {why}; each will train them itself")


def kept_checkpoint(record: RunRecord, step: int) -> Path | None:
    """The checkpoint that a run keeps for its branches at a step, None where there is none."""
    return next((path for at, path in checkpoints(record.branches) if at == step), None)


def find_trunk(record: RunRecord) -> tuple[RunRecord, dict[str, Any]] | None:
    """The trunk of a branch, and what the branch's record says of it."""
    branch = record.read().get("branch")
    return None if not branch else (RunRecord(record.folder.parent.parent / branch["from"]), branch)


def trunk_folder(record: RunRecord) -> Path | None:
    """Where the run lies that a branch begins with; None for a run that is no branch."""
    found = find_trunk(record)
    return None if found is None else found[0].folder


def waits_for_trunk(record: RunRecord) -> bool:
    """Whether a run has nothing to go on from yet, and its trunk is still to save it: at that step it is about to."""
    found = find_trunk(record)
    if found is None or record.saved_step:
        return False
    trunk, branch = found
    return kept_checkpoint(trunk, branch["step"]) is None and trunk.read().get("step", 0) <= branch["step"]


def trunk_threads(record: RunRecord) -> int | None:
    """With how many threads a branch's beginning was trained, where it is there."""
    found = find_trunk(record)
    return None if found is None or kept_checkpoint(found[0], found[1]["step"]) is None else found[0].read().get("threads")


def remove_branch_checkpoints(folders: Sequence[Path]) -> None:
    """Remove what these runs keep for branches, where no run beside them that is not over begins with it."""
    beside = {place for top in {f.parent for f in folders} for place in top.glob("*/run.json")}
    known = [RunRecord(place.parent).read() for place in beside]
    needed = {r["branch"]["from"] for r in known if r.get("branch") and r.get("status") not in FINAL}
    for record in map(RunRecord, folders):
        if record.branches.exists() and record.place not in needed:
            shutil.rmtree(record.branches, ignore_errors=True)  # another controller may be at it too

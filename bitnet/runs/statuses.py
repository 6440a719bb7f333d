"""How a run stands: the words that `run.json` stores, and those that readers derive from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from bitnet.common.text import counted

QUEUED, RUNNING, DONE, DIVERGED, FAILED = "queued", "running", "done", "diverged", "failed"

MISSING = "missing"  # queued, and training never began
STALLED = "stalled"  # running by its record, but without a sign of life
UNREADABLE = "unreadable"  # the folder holds no record that can be read

STORED = (DONE, DIVERGED, RUNNING, FAILED, QUEUED)  # from the most to the least complete

FINAL = (DONE, DIVERGED)  # with a result: not run again unless asked

OPEN = (QUEUED, RUNNING)  # stored of runs that have not ended

UNFINISHED = (RUNNING, QUEUED, MISSING)

LISTED = (RUNNING, STALLED, FAILED, DIVERGED, QUEUED, MISSING, DONE, UNREADABLE)  # the order in lists: what needs a look first


def describe(found: Iterable[str]) -> str:
    """`9 runs: 1 running, 8 done`; `9 runs, all done`; `1 run: done`."""
    words = list(found)
    how = f", all {words[0]}" if len(words) > 1 and len(set(words)) == 1 else f": {words[0]}" if len(words) == 1 else ""
    return counted(len(words), "run") + (how or f": {count_statuses(words)}")


def count_statuses(found: Iterable[str]) -> str:
    """`1 running, 8 done`, in the order of lists; a word of another version comes last."""
    counts = Counter(found)
    return ", ".join(f"{counts[s]:,} {s}" for s in (*LISTED, *sorted(counts.keys() - set(LISTED))) if counts[s])

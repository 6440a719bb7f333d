"""When the last of several runs ends that share a machine, some of which wait for another."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stretch:
    """What a run still has to do: `seconds` of work; it can begin once run number `trunk` has worked for `head_start`."""

    seconds: float
    trunk: int | None = None
    head_start: float = 0.0


def makespan(runs: Sequence[Stretch], at_once: int) -> float:
    """Seconds until the last run ends; the first that can begin takes the place that is free, as `pool` has it."""
    began: dict[int, float] = {}
    places = [0.0] * at_once
    waiting = list(range(len(runs)))

    def earliest(run: int) -> float | None:
        trunk = runs[run].trunk
        return 0.0 if trunk is None else began[trunk] + runs[run].head_start if trunk in began else None

    while waiting:
        free = places[0]
        known = {run: at for run in waiting if (at := earliest(run)) is not None}
        run = next((r for r, at in known.items() if at <= free), None)
        if run is None:  # the place stays empty until one can
            run = min(known, key=known.__getitem__)
        began[run] = max(free, known[run])
        waiting.remove(run)
        heapq.heapreplace(places, began[run] + runs[run].seconds)
    return max(places)

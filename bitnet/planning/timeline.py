"""When the last of several runs ends that share a machine, some of which wait for another."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class WorkItem:
    """What a run still has to do: `seconds` of work; it can begin once run number `trunk` has worked for `head_start`."""

    seconds: float
    trunk: int | None = None
    head_start: float = 0.0


def makespan(runs: Sequence[WorkItem], at_once: int) -> float:
    """Seconds until the last run ends; the first that can begin takes the place that is free, as `launch.local` has it."""
    began: dict[int, float] = {}
    places = [0.0] * at_once
    waiting = list(range(len(runs)))

    def earliest(run: int) -> float:
        trunk = runs[run].trunk
        return 0.0 if trunk is None else began.get(trunk, math.inf) + runs[run].head_start

    while waiting:
        free = places[0]
        run = next((r for r in waiting if earliest(r) <= free), None)
        if run is None:  # the place stays empty until one can
            run = min(waiting, key=earliest)
        began[run] = max(free, earliest(run))
        waiting.remove(run)
        heapq.heapreplace(places, began[run] + runs[run].seconds)
    return max(places)

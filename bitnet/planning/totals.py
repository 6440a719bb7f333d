"""Sums over the runs of a plan: time one after another and side by side, tokens, disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bitnet.planning.timeline import WorkItem, makespan

if TYPE_CHECKING:
    from bitnet.planning.forecast import Forecast
    from bitnet.planning.request import Placement


def totals(runs: Sequence[Forecast], place: Placement) -> dict[str, Any]:
    """Sums over the runs that are not over; None is unknown."""
    from bitnet.planning.warnings import disk_needed

    todo = [r for r in runs if not r.finished]
    known = all(r.seconds is not None for r in todo)
    tokens = None if any(r.tokens is None for r in todo) else sum(r.tokens for r in todo)
    return {
        "runs": len(runs),
        "to_do": len(todo),
        "tokens": tokens,
        "seconds": sum(r.seconds for r in todo) if known else None,
        "seconds_at_once": makespan(_stretches(runs), place.at_once) if known and place.at_once is not None else None,
        "disk": disk_needed(runs, place),
    }


def _stretches(runs: Sequence[Forecast]) -> list[WorkItem]:
    """What each run that is not over has to do, and which other one it waits for."""
    places = {number: place for place, number in enumerate(n for n, r in enumerate(runs) if not r.finished)}
    found = []
    for run in (runs[number] for number in places):
        if run.trunk not in places:
            found.append(WorkItem(run.seconds))
            continue
        trunk = runs[run.trunk]
        share = (run.done - trunk.done) / ((trunk.steps or trunk.asked_steps) - trunk.done)
        found.append(WorkItem(run.seconds, places[run.trunk], share * trunk.seconds))
    return found

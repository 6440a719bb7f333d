"""Runs at work that give no sign of life: hung in a call that does not return, deadlocked, or stopped."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from bitnet.runs import heartbeat
from bitnet.runs.record import RunRecord
from bitnet.runs.statuses import RUNNING

LOOK_SECONDS = 1.0  # between two looks

_LONGEST_LOOK_SECONDS = 10.0  # one that took longer says that this process was stopped or the machine asleep, the runs with it


class Stalls:
    """Watches runs for one that has been at work for `seconds` without a sign of life.

    The time is this process's own: clocks of file systems, and a machine that was asleep, count for nothing.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._looked = time.monotonic()
        self._silent: dict[Path, tuple[object, float]] = {}  # the last sign of a run, and for how long it has been the last

    def look(self, processes: Mapping[Path, Iterable[int]]) -> list[Path]:
        """The runs that have stalled. `processes` that work on each: one that another process works on is waited for."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return []
        passed, self._looked = min(now - self._looked, _LONGEST_LOOK_SECONDS), now
        signs = {folder: _sign_of_life(folder, pids) for folder, pids in processes.items()}
        before, self._silent = self._silent, {}
        for folder, sign in signs.items():
            last, silent = before.get(folder, (None, 0.0))
            if sign is not None:
                self._silent[folder] = (sign, silent + passed if sign == last else 0.0)
        return [folder for folder, (_, silent) in self._silent.items() if silent >= self.seconds]


def _sign_of_life(folder: Path, pids: Iterable[int]) -> object | None:
    """What changes while one of the processes works on the run; None when none does."""
    record = RunRecord(folder).read()
    if record.get("status") != RUNNING or record.get("pid") not in pids:
        return None
    return heartbeat.read(folder).get("time"), record.get("step"), len(record.get("sessions", []))

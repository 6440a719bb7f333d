"""How the time of a step divides into parts, seen from outside: the functions that do them are wrapped, not rewritten."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable
from typing import Any

import torch

from bitnet.benchmark.cases import PARTS

# An object or module, the name of its function that does a part of a step, and which.
Watched = tuple[Any, str, str]


class Stopwatch:
    """Seconds by part. Time within a watched function that another watched one calls is the inner one's alone, and what no
    watched function takes is `other`: the parts always add up to the whole.

    On a GPU the marks are events of its stream, so that nothing waits for it until `lap`.
    """

    def __init__(self, device: torch.device, watched: Iterable[Watched]) -> None:
        self.device = device
        self._active = ["other"]
        self._marks: list[tuple[str, Any]] = []  # the part that ended, and when
        self._began = self._now()
        for owner, name, part in watched:
            setattr(owner, name, self._timed(getattr(owner, name), part))

    def lap(self) -> dict[str, float]:
        """Seconds of each part since the last lap, waiting for the device."""
        self._mark()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = dict.fromkeys(PARTS, 0.0)
        before = self._began
        for part, at in self._marks:
            seconds[part] += before.elapsed_time(at) / 1000 if self.device.type == "cuda" else at - before
            before = at
        self._marks.clear()
        self._began = self._now()
        return seconds

    def _timed(self, function: Any, part: str) -> Any:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._mark()
            self._active.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._mark()
                self._active.pop()

        return timed

    def _mark(self) -> None:
        self._marks.append((self._active[-1], self._now()))

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

"""One contender in a process of its own, which does what the lines on its standard input ask: JSON in, JSON out.

    {"contender": NAME, "config": {...}, "device": "cpu", "threads": 1}   builds it; the first line, answered when it is ready
    {"steps": N}                                                          does N steps: seconds, and seconds by part
    {"evaluate": true}                                                    one evaluation: seconds, None where it has none
    {"memory": true}                                                      bytes that it needed at most so far, beyond its start

With `"contender": null` it measures the machine instead: `{"facts": true}` gives what torch knows of it, with all peaks,
`{"peaks": true}` those that the bound needs, as they are at this moment. It ends when its input does.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bitnet.benchmark.contenders import contender
from bitnet.benchmark.peaks import peaks, torch_facts
from bitnet.benchmark.stopwatch import Stopwatch
from bitnet.common.errors import UserError, one_line
from bitnet.config.run import load_config
from bitnet.training.device import pick_device


def memory_now(what: str) -> int | None:
    """Bytes of this process that are in memory: `VmRSS` now, `VmHWM` at most so far; None where the system doesn't say."""
    try:
        found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return None if found is None else int(found[1]) * 1024


class Machine:
    """The machine itself."""

    def __init__(self, order: dict[str, Any]) -> None:
        torch.set_num_threads(order["threads"])
        self.device = pick_device(order["device"])

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """What a request asks for."""
        return torch_facts(self.device) if "facts" in request else peaks(self.device, ("fp32", "copy"))


class Worker:
    """A contender at work."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.device = pick_device(order["device"])
        self.before = memory_now("VmRSS")
        self.contender = contender(order["contender"], load_config(order["config"]), self.device, order["threads"])
        self.stopwatch = Stopwatch(self.device, self.contender.watched)
        self.done = 0

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """What a request asks for."""
        if "steps" in request:
            return self._steps(request["steps"])
        return {"memory": self._memory()} if "memory" in request else {"seconds": self._evaluation()}

    def _steps(self, count: int) -> dict[str, Any]:
        self.stopwatch.lap()
        began = time.perf_counter()
        for _ in range(count):
            self.done += 1
            loss = self.contender.step(self.done)
        parts = self.stopwatch.lap()  # waits for the device
        return {"seconds": time.perf_counter() - began, "parts": parts, "loss": float(loss)}

    def _evaluation(self) -> float | None:
        if self.contender.evaluate is None:
            return None
        self.stopwatch.lap()
        began = time.perf_counter()
        self.contender.evaluate(self.done)
        self.stopwatch.lap()
        return time.perf_counter() - began

    def _memory(self) -> int | None:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        most = memory_now("VmHWM")
        return None if most is None or self.before is None else most - self.before


def main() -> None:
    # answers have a channel of their own: what a library prints must not get among them
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    order = json.loads(sys.stdin.readline() or "null")
    if order is None:
        return
    try:
        worker = Machine(order) if order["contender"] is None else Worker(order)
        reply({})
        for line in sys.stdin:
            reply(worker.answer(json.loads(line)))
    except Exception as error:
        reply(
            {"error": one_line(error) if not isinstance(error, UserError) else str(error), "user": isinstance(error, UserError)}
        )


if __name__ == "__main__":
    main()

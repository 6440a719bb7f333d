"""Training steps: all cases, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bitnet.benchmark.cases import Case
from bitnet.benchmark.interleaved import machine, measure
from bitnet.benchmark.results import circumstances, results_of, too_large
from bitnet.common.console import say


def measure_steps(cases: Sequence[Case], contenders: Sequence[str], *, device: str, threads: int, rounds: int) -> dict[str, Any]:
    """The results of all cases that this machine has room for.

    Raises:
        UserError: when the device is not there.
        Ended: when the machine's peaks can't be measured.
    """
    say("the machine's peaks")
    facts = machine(device, threads)
    available = facts.pop("memory")
    skipped, entries = {}, []
    results = circumstances("steps") | facts | {"rounds": rounds, "skipped": skipped, "cases": entries}
    for number, case in enumerate(cases, 1):
        why = too_large(case, contenders, available)
        say(f"{number}/{len(cases)}: {case}{'' if why is None else f' is left out: {why}'}")
        if why is not None:
            skipped[str(case)] = why
            continue
        turns = measure(case, contenders, device=device, threads=threads, rounds=rounds)
        entries += results_of(case, turns)
    return results

"""What the sides of a claim were made with: runs of two versions of torch, or two devices, differ in more than their arms."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from bitnet.verdicts.evidence import Side
from bitnet.verdicts.selection import varies


def circumstances(of: Sequence[Side]) -> list[str]:
    """A warning for each of torch, kind of device, precision and threads in which the sides differ; none for a single side.

    What the sweep's file sets for every run is meant: `precision=fp32,bf16` in its grid is no circumstance.
    """
    if len(of) < 2:
        return []
    told = []
    for what in ("torch", "device", "precision", "threads"):
        found = {side.name: _values(side.runs, what) for side in of}
        meant = all(varies(written, (what,)) for side in of for written in side.runs["written"])
        if what == "threads" and any(_values(side.runs, "device") not in ((), ("cpu",)) for side in of):
            continue  # of a GPU's bits they decide nothing
        if not meant and len(set(found.values())) > 1 and all(found.values()):
            said = ", ".join(f"{name} {' and '.join(values)}" for name, values in found.items())
            told.append(f"the sides were made with different {_NAMES.get(what, what)}: {said}")
    return told


_NAMES = {"torch": "versions of torch", "device": "devices", "threads": "numbers of threads"}


def _values(runs: pd.DataFrame, what: str) -> tuple[str, ...]:
    """What a side's runs were made with, each value once; empty where no record says it."""
    if "made_with" not in runs:
        return ()
    return tuple(sorted({value for made in runs["made_with"] for value in made.get(what, ())}))

"""What got slower since earlier results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bitnet.benchmark.cases import REFERENCE
from bitnet.common.errors import UserError

SLOWER, FASTER, WITHIN = "slower", "faster", "within the spread"

# What is compared: its key in an entry, by the clock and as a ratio to the reference's step; in both, more is faster.
_KEYS = {
    "training": ("tokens_per_second", "ratio"),
    "evaluation": ("evaluations_per_second", "evaluation_ratio"),
}

_LEAST = {"training": 0.02, "evaluation": 0.1}  # evaluations are few, and not interleaved with the reference's steps


@dataclass(frozen=True)
class Change:
    """A contender at a case, what of it was compared, its speed then and now; `change` is -0.1 where it is a tenth slower."""

    case: str
    contender: str
    what: str
    before: float
    now: float
    change: float
    verdict: str


def require_comparable(before: dict[str, Any], device: str, threads: int, path: object) -> None:
    """Refuse results of other circumstances.

    Raises:
        UserError: when the device or the number of threads was another one.
    """
    kind = str(before["device"]).split(":")[0].split(" ")[0]
    if device != "auto" and device.split(":")[0] != kind:
        raise UserError(f"--compare {path}: measured on {kind}, this is {device}")
    if before["threads"] != threads:
        raise UserError(f"--compare {path}: measured with --threads {before['threads']}, this is --threads {threads}")


def compare(before: dict[str, Any], now: dict[str, Any]) -> list[Change]:
    """Changes of what both results have, in the order of `now`.

    Where both have the reference, ratios to its step are compared, so that a machine which is slower today is not taken for a
    slower program; the reference itself, whose speed is the machine's, is then left out. Otherwise it is a rate by the clock.
    Slower or faster is what changed by more than `_LEAST`, without an overlap of the quartiles.
    """
    earlier = {(e["case"], e["contender"]): e for e in before["cases"]}
    pairs = [(earlier[key], e) for e in now["cases"] if (key := (e["case"], e["contender"])) in earlier]
    return [change for was, entry in pairs for change in _changes(was, entry)]


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[Change]:
    if "error" in before or "error" in now:
        return []
    by_ratio = before["ratio"] is not None and now["ratio"] is not None
    if by_ratio and now["contender"] == REFERENCE:
        return []
    compared = [_change(now, what, key[by_ratio], before, _LEAST[what]) for what, key in _KEYS.items()]
    return [change for change in compared if change is not None]


def _change(entry: dict[str, Any], what: str, key: str, before: dict[str, Any], least: float) -> Change | None:
    was, now = before[key], entry[key]
    if was is None or now is None:
        return None
    change = now["median"] / was["median"] - 1
    verdict = WITHIN
    if abs(change) > least:
        verdict = SLOWER if now["high"] < was["low"] else FASTER if now["low"] > was["high"] else WITHIN
    return Change(entry["case"], entry["contender"], what, was["median"], now["median"], change, verdict)

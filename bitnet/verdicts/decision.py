"""From an estimate to one of the words and its reason, by the rules at the top of `bitnet/verdicts/verdict.py`."""

from __future__ import annotations

from typing import Literal

from bitnet.analysis import stats
from bitnet.common.text import format_significant
from bitnet.config.claims import seeds_allow

Word = Literal["reproduced", "not reproduced", "explained otherwise", "inconclusive"]

_LOWER = ("lower", "at_most")

_FROM_BOUND = "to detect a distance from the bound of"


def decide(
    estimate: stats.Estimate, expected: str, margin: float, least: float, claims: int = 1, offset: float = 0.0
) -> tuple[Word, str]:
    """The word for an estimate and its reason, by the rules at the top of `bitnet/verdicts/verdict.py`.

    Args:
        expected: `lower`, `higher`, `at_most`, `at_least` or `equal`.
        margin: for `equal`; least: the smallest mean that counts for the others, in size (0 for bounds).
        claims: how many are judged beside each other.
        offset: what the reason adds to the numbers: of a bound they are the distance to it.
    """
    if estimate.n < 3:
        return "inconclusive", f"{'one seed' if estimate.n == 1 else 'two seeds'}: {seeds_allow(estimate.n)}"
    alpha = stats.ALPHA / claims
    plain, interval = estimate.interval(), estimate.interval(1 - alpha)
    if plain is None or interval is None:
        return "inconclusive", "every seed gave exactly the same number, so there is no interval"
    if expected == "equal":
        within = estimate.interval(1 - 2 * alpha)  # two one-sided tests at alpha
        word, why = _equal(within or plain, interval, margin)
    else:
        word, why = _directed(estimate, interval, expected, least)
    if word == "inconclusive" and (seen := detectable(estimate, expected, alpha)) is not None:
        shown_by = {"equal": "to show equality within", "at_most": _FROM_BOUND, "at_least": _FROM_BOUND}
        shown = shown_by.get(expected, "to detect an effect of")
        why += f"; this many seeds with this spread have 80 % power {shown} {number_text(seen)}"
    return word, f"mean {number_text(estimate.mean, offset)}, {interval_text(plain, interval, claims, offset)}: {why}"


def detectable(estimate: stats.Estimate, expected: str, alpha: float) -> float | None:
    """The smallest effect, for `equal` the smallest margin, that so many seeds would have decided."""
    return estimate.provable_margin(alpha) if expected == "equal" else estimate.detectable(alpha)


def interval_text(plain: tuple[float, float], interval: tuple[float, float], claims: int, offset: float = 0.0) -> str:
    """`95 % interval 1 to 3`, and where there are several claims the wider one that decides."""
    text = f"95 % interval {number_text(plain[0], offset)} to {number_text(plain[1], offset)}"
    if claims == 1:
        return text
    wide = f"{number_text(interval[0], offset)} to {number_text(interval[1], offset)}"
    return f"{text}, {100 * (1 - stats.ALPHA / claims):.4g} % interval {wide} (this one decides: corrected for {claims} claims)"


def _directed(estimate: stats.Estimate, interval: tuple[float, float], expected: str, least: float) -> tuple[Word, str]:
    mean = _signed(estimate.mean, expected)
    low, high = sorted(_signed(x, expected) for x in interval)
    if low > 0 and mean >= least:
        return "reproduced", "as claimed" + (_size(low, least) if least else "")
    if high < 0:
        return "not reproduced", "the opposite of what was claimed"
    if high < least:
        return "not reproduced", f"an effect as large as claimed ({number_text(least)} or more) is excluded"
    if low > 0:
        return "inconclusive", f"there is an effect in the claimed direction, but whether it reaches {number_text(least)} is open"
    if expected in ("at_most", "at_least"):
        return "inconclusive", "the interval includes the bound"
    return "inconclusive", "the interval does not settle whether there is an effect in the claimed direction"


def _size(low: float, least: float) -> str:
    """What an interval that begins at `low` says of a mean that is no smaller than `least`."""
    if low >= least:
        return f", and an effect smaller than {number_text(least)} is excluded"
    return f", and the mean reaches {number_text(least)}; the true effect may still be smaller"


def _equal(within: tuple[float, float], interval: tuple[float, float], margin: float) -> tuple[Word, str]:
    if -margin < within[0] and within[1] < margin:
        return "reproduced", f"a difference of {number_text(margin)} or more is excluded"
    if interval[0] > margin or interval[1] < -margin:
        return "not reproduced", f"the difference is larger than {number_text(margin)}"
    return "inconclusive", f"the interval does not settle whether the difference is within {number_text(margin)}"


def _signed(x: float, expected: str) -> float:
    return -x if expected in _LOWER else x


def number_text(x: float, offset: float = 0.0) -> str:
    """A number that lacks `offset`, with four digits that count."""
    return format_significant(own_value(x, offset), 4)


def own_value(x: float, offset: float) -> float:
    """The metric's own value, of a number that lacks `offset`."""
    value = x + offset
    return 0.0 if abs(value) < 1e-12 * abs(offset) else value  # what a subtraction left of nothing

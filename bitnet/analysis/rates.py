"""Rates of what either happens in a run or does not, over seeds: exact intervals and tests, over scipy.

The mean of values that are 0 or 1 is far from normal for the few seeds that there are: a t interval misses the rate two or
three times as often as it says. Here every end of an interval is missed at most as often as it says, whatever the rates are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats as scipy_stats

from bitnet.analysis.stats import ALPHA, Estimate

_JUST = 1e-6  # by so much an interval is short of 0 where the exact test excludes it

Part = tuple[int, int, int]  # the sign with which a rate counts, in how many seeds it happened, and of how many


@dataclass(frozen=True)
class RateEstimate(Estimate):
    """A rate, or the sum of several with their signs, less `offset`.

    parts: the rates. of_no_effect: whether `p` is that of an exact test of the sum being 0, for which rates need not be known.
    """

    parts: tuple[Part, ...] = ()
    offset: float = 0.0
    of_no_effect: bool = False

    def interval(self, confidence: float = 1 - ALPHA) -> tuple[float, float] | None:
        """Clopper and Pearson's interval of a rate; of several, the sum of theirs, each with its share of the error.

        That is wide. Where the exact test excludes 0 at this level and the sum does not, the interval ends just short of 0.
        """
        each = 1 - (1 - confidence) / len(self.parts)
        low = high = -self.offset
        for sign, happened, seeds in self.parts:
            rate = scipy_stats.binomtest(happened, seeds).proportion_ci(each, method="exact")
            ends = sorted((sign * rate.low, sign * rate.high))
            low, high = low + ends[0], high + ends[1]
        if self.of_no_effect and self.p is not None and self.p <= 1 - confidence:
            low, high = (max(low, _JUST), high) if self.mean > 0 else (low, min(high, -_JUST))
        return float(low), float(high)


def one_rate(values: Sequence[float], bound: float) -> RateEstimate:
    """How often it happened less `bound`; p is that of the binomial test, None where the bound is no rate."""
    happened, n = _count(values)
    p = _twice_the_smaller(happened, n, bound) if 0 <= bound <= 1 and n > 1 else None
    return RateEstimate(n, happened / n - bound, None, None, p, "binomial", parts=((1, happened, n),), offset=bound)


def paired_rates(differences: Sequence[float]) -> RateEstimate:
    """How much more often it happened on one side than on the other in the same seed, and McNemar's exact p.

    Args:
        differences: 1 where it happened on the first side alone, -1 on the second alone, else 0.
    """
    n, only_first, only_second = len(differences), sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    apart = only_first + only_second
    p = scipy_stats.binomtest(only_first, apart).pvalue if apart else 1.0
    parts = ((1, only_first, n), (-1, only_second, n))
    return RateEstimate(n, (only_first - only_second) / n, None, None, float(p), "McNemar", parts=parts, of_no_effect=True)


def unpaired_rates(first: Sequence[float], second: Sequence[float]) -> RateEstimate:
    """How much more often it happened on one side than on the other, of different seeds, and Fisher's exact p."""
    (a, n), (b, m) = _count(first), _count(second)
    table = [[a, n - a], [b, m - b]]
    p = 2 * min(scipy_stats.fisher_exact(table, alternative=side).pvalue for side in ("less", "greater"))
    parts = ((1, a, n), (-1, b, m))
    return RateEstimate(min(n, m), a / n - b / m, None, None, min(1.0, float(p)), "Fisher", parts=parts, of_no_effect=True)


def summed_rates(sides: Sequence[tuple[int, Sequence[float]]]) -> RateEstimate:
    """The sum of several sides' rates with their signs; without a test, since none of a sum of four is exact."""
    counts = [(sign, *_count(values)) for sign, values in sides]
    mean = sum(sign * happened / n for sign, happened, n in counts)
    return RateEstimate(min(n for _, _, n in counts), mean, None, None, None, "", parts=tuple(counts))


def _count(values: Sequence[float]) -> tuple[int, int]:
    return int(sum(values)), len(values)


def _twice_the_smaller(happened: int, n: int, rate: float) -> float:
    """Two-sided p in keeping with Clopper and Pearson's interval, whose ends err equally."""
    tails = [scipy_stats.binomtest(happened, n, rate, alternative=side).pvalue for side in ("less", "greater")]
    return min(1.0, 2 * float(min(tails)))

"""Statistics over seeds: pure functions from numbers to estimates, over scipy and statsmodels.

A handful of seeds is little: every estimate carries its n, its 95 % t interval, an exact permutation p, and the smallest
effect that so many seeds would have shown. Values without any spread have no interval: t intervals of width 0 claim a
certainty that identical runs can't give. Where values of different runs may be equal, as counts, they get the least spread
that their steps allow.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

ALPHA = 0.05

POWER = 0.8

_EXACT = 2**14  # permutations up to here are enumerated: sign flips of 14 seeds, exchanges of 8 with 8

_SAME = 1e-12  # relative spread below which values differ by rounding only


@dataclass(frozen=True)
class Estimate:
    """A mean effect over seeds.

    n: seeds, of the smaller side where there are two. `se`, `df`: of the t distribution; None below two seeds, and where the
    values have no spread. `p`: two-sided exact permutation p of no effect; None below two seeds. `test`: its name.
    """

    n: int
    mean: float
    se: float | None
    df: float | None
    p: float | None
    test: str

    def interval(self, confidence: float = 1 - ALPHA) -> tuple[float, float] | None:
        """The t interval of the mean, None where there is no spread to make it of."""
        if self.se is None:
            return None
        low, high = scipy_stats.t.interval(confidence, self.df, loc=self.mean, scale=self.se)
        return float(low), float(high)

    def tost(self, margin: float) -> float | None:
        """p of two one-sided t tests that the effect lies within +-margin (Schuirmann 1987).

        Below 0.05 exactly where the 90 % interval lies within the margin.
        """
        if self.se is None:
            return None
        above = scipy_stats.t.sf((self.mean + margin) / self.se, self.df)
        below = scipy_stats.t.cdf((self.mean - margin) / self.se, self.df)
        return float(max(above, below))

    def detectable(self, alpha: float = ALPHA) -> float | None:
        """The smallest effect that a two-sided t test at `alpha` finds with 80 % power, given this spread and these seeds."""
        return None if self.se is None else self.se * _noncentrality(self.df, alpha)

    def provable_margin(self, alpha: float = ALPHA) -> float | None:
        """The smallest margin within which `tost` at `alpha` finds no difference in 80 % of cases where there is none.

        With the spread taken as known: the sum of the quantiles of t at 1 - alpha and at 1 - 0.2 / 2.
        """
        if self.se is None:
            return None
        quantiles = scipy_stats.t.ppf([1 - alpha, (1 + POWER) / 2], self.df)
        return self.se * float(quantiles.sum())


@functools.lru_cache
def _noncentrality(df: float, alpha: float) -> float:
    """The shift at which a noncentral t exceeds the critical value in 80 % of cases; the other tail adds under 1e-6."""
    critical = scipy_stats.t.ppf(1 - alpha / 2, df)
    # scipy's noncentral t is NaN at shifts much beyond this bracket
    return float(optimize.brentq(lambda shift: scipy_stats.nct.sf(critical, df, shift) - POWER, 0.5, 1.5 * critical + 4))


def no_spread(values: ArrayLike, scale: float = 0.0) -> bool:
    """Whether two or more values are all the same, but for rounding.

    Args:
        scale: magnitude of what the values were computed from: the rounding of a difference is that of its terms.
    """
    array = np.asarray(values, dtype="float64")
    return len(array) > 1 and bool(np.ptp(array) <= _SAME * max(np.abs(array).max(), scale))


def _error(values: np.ndarray, flat: bool, resolution: float | None) -> float | None:
    """Standard error of the mean. Of equal values, that of values of which one is a step off: sd = resolution / sqrt(n)."""
    if not flat:
        return float(values.std(ddof=1)) / math.sqrt(len(values))
    return None if resolution is None else resolution / len(values)


def one_sample(values: Sequence[float], scale: float = 0.0, resolution: float | None = None) -> Estimate:
    """The mean of one number a seed, such as a difference of two runs of the same seed, against 0.

    The p is that of the sign-flip test: exact up to 14 seeds, of 16,384 drawn flips beyond.

    Args:
        scale: as for `no_spread`.
        resolution: the least by which two such numbers can differ, where they may be equal.
    """
    x = np.asarray(values, dtype="float64")
    n, mean = len(x), float(x.mean())
    if n < 2:
        return Estimate(n, mean, None, None, None, "sign-flip")
    flips = scipy_stats.permutation_test(
        (x,),
        lambda s, axis: s.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=_EXACT,
        random_state=np.random.default_rng(0),
    )
    se = _error(x, no_spread(x, scale), resolution)
    return Estimate(n, mean, se, None if se is None else n - 1.0, float(flips.pvalue), "sign-flip")


def two_sample(first: Sequence[float], second: Sequence[float], resolution: float | None = None) -> Estimate:
    """The mean of `first` less that of `second` where seeds do not pair: Welch's interval, and a permutation p.

    Args:
        resolution: as for `one_sample`.
    """
    a, b = np.asarray(first, dtype="float64"), np.asarray(second, dtype="float64")
    n, mean = min(len(a), len(b)), float(a.mean() - b.mean())
    if n < 2:
        return Estimate(n, mean, None, None, None, "permutation")
    se, df = None, None
    if resolution is not None or not (no_spread(a) and no_spread(b)):
        errors = [(_error(s, no_spread(s), resolution) or 0.0) ** 2 for s in (a, b)]
        se = math.sqrt(sum(errors))
        df = float(sum(errors) ** 2 / sum(e**2 / (len(s) - 1) for e, s in zip(errors, (a, b), strict=True)))
    exchanged = scipy_stats.permutation_test(
        (a, b),
        lambda s, t, axis: s.mean(axis=axis) - t.mean(axis=axis),
        permutation_type="independent",
        vectorized=True,
        n_resamples=_EXACT,
        random_state=np.random.default_rng(0),
    )
    return Estimate(n, mean, se, df, float(exchanged.pvalue), "permutation")


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values. None, of a test that could not be made, counts as 1 and stays None.

    So the number of tests is that of the claims declared, however many of them have runs yet.
    """
    if not p:
        return []
    adjusted = multipletests([1.0 if x is None else x for x in p], alpha=ALPHA, method="holm")[1]
    return [None if x is None else float(y) for x, y in zip(p, adjusted, strict=True)]


def fisher(lost_a: int, kept_a: int, lost_b: int, kept_b: int) -> float:
    """Fisher's exact two-sided p that runs are lost equally often on both sides."""
    return float(scipy_stats.fisher_exact([[lost_a, kept_a], [lost_b, kept_b]])[1])


@dataclass(frozen=True)
class Correlation:
    """Spearman's rho over points that come in clusters.

    clusters, points: how many. rho: None where one side has no spread. se: of Fisher's z of rho, over clusters; None where
    there is no interval.
    """

    clusters: int
    points: int
    rho: float | None
    se: float | None = None

    def interval(self, confidence: float = 1 - ALPHA) -> tuple[float, float] | None:
        """The t interval of Fisher's z, as rho; None where there is none."""
        if self.se is None or self.rho is None:
            return None
        half = self.se * float(scipy_stats.t.ppf((1 + confidence) / 2, self.clusters - 1))
        return math.tanh(_fisher_z(self.rho) - half), math.tanh(_fisher_z(self.rho) + half)


def spearman(x: ArrayLike, y: ArrayLike, clusters: ArrayLike) -> Correlation:
    """Rank correlation of x and y, whose error is that of leaving out one whole cluster (all evaluations of a seed) at a time.

    The jackknife (Miller 1974, Biometrika 61) of Fisher's z with a t interval keeps its level with six clusters, where the
    percentiles of a bootstrap cover 80 to 90 % instead of 95. Points without both values are left out.
    """
    a, b, c = np.asarray(x, dtype="float64"), np.asarray(y, dtype="float64"), np.asarray(clusters)
    whole = np.isfinite(a) & np.isfinite(b)
    a, b, c = a[whole], b[whole], c[whole]
    names = list(dict.fromkeys(c.tolist()))
    rho = _rank_correlation(a, b)
    without = [_rank_correlation(a[c != name], b[c != name]) for name in names]
    if rho is None or len(names) < 2 or None in without:
        return Correlation(len(names), len(a), rho)
    n, z = len(names), np.array([_fisher_z(r) for r in without if r is not None])
    se = None if no_spread(z) else math.sqrt((n - 1) / n * float(((z - z.mean()) ** 2).sum()))
    return Correlation(n, len(a), rho, se)


def _fisher_z(rho: float) -> float:
    """atanh, finite for a correlation of 1."""
    return math.atanh(max(-1 + _SAME, min(1 - _SAME, rho)))


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    ranks = scipy_stats.rankdata(np.stack([a, b]), axis=1) if len(a) else np.zeros((2, 0))
    centred = ranks - ranks.mean(axis=1, keepdims=True) if len(a) else ranks
    norm = math.sqrt(float((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return None if norm == 0 else float(centred[0] @ centred[1]) / norm

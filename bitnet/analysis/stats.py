"""Statistics over seeds: pure functions from numbers to estimates, over scipy and statsmodels.

A handful of seeds is little: every estimate carries its n, its 95 % t interval, an exact permutation p, and the smallest
effect that so many seeds would have shown. Where values are skewed, the interval reaches further to the side of their tail
(`Estimate.gamma`); what either happens in a run or does not has intervals of its own (`analysis/rates.py`). Values without any
spread have no interval: t intervals of width 0 claim a certainty that identical runs can't give. Where values of different
runs may be equal, as counts, they get the least spread that their steps allow.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

ALPHA = 0.05

POWER = 0.8

_EXACT = 2**14  # permutations up to here are enumerated: sign flips of 14 seeds, exchanges of 8 with 8

# From how many values on their skewness is looked at, and how often as skewed a sample comes of normal values, to either side.
# Measured (tests/benchmarks/error_rates.py): of exponential values the t interval alone misses the mean on the side of the tail
# in 11, 10 and 8 % of draws of 6, 10 and 20 instead of 2.5, with this in 8, 6 and 4; looking closer (0.2) gains a point or two
# at n = 6 and takes as much power from normal values again. Fewer values can't show it: 5 normal ones are often that skewed.
SKEWNESS_FROM, _SKEWED = 6, 0.1

_SAME = 1e-12  # relative spread below which values differ by rounding only


@dataclass(frozen=True)
class Estimate:
    """A mean effect over seeds.

    n: seeds, of the smaller side where there are two. `se`, `df`: of the t distribution; None below two seeds, and where the
    values have no spread. `p`: two-sided exact permutation p of no effect; None below two seeds. `test`: its name.
    `gamma`: skewness of the mean's own distribution, that of the values over sqrt(n); 0 unless they contradict a normal one.
    """

    n: int
    mean: float
    se: float | None
    df: float | None
    p: float | None
    test: str
    gamma: float = 0.0

    def interval(self, confidence: float = 1 - ALPHA) -> tuple[float, float] | None:
        """The t interval of the mean, None where there is no spread to make it of.

        Of skewed values it is extended by the interval that Hall's transformation of t gives (1992, JRSS B 54), which corrects
        for skewness as a bootstrap of t does, without draws, and at any level.
        """
        if self.se is None:
            return None
        critical = _critical(self.df, confidence)
        ends = [critical, -critical, *(_untransformed(t, self.gamma) for t in (critical, -critical))]
        return self.mean - max(ends) * self.se, self.mean - min(ends) * self.se

    def tost(self, margin: float) -> float | None:
        """p of two one-sided t tests that the effect lies within +-margin (Schuirmann 1987).

        Below 0.05 exactly where the 90 % interval lies within the margin.
        """
        if self.se is None:
            return None
        above, below = (self.mean + margin) / self.se, (self.mean - margin) / self.se
        above, below = min(above, _transformed(above, self.gamma)), max(below, _transformed(below, self.gamma))
        return float(max(scipy_stats.t.sf(above, self.df), scipy_stats.t.cdf(below, self.df)))

    def detectable(self, alpha: float = ALPHA) -> float | None:
        """The smallest effect that a two-sided t test at `alpha` finds with 80 % power, given this spread and these seeds.

        Of normal values 2 (n = 20) to 8 (n = 6) in a hundred look skewed enough to be missed beside these.
        """
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
def _critical(df: float, confidence: float) -> float:
    """How many standard errors a t interval reaches to each side."""
    return float(scipy_stats.t.ppf((1 + confidence) / 2, df))


@functools.lru_cache
def _noncentrality(df: float, alpha: float) -> float:
    """The shift at which a noncentral t exceeds the critical value in 80 % of cases; the other tail adds under 1e-6."""
    critical = scipy_stats.t.ppf(1 - alpha / 2, df)
    # scipy's noncentral t is NaN at shifts much beyond this bracket
    return float(optimize.brentq(lambda shift: scipy_stats.nct.sf(critical, df, shift) - POWER, 0.5, 1.5 * critical + 4))


def _transformed(t: float, gamma: float) -> float:
    """Hall's transformation: of a mean whose distribution has skewness `gamma`, what is distributed as t without any."""
    return t + gamma * t**2 / 3 + gamma**2 * t**3 / 27 + gamma / 6


def _untransformed(t: float, gamma: float) -> float:
    """Its inverse."""
    return t if gamma == 0 else 3 * (float(np.cbrt(1 + gamma * (t - gamma / 6))) - 1) / gamma


@functools.lru_cache
def _skewness_of_normal(n: int) -> float:
    """The skewness that so many normal values exceed in `_SKEWED` of samples, by simulation."""
    draws = np.random.default_rng(0).normal(size=(20_000, n))
    return float(np.quantile(scipy_stats.skew(draws, axis=1, bias=False), 1 - _SKEWED))


def skewness(values: ArrayLike) -> float:
    """The skewness of values that contradict a normal distribution by it; 0 of others, and of too few to tell."""
    array = np.asarray(values, dtype="float64")
    if len(array) < SKEWNESS_FROM or no_spread(array):
        return 0.0
    found = float(scipy_stats.skew(array, bias=False))
    return found if abs(found) > _skewness_of_normal(len(array)) else 0.0


def outlier(values: ArrayLike) -> int | None:
    """Which value stands apart from the others, by Grubbs's test at 5 %; None where none does, or there are too few to tell."""
    array = np.asarray(values, dtype="float64")
    n = len(array)
    if n < SKEWNESS_FROM or no_spread(array):
        return None
    apart = np.abs(array - array.mean()) / array.std(ddof=1)
    t = scipy_stats.t.ppf(1 - ALPHA / (2 * n), n - 2)
    return int(apart.argmax()) if apart.max() > (n - 1) / math.sqrt(n) * math.sqrt(t**2 / (n - 2 + t**2)) else None


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
    without = mean_of(x, scale, resolution)
    if len(x) < 2:
        return without
    flips = scipy_stats.permutation_test(
        (x,),
        lambda s, axis: s.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=_EXACT,
        random_state=np.random.default_rng(0),
    )
    return replace(without, p=float(flips.pvalue))


def mean_of(values: ArrayLike, scale: float = 0.0, resolution: float | None = None) -> Estimate:
    """As `one_sample`, without its p, which takes a hundred times as long as all else."""
    x = np.asarray(values, dtype="float64")
    n, mean = len(x), float(x.mean())
    flat = no_spread(x, scale)
    se = None if n < 2 else _error(x, flat, resolution)
    gamma = 0.0 if flat else skewness(x) / math.sqrt(n)
    return Estimate(n, mean, se, None if se is None else n - 1.0, None, "sign-flip", gamma)


def two_sample(first: Sequence[float], second: Sequence[float], resolution: float | None = None) -> Estimate:
    """The mean of `first` less that of `second` where seeds do not pair: Welch's interval, and a permutation p.

    Of its `gamma`, each side brings what it would have alone.

    Args:
        resolution: as for `one_sample`.
    """
    a, b = np.asarray(first, dtype="float64"), np.asarray(second, dtype="float64")
    n, mean = min(len(a), len(b)), float(a.mean() - b.mean())
    if n < 2:
        return Estimate(n, mean, None, None, None, "permutation")
    se, df, gamma = None, None, 0.0
    if resolution is not None or not (no_spread(a) and no_spread(b)):
        errors = [(_error(s, no_spread(s), resolution) or 0.0) ** 2 for s in (a, b)]
        se = math.sqrt(sum(errors))
        cubed = [skewness(s) * s.std(ddof=1) ** 3 / len(s) ** 2 for s in (a, b)]
        gamma = (cubed[0] - cubed[1]) / se**3
        df = float(sum(errors) ** 2 / sum(e**2 / (len(s) - 1) for e, s in zip(errors, (a, b), strict=True)))
    exchanged = scipy_stats.permutation_test(
        (a, b),
        lambda s, t, axis: s.mean(axis=axis) - t.mean(axis=axis),
        permutation_type="independent",
        vectorized=True,
        n_resamples=_EXACT,
        random_state=np.random.default_rng(0),
    )
    return Estimate(n, mean, se, df, float(exchanged.pvalue), "permutation", gamma)


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

"""Estimates against numbers worked out by hand and against scipy and statsmodels, and their error rates over many draws."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from bitnet.analysis import stats


# ----------------------------------------------------------------------------------------------------------- one number
def test_paired_by_hand():
    """1, 2, 3, 4, 5: mean 3, sd sqrt(2.5); t(4) at 97.5 % is 2.776445."""
    found = stats.one_sample([1, 2, 3, 4, 5])
    half = 2.776445105 * math.sqrt(2.5 / 5)
    assert (found.n, found.mean, found.df) == (5, 3, 4)
    assert found.interval() == pytest.approx((3 - half, 3 + half))
    assert found.p == pytest.approx(2 / 32)  # all of one sign: the least that five seeds can give


def test_the_sign_flip_p_counts_every_flip():
    x = np.array([0.3, -0.1, 0.4, 0.2, 0.5, -0.05])
    means = [np.dot(signs, x) for signs in itertools.product((-1, 1), repeat=6)]
    by_hand = 2 * np.mean(np.array(means) >= x.sum() - 1e-12)
    assert stats.one_sample(x).p == pytest.approx(by_hand)


def test_ties_and_zeros_in_the_sign_flip_p():
    assert stats.one_sample([0, 0, 0, 1, 1, 1]).p == pytest.approx(0.25)  # three zeros say nothing: 2 / 2^3
    assert stats.one_sample([0, 0, 0, 0]).p == 1


@pytest.mark.parametrize(("n", "reachable"), [(5, False), (6, True)])
def test_from_six_seeds_on_a_p_can_fall_under_five_percent(n, reachable):
    assert (stats.one_sample(np.arange(1.0, n + 1)).p < 0.05) == reachable


def test_one_seed_has_neither_interval_nor_p():
    found = stats.one_sample([2.5])
    assert (found.n, found.mean, found.interval(), found.p, found.tost(1), found.detectable()) == (1, 2.5, None, None, None, None)


def test_two_seeds_have_a_wide_interval():
    low, high = stats.one_sample([1.0, 2.0]).interval()
    assert (low, high) == pytest.approx((1.5 - 12.7062 / 2, 1.5 + 12.7062 / 2), abs=1e-4)


@pytest.mark.parametrize("values", [[0.1, 0.1, 0.1], [0.3 - 0.2, 0.1, 0.4 - 0.3]])
def test_values_without_spread_have_no_interval(values):
    found = stats.one_sample(values, scale=0.4)
    assert (found.interval(), found.tost(1), found.detectable()) == (None, None, None)


def test_a_small_spread_is_a_spread():
    assert stats.one_sample([1.0, 1.0 + 1e-9, 1.0 - 1e-9]).interval() is not None


@pytest.mark.parametrize("n", [3, 4, 6, 12])
def test_the_detectable_effect_is_that_of_a_power_analysis(n):
    x = np.random.default_rng(n).normal(size=n)
    expected = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8) * x.std(ddof=1)
    assert stats.one_sample(x).detectable() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("n", [3, 6])
def test_the_detectable_effect_beside_nine_claims_is_found_in_80_percent_of_draws(n):
    x = np.random.default_rng(n).normal(size=n)
    effect = stats.one_sample(x).detectable(0.05 / 9) / x.std(ddof=1)
    draws = np.random.default_rng(0).normal(effect, 1.0, size=(100_000, n))
    found = scipy_stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05 / 9
    assert found.mean() == pytest.approx(0.8, abs=0.005)


def test_tost_agrees_with_statsmodels_and_with_the_90_percent_interval():
    x = np.array([0.05, -0.02, 0.03, 0.01, -0.04, 0.02])
    found = stats.one_sample(x)
    low, high = found.interval(0.9)
    for margin in (0.02, abs(high) - 1e-9, abs(high) + 1e-9, 0.1):
        assert found.tost(margin) == pytest.approx(DescrStatsW(x).ttost_mean(-margin, margin)[0])
        assert (found.tost(margin) < 0.05) == (-margin < low and high < margin)


# ---------------------------------------------------------------------------------------------------------- two samples
def test_welch_agrees_with_scipy_and_statsmodels():
    a, b = [1.0, 1.4, 0.9, 1.2], [0.2, 0.9, 0.5, 0.1, 0.7]
    found, theirs = stats.two_sample(a, b), scipy_stats.ttest_ind(a, b, equal_var=False)
    assert found.df == pytest.approx(theirs.df)
    assert found.interval() == pytest.approx(tuple(theirs.confidence_interval()))
    welch = CompareMeans(DescrStatsW(a), DescrStatsW(b)).ttost_ind(-0.8, 0.8, usevar="unequal")[0]
    assert found.tost(0.8) == pytest.approx(welch)
    assert found.n == 4


def test_the_permutation_p_counts_every_exchange():
    a, b = [3.0, 4.0, 5.0], [0.0, 1.0, 2.0]
    found = stats.two_sample(a, b)
    assert found.p == pytest.approx(2 / 20)


def test_two_samples_of_one_or_without_spread_have_no_interval():
    assert stats.two_sample([1.0], [2.0, 3.0]).interval() is None
    assert stats.two_sample([1.0, 1.0, 1.0], [2.0, 2.0, 2.0]).interval() is None
    assert stats.two_sample([1.0, 1.0, 1.0], [2.0, 2.0, 2.5]).interval() is not None


# ---------------------------------------------------------------------------------------------------- skewed numbers
TAIL = [0.1, 0.2, 0.0, 0.15, 0.3, 2.5]  # to higher values


def test_the_interval_of_skewed_numbers_reaches_further_to_the_side_of_their_tail():
    found, mirrored = stats.one_sample(TAIL), stats.one_sample([-x for x in TAIL])
    by_t = replace(found, gamma=0.0).interval()
    low, high = found.interval()
    assert low == pytest.approx(by_t[0]) and high > by_t[1]
    assert mirrored.interval() == pytest.approx((-high, -low))
    assert found.gamma == pytest.approx(scipy_stats.skew(TAIL, bias=False) / math.sqrt(6))


def test_the_transformation_of_skewed_numbers_by_hand():
    """Of gamma 0.6 and t 2: u = 2 + 0.6 * 4 / 3 + 0.36 * 8 / 27 + 0.1 = 3.00667; its interval ends where u is critical."""
    found = stats.Estimate(6, 2.0, 1.0, 5.0, None, "sign-flip", gamma=0.6)
    assert found.tost(4.0) == pytest.approx(scipy_stats.t.cdf(-2 + 0.8 - 0.10667 + 0.1, 5), rel=1e-4)
    low, high = found.interval()
    t = 2.0 - high
    assert t + 0.6 * t**2 / 3 + 0.36 * t**3 / 27 + 0.1 == pytest.approx(-2.570581836)
    assert low == pytest.approx(2 - 2.570581836), "the t interval, where it reaches further"


def test_too_few_numbers_and_those_that_normal_ones_are_like_are_not_called_skewed():
    assert stats.skewness(TAIL[1:]) == 0
    assert stats.skewness([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == 0
    assert stats.skewness([1.0] * 8) == 0
    draws = np.random.default_rng(2).normal(size=(1000, 10))
    assert np.mean([stats.skewness(x) > 0 for x in draws]) == pytest.approx(0.1, abs=0.03)


def test_each_of_two_samples_brings_the_skewness_that_it_has():
    plain = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert stats.two_sample(plain, plain[:5]).gamma == 0
    first, second = stats.two_sample(TAIL, plain), stats.two_sample(plain, TAIL)
    assert first.gamma == pytest.approx(-second.gamma) and first.gamma > 0
    assert stats.two_sample(TAIL, TAIL).gamma == 0, "what both have alike is taken out by the difference"


def test_a_value_that_stands_apart_is_found():
    assert stats.outlier(TAIL) == 5
    assert stats.outlier([*TAIL[:5], 0.4]) is None
    assert stats.outlier(TAIL[1:]) is None, "of five, none can be told"
    draws = np.random.default_rng(4).normal(size=(1000, 8))
    assert np.mean([stats.outlier(x) is not None for x in draws]) == pytest.approx(0.05, abs=0.025)


# --------------------------------------------------------------------------------------------------------- many at once
def test_holm_by_hand_and_a_missing_test_counts_as_one():
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([0.01, None, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06)]
    assert stats.holm([]) == []


def test_fisher_by_hand():
    """Three of three lost against none of three: 2 of C(6, 3) tables are as extreme."""
    assert stats.fisher(3, 0, 0, 3) == pytest.approx(2 / 20)
    assert stats.fisher(0, 6, 0, 6) == 1


# ---------------------------------------------------------------------------------------------------------- correlation
def test_spearman_with_ties_agrees_with_scipy():
    x, y = [1, 2, 2, 3, 5, 5, 6], [2, 1, 4, 4, 4, 7, 9]
    found = stats.spearman(x, y, list("aabbccc"))
    assert found.rho == pytest.approx(scipy_stats.spearmanr(x, y).statistic)
    assert (found.clusters, found.points) == (3, 7)


def test_the_interval_is_over_seeds_not_evaluations():
    """Eight seeds, each 50 copies of one point: the interval has to be that of eight points, not of 400."""
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(2, 8))
    y += x
    once = stats.spearman(x, y, np.arange(8))
    copied = stats.spearman(np.repeat(x, 50), np.repeat(y, 50), np.repeat(np.arange(8), 50))
    assert (copied.rho, *copied.interval()) == pytest.approx((once.rho, *once.interval()))
    assert np.ptp(once.interval()) > 0.3
    assert np.ptp(once.interval(0.99)) > np.ptp(once.interval())


def test_over_draws_of_six_seeds_whose_evaluations_are_alike_the_interval_covers_the_truth():
    """Evaluations of a seed share most of what they are; the correlation is one within them and none between."""
    generator = np.random.default_rng(0)

    def draw(seeds: int) -> np.ndarray:
        """x and y of ten evaluations of each seed."""
        shared, own = generator.normal(size=(2, seeds, 1)), generator.normal(size=(2, seeds, 10))
        own[1] = 0.9 * own[0] + math.sqrt(1 - 0.9**2) * own[1]
        return (0.7 * shared + math.sqrt(1 - 0.7**2) * own).reshape(2, -1)

    truth = scipy_stats.spearmanr(*draw(20_000)).statistic
    found = [stats.spearman(*draw(6), np.repeat(np.arange(6), 10)).interval() for _ in range(400)]
    assert np.mean([low <= truth <= high for low, high in found]) > 0.95 - 3 * math.sqrt(0.05 * 0.95 / 400)


def test_a_perfect_correlation_has_no_interval_and_the_same_one_by_hand_else():
    assert stats.spearman([1, 2, 3, 4], [1, 2, 3, 4], [0, 0, 1, 1]).interval() is None
    x, y, seeds = [1, 2, 3, 4, 5, 6], [2, 1, 4, 3, 6, 5], [0, 0, 1, 1, 1, 2]
    without = [scipy_stats.spearmanr(*np.array([x, y])[:, np.array(seeds) != s]).statistic for s in range(3)]
    z = np.arctanh(without)
    half = 4.302653 * math.sqrt(2 / 3 * ((z - z.mean()) ** 2).sum())
    centre = math.atanh(scipy_stats.spearmanr(x, y).statistic)
    assert stats.spearman(x, y, seeds).interval() == pytest.approx((math.tanh(centre - half), math.tanh(centre + half)))


def test_a_correlation_with_what_does_not_vary_is_missing():
    found = stats.spearman([1, 1, 1, 1], [1, 2, 3, 4], [0, 0, 1, 1])
    assert (found.rho, found.interval()) == (None, None)
    assert stats.spearman([], [], []).rho is None
    assert stats.spearman([1, 2, math.nan], [2, math.nan, 3], [0, 1, 2]).points == 1


# -------------------------------------------------------------------------------------------------- error rates by draws
THREE_SIGMA = 3 * math.sqrt(0.05 * 0.95 / 1000)


@pytest.mark.parametrize("n", [3, 6])
def test_over_1000_draws_the_interval_covers_the_truth_and_finds_the_detectable_effect(n):
    effect = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8)
    found = [stats.one_sample(x) for x in np.random.default_rng(n).normal(effect, 1.0, size=(1000, n))]
    ends = np.array([e.interval() for e in found])
    covered = (ends[:, 0] <= effect) & (effect <= ends[:, 1])
    assert abs(covered.mean() - 0.95) < THREE_SIGMA
    assert 0.7 < (ends[:, 0] > 0).mean() < 0.84, "some of six look skewed, and their intervals reach further"


def test_welch_covers_at_unequal_spreads():
    generator = np.random.default_rng(7)
    draws = zip(generator.normal(1, 1, (1000, 5)), generator.normal(0, 3, (1000, 3)), strict=True)
    covered = [low <= 1 <= high for low, high in (stats.two_sample(a, b).interval() for a, b in draws)]
    assert abs(np.mean(covered) - 0.95) < THREE_SIGMA


def test_the_exact_p_is_under_five_percent_in_at_most_five_percent_of_draws_without_effect():
    draws = np.random.default_rng(3).normal(0, 1, size=(1000, 6))
    assert np.mean([stats.one_sample(x).p < 0.05 for x in draws]) < 0.05 + THREE_SIGMA


def test_the_provable_margin_is_proved_in_four_of_five_cases_without_a_difference():
    rng, n = np.random.default_rng(5), 6
    margin = stats.Estimate(n, 0.0, 1 / math.sqrt(n), n - 1.0, 1.0, "sign-flip").provable_margin(0.05)
    proved = [stats.one_sample(rng.normal(size=n)).tost(margin) < 0.05 for _ in range(1000)]
    assert 0.62 < np.mean(proved) < 0.88  # the spread is estimated, too, and some samples look skewed

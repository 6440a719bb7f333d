"""Exact intervals and tests of events: against formulas by hand, and their error rates over every outcome, not over draws."""

from __future__ import annotations

import itertools
import math

import pytest
from scipy import stats as scipy_stats

from bitnet.analysis import rates

LEVEL = 0.05


@pytest.mark.parametrize("n", [3, 6, 10])
def test_none_of_n_bounds_the_rate_as_by_hand(n):
    low, high = rates.one_rate([0.0] * n, 0.0).interval()
    assert (low, high) == pytest.approx((0, 1 - 0.025 ** (1 / n)))


def test_the_p_of_a_bound_is_the_binomial_s():
    assert rates.one_rate([1.0] * 6, 0.5).p == pytest.approx(2 / 64)
    assert rates.one_rate([1.0] * 6, 1.5).p is None, "no rate to hold it against"


def test_the_p_of_pairs_is_mcnemar_s_and_that_of_two_groups_fisher_s():
    assert rates.paired_rates([1, 1, 1, 1, 1, 1, 0, 0]).p == pytest.approx(2 / 64)
    assert rates.paired_rates([0, 0, 0]).p == 1
    assert rates.unpaired_rates([1, 1, 1], [0, 0, 0]).p == pytest.approx(2 / 20)


def test_from_six_pairs_on_an_event_that_happens_on_one_side_alone_is_shown():
    low, high = rates.paired_rates([-1] * 6).interval()
    assert low == pytest.approx(-1) and -1e-5 < high < 0
    assert rates.paired_rates([-1] * 5).interval()[1] > 0


def test_pairs_that_never_differ_do_not_show_that_rates_are_equal():
    low, high = rates.paired_rates([0] * 6).interval()
    assert -low == pytest.approx(high) and high == pytest.approx(1 - 0.0125 ** (1 / 6))


def test_a_sum_of_four_rates_is_as_wide_as_their_intervals_together():
    found = rates.summed_rates([(1, [1] * 6), (-1, [0] * 6), (-1, [0] * 6), (1, [0] * 6)])
    assert (found.mean, found.p) == (1, None)
    assert found.interval()[0] == pytest.approx(0.00625 ** (1 / 6) - 2 * (1 - 0.00625 ** (1 / 6)))


@pytest.mark.parametrize("n", [3, 6, 8])
@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.9])
def test_no_end_of_a_rate_s_interval_is_missed_more_often_than_it_says(n, rate):
    missed = [0.0, 0.0]
    for happened in range(n + 1):
        low, high = rates.one_rate([1.0] * happened + [0.0] * (n - happened), 0.0).interval(1 - LEVEL)
        chance = scipy_stats.binom.pmf(happened, n, rate)
        missed = [missed[0] + chance * (low > rate), missed[1] + chance * (high < rate)]
    assert max(missed) <= LEVEL / 2


@pytest.mark.parametrize("n", [6, 8])
@pytest.mark.parametrize(("first", "second"), [(0.5, 0.5), (0.2, 0.2), (0.1, 0.0), (0.6, 0.3), (0.4, 0.1)])
@pytest.mark.parametrize("paired", [True, False])
def test_no_end_of_a_difference_of_rates_is_missed_more_often_than_it_says(n, first, second, paired):
    """`first`, `second`: of pairs how often it happens on one side alone, of groups how often in each."""
    missed = [0.0, 0.0]
    for a, b in itertools.product(range(n + 1), repeat=2):
        if paired and a + b > n:
            continue
        if paired:
            found = rates.paired_rates([1] * a + [-1] * b + [0] * (n - a - b))
            chance = scipy_stats.multinomial.pmf([a, b, n - a - b], n, [first, second, 1 - first - second])
        else:
            found = rates.unpaired_rates([1] * a + [0] * (n - a), [1] * b + [0] * (n - b))
            chance = math.prod(scipy_stats.binom.pmf(k, n, rate) for k, rate in ((a, first), (b, second)))
        low, high = found.interval(1 - LEVEL)
        missed = [missed[0] + chance * (low > first - second), missed[1] + chance * (high < first - second)]
    assert max(missed) <= LEVEL / 2

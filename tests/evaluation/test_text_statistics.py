"""Text statistics against values counted by hand, and at texts that are too short to have them."""

from __future__ import annotations

import numpy as np
import pytest

from bitnet.evaluation import text_statistics
from bitnet.runs.columns import TEXT_NUMBERS

# n-grams of the first: 12 21 12 21 12; 121 212 121 212; 1212 2121 1212. Of the second: 34 45 53 34 46; all of 3 and 4 differ.
TEXTS = np.array([[1, 2, 1, 2, 1, 2], [3, 4, 5, 3, 4, 6]])


@pytest.mark.parametrize(
    ("n", "of_each"),
    [(1, (1 - 2 / 6, 1 - 4 / 6)), (2, (1 - 2 / 5, 1 - 4 / 5)), (3, (1 - 2 / 4, 0)), (4, (1 - 2 / 3, 0)), (6, (0, 0))],
)
def test_seq_rep_is_averaged_over_texts(n, of_each):
    for text, expected in zip(TEXTS, of_each, strict=True):
        assert text_statistics.seq_rep(text[None], n) == pytest.approx(expected)
    assert text_statistics.seq_rep(TEXTS, n) == pytest.approx(sum(of_each) / 2)


def test_distinct_n_counts_over_all_texts_and_divides_by_tokens():
    assert text_statistics.distinct_n(TEXTS, 1) == 6 / 12
    assert text_statistics.distinct_n(TEXTS, 2) == 6 / 12  # 2 + 4; the 23 from one text to the next is no 2-gram
    assert text_statistics.distinct_n(np.array([[7, 7], [7, 7]]), 2) == 1 / 4
    assert text_statistics.distinct_n(TEXTS[[0, 0]], 2) == 2 / 12  # what two texts share counts once


def test_diversity_is_the_product_over_the_averages():
    assert text_statistics.diversity(TEXTS) == pytest.approx((1 - 0.4) * (1 - 0.25) * (1 - 1 / 6))
    assert text_statistics.diversity(np.arange(20).reshape(2, 10)) == 1
    assert text_statistics.diversity(np.full((1, 64), 5)) == pytest.approx(1 / 63 / 62 / 61)


@pytest.mark.parametrize("slope", [-1, -2])
def test_zipf_slope_of_an_exact_power_law(slope):
    counts = 3600 // np.arange(1, 7) ** -slope  # divides evenly at ranks 1..6
    tokens = np.random.default_rng(0).permutation(np.repeat([40, 7, 99, 3, 12, 8], counts))
    assert text_statistics.zipf_slope(np.stack([tokens, tokens])) == pytest.approx(slope, abs=1e-9)


def test_zipf_slope_is_flat_for_equal_counts_and_needs_three_tokens():
    assert text_statistics.zipf_slope(np.tile([4, 5, 6], 9)) == pytest.approx(0, abs=1e-12)
    assert text_statistics.zipf_slope(np.array([4, 4, 5])) is None
    assert text_statistics.zipf_slope(np.array([4, 4, 4])) is None


def test_too_short_texts_have_no_numbers():
    assert text_statistics.seq_rep(TEXTS[:, :3], 4) is None
    assert text_statistics.distinct_n(TEXTS[:, :1], 2) is None
    assert text_statistics.diversity(TEXTS[:, :3]) is None
    one = text_statistics.text_statistics(np.array([[1], [2]]))
    assert one == {"distinct_1": 1.0, "distinct_2": None, "seq_rep_4": None, "diversity": None, "zipf": None}


def test_the_numbers_go_by_the_names_of_the_columns():
    got = text_statistics.text_statistics(TEXTS)
    assert got.keys() == TEXT_NUMBERS.keys()
    # counts 3, 3, 2, 2, 1, 1
    slope = np.polyfit(np.log([1, 2, 3, 4, 5, 6]), np.log([3, 3, 2, 2, 1, 1]), 1)[0]
    expected = {"distinct_1": 0.5, "distinct_2": 0.5, "seq_rep_4": 1 / 6, "diversity": 0.375, "zipf": slope}
    assert got == pytest.approx(expected)


# -------------------------------------------------------------------------------------------------------------------- rep
#        place  0  1  2  3  4  5
TEXT = np.array([5, 6, 7, 5, 8, 9], dtype=np.uint16)


@pytest.mark.parametrize(
    ("argmax", "end", "length", "found"),
    [
        (7, 3, 1, True),  # the token just before
        (6, 3, 1, False),
        (6, 3, 2, True),
        (5, 3, 2, False),  # the predicted place itself does not count
        (5, 3, 3, True),
        (5, 3, 100, True),
        (9, 3, 100, False),  # nor does what follows
        (5, 1, 4, True),
        (6, 1, 4, False),
        (5, 0, 4, False),  # before the start of the text lies nothing, not its end nor its first token
        (9, 0, 4, False),
        (65535, 0, 4, False),  # and what stands for nothing is no token
    ],
)
def test_rep_looks_at_so_many_tokens_before(argmax, end, length, found):
    assert text_statistics.rep(np.array([argmax]), np.array([end]), TEXT, length) == float(found)


def test_rep_is_a_share():
    assert text_statistics.rep(np.array([7, 6, 5, 8]), np.array([3, 3, 1, 5]), TEXT, 1) == 3 / 4


@pytest.mark.parametrize("length", text_statistics.REP_LENGTHS)
def test_rep_is_a_loop_over_positions(length):
    drawn = np.random.default_rng(1)
    text, argmax = drawn.integers(0, 60, 300), drawn.integers(0, 60, 300)
    naive = np.mean([argmax[i] in text[max(0, i - length) : i].tolist() for i in range(300)])
    assert text_statistics.rep(argmax, np.arange(300), text, length) == pytest.approx(naive)

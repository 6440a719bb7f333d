"""Where the held-out sequences, contexts and prompts lie in the text, and what happens when it is too short for them."""

from __future__ import annotations

import numpy as np
import pytest

from bitnet.common.errors import UserError
from bitnet.data.heldout import Heldout, spread_starts

TEXT = np.arange(1000, 1101, dtype=np.uint16)  # 101 tokens, each its place + 1000


def test_windows_spread_over_the_whole_text():
    assert spread_starts(TEXT, 4, 10).tolist() == [0, 20, 50, 70]
    assert spread_starts(TEXT, 10, 10).tolist() == list(range(0, 100, 10))
    assert spread_starts(TEXT, 11, 10).tolist() == list(range(0, 100, 10))  # no more than fit
    assert spread_starts(TEXT, 1, 10).tolist() == [0]
    assert spread_starts(TEXT[:5], 3, 10).tolist() == []


@pytest.mark.parametrize(("tokens", "count", "length"), [(1000, 7, 13), (1000, 76, 13), (14, 1, 13), (5003, 9, 32)])
def test_windows_neither_overlap_nor_leave_the_text_nor_bunch(tokens, count, length):
    starts = spread_starts(np.zeros(tokens), count, length)
    assert len(starts) == count and starts[0] == 0 and starts[-1] + length + 1 <= tokens
    gaps = np.diff(np.append(starts, (tokens - 1) // length * length))
    assert gaps.min() >= length and gaps.max() - gaps.min() <= length


def test_sequences_know_where_the_tokens_lie_that_they_predict():
    heldout = Heldout(TEXT, 4, 10)
    assert heldout.windows_HT.shape == (4, 11) and heldout.windows_HT.dtype == np.int64
    assert heldout.windows_HT[:, 0].tolist() == [1000, 1020, 1050, 1070]
    assert heldout.windows_HT[1].tolist() == list(range(1020, 1031))
    assert TEXT[heldout.ends_N].tolist() == heldout.windows_HT[:, 1:].ravel().tolist()


def test_too_few_tokens_for_the_sequences_are_an_error_that_says_so():
    assert len(Heldout(TEXT[:41], 4, 10).windows_HT) == 4
    with pytest.raises(UserError, match=r"probe\.heldout_sequences=4: .* has 40 tokens, enough for 3 sequences of seq_len=10"):
        Heldout(TEXT[:40], 4, 10)
    with pytest.raises(UserError, match="enough for 0 sequences"):
        Heldout(TEXT[:0], 1, 10)


def test_contexts_are_spread_over_the_text_or_missing():
    heldout = Heldout(TEXT, 1, 10)
    contexts = heldout.contexts(12, 8)
    assert contexts.dtype == np.int64
    assert contexts.tolist() == [list(range(1000 + 8 * k, 1008 + 8 * k)) for k in range(12)]
    assert heldout.contexts(3, 8)[:, 0].tolist() == [1000, 1032, 1064]
    assert heldout.contexts(13, 8) is None


def test_prompts_come_with_what_follows_them():
    prompts, followed = Heldout(TEXT, 1, 10).prompts(3, 5)
    assert prompts.shape == (3, 10) and followed.shape == (3, 5)
    assert prompts[:, 0].tolist() == [1000, 1030, 1060]
    for row in np.concatenate([prompts, followed], axis=1):
        assert row.tolist() == list(range(row[0], row[0] + 15))


def test_no_prompts_where_none_are_asked_for_or_the_text_is_too_short():
    heldout = Heldout(TEXT, 1, 10)
    assert heldout.prompts(0, 5) is None
    assert heldout.prompts(6, 5) is not None
    assert heldout.prompts(7, 5) is None
    assert heldout.prompts(1, 91) is None

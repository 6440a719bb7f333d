"""Sizes and contenders as they are typed, and the run that a case stands for."""

from __future__ import annotations

import pytest

from bitnet.benchmark.cases import CONTENDERS, DEFAULT_SIZES, QUICK_SIZES, Case, parse_contenders, parse_sizes, run_of
from bitnet.common.errors import UserError


def test_sizes_are_read_and_written_alike():
    text = "256:4x32,64:8x256,64:4x32:512"
    assert parse_sizes(text) == [Case(256, 4, 32, 50_257), Case(64, 8, 256, 2_048), Case(64, 4, 32, 512)]
    assert ",".join(map(str, parse_sizes(text))) == text
    assert parse_sizes("64:8x256")[0].tokens == 2048


def test_the_default_sizes_are_those_that_are_promised():
    cases = parse_sizes(DEFAULT_SIZES)
    assert {(c.hidden, c.batch, c.length) for c in cases} == {
        (hidden, *step) for hidden in (64, 128, 256, 512, 768, 1024) for step in ((4, 32), (8, 256))
    }
    assert all(c.vocabulary == (2_048 if c.hidden < 256 else 50_257) for c in cases)
    assert set(parse_sizes(QUICK_SIZES)) < set(cases)


@pytest.mark.parametrize("text", ["", "256", "256:4", "256:4x", "256:0x32", "x:4x32", "256:4x32,", "36:4x32", "256:4x32:0"])
def test_a_size_that_is_none_is_named(text):
    with pytest.raises(UserError, match="--sizes"):
        parse_sizes(text)


def test_contenders_come_in_one_order_and_a_wrong_one_is_named():
    assert parse_contenders("ours, reference") == ["reference", "ours"]
    assert parse_contenders(",".join(CONTENDERS)) == list(CONTENDERS)
    with pytest.raises(UserError, match=r"--contenders our: allowed are .*; did you mean 'ours'"):
        parse_contenders("our")


@pytest.mark.parametrize("case", [Case(256, 8, 256, 50_257), Case(40, 4, 32, 100)])
def test_a_case_is_a_run_of_the_study(case):
    config = run_of(case)
    assert (config.model.hidden_size, config.model.ffn_size, config.model.num_layers) == (case.hidden, 2 * case.hidden, 4)
    assert (config.batch_size, config.seq_len, config.data.vocab_size) == (case.batch, case.length, case.vocabulary)
    assert (config.quant.weights, run_of(case, quant="float").quant.weights) == ("ternary", "float")
    assert (config.optimizer.kind, config.data.at_end) == ("adam_l2", "repeat")

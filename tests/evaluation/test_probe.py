"""What an evaluation asks: the same questions for a seed, whatever the arm and the version of NumPy, and every column."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

import bitnet.evaluation.probe
from bitnet.config.run import ModelConfig, ProbeConfig, QuantConfig
from bitnet.data.heldout import Heldout
from bitnet.evaluation.probe import Probe, random_tokens
from bitnet.evaluation.text_statistics import REP_LENGTHS, rep, text_statistics
from bitnet.model.transformer import BitNet
from bitnet.runs.columns import COLUMNS, HOW, MANY_CONTEXTS, TEXT_NUMBERS
from bitnet.training.loop import BEFORE_UPDATE

SEQ_LEN, HELDOUT = 8, 4


def probe(seed: int = 0, quant: str = "ternary", tied: bool = False, vocab_size: int = 40, tokens: int = 4000, **knobs) -> Probe:
    torch.manual_seed(1)
    model = ModelConfig(hidden_size=8, num_layers=1, num_heads=2, num_kv_heads=2, ffn_size=16, tied_head=tied)
    built = BitNet(model, QuantConfig(weights=quant, activations="float"), vocab_size, SEQ_LEN)
    text = np.random.default_rng(3).integers(0, vocab_size, tokens).astype(np.uint16)
    config = ProbeConfig(**{"heldout_sequences": HELDOUT, "prompts": 3, "new_tokens": 6} | knobs)
    return Probe(
        built,
        config,
        seed=seed,
        first_batch=text[: 3 * (SEQ_LEN + 1)].reshape(3, -1).astype(np.int64),
        heldout=Heldout(text, config.heldout_sequences, SEQ_LEN),
        autocast=contextlib.nullcontext,
    )


@torch.no_grad()
def argmaxes(p: Probe, ids: torch.Tensor) -> list[list[int]]:
    """The predictions at every position of each sequence."""
    return p.model(ids).argmax(dim=-1).tolist()


def missing(row: dict[str, float | None]) -> set[str]:
    return {name for name, value in row.items() if value is None}


# ----------------------------------------------------------------------------------------------------- random contexts
def test_contexts_are_these_for_good():
    """Recorded values: other ones, and no run could be compared with those on disk."""
    assert random_tokens(0, None, 5, 50_257).tolist() == [16943, 29442, 41878, 13705, 15009]
    assert random_tokens(0, 3, 5, 50_257).tolist() == [46075, 10505, 49092, 44179, 44518]


def test_contexts_depend_on_the_seed_and_not_on_the_step_or_the_arm():
    first = probe(vocab_size=50_257).contexts(1)
    assert first.shape == (20, 8) and first.dtype == torch.int64
    assert torch.equal(first, probe(vocab_size=50_257, quant="float").contexts(1000))
    assert not torch.equal(first, probe(vocab_size=50_257, seed=1).contexts(1))
    assert torch.equal(first.flatten(), torch.from_numpy(random_tokens(0, None, 160, 50_257)))


def test_redrawn_contexts_depend_on_the_step_too():
    drawn = [probe(redraw=True).contexts(step) for step in (1, 2)]
    assert not torch.equal(*drawn)
    assert torch.equal(drawn[1], probe(redraw=True).contexts(2))


@pytest.mark.parametrize("redraw", [False, True])
def test_more_contexts_begin_with_the_studys(redraw):
    p = probe(redraw=redraw)
    assert torch.equal(p.contexts(5, 2000)[:20], p.contexts(5))


@pytest.mark.parametrize("vocab_size", [2, 37, 65_536, 128_256])
def test_tokens_are_uniform_over_the_vocabulary(vocab_size):
    ids = random_tokens(5, None, 100_000, vocab_size)
    assert ids.min() >= 0 and ids.max() < vocab_size
    # mean of n uniform ids, within 5 of its standard deviations
    assert ids.mean() == pytest.approx((vocab_size - 1) / 2, abs=5 * vocab_size / np.sqrt(12 * 100_000))


def test_contexts_are_drawn_apart_from_the_order_of_the_batches():
    """Pass 101 of the data has the same number as the stream of the contexts."""
    bits = np.random.Philox(np.random.SeedSequence([0, 101])).random_raw(8)
    assert random_tokens(0, None, 8, 2**40).tolist() != (bits % np.uint64(2**40)).tolist()


# -------------------------------------------------------------------------------------------------------------- columns
def test_an_evaluation_fills_every_declared_column_and_no_other():
    row = probe(many_contexts=2000, tokens=17_000).measure(1)
    assert row.keys() == set(COLUMNS) - BEFORE_UPDATE
    assert missing(row) == set()


def test_what_a_model_does_not_have_is_missing():
    row = probe(quant="float", tied=True, many_contexts=0, prompts=0).measure(1)
    assert row.keys() == set(COLUMNS) - BEFORE_UPDATE
    ternary = {"ternary_neg", "ternary_zero", "ternary_pos", "flip_rate", "outside_codes"}
    scaled = {"outside_scaled_attention", "outside_scaled_ffn"}
    many = {f"{kind}_uniq_{n}" for kind in ("random", "text") for n in MANY_CONTEXTS}
    text = {f"{how}_{name}" for how in HOW for name in TEXT_NUMBERS}
    assert missing(row) == ternary | scaled | many | text | {"latent_head", "outside_head"}


@pytest.mark.parametrize("metric", ["random_contexts", "first_batch"])
def test_the_metric_is_the_count_that_is_asked_for(metric):
    p = probe(metric=metric, contexts=30)
    row = p.measure(1)
    random = len({line[-1] for line in argmaxes(p, p.contexts(1))})
    first = len({token for line in argmaxes(p, p.first_batch_BT[:, :-1]) for token in line})
    assert (row["contexts_uniq"], row["first_batch_uniq"]) == (random, first) and random != first
    assert (row["contexts_positions"], row["first_batch_positions"]) == (30, 3 * SEQ_LEN)
    assert row["UniquePredictions"] == (random if metric == "random_contexts" else first)


@pytest.mark.parametrize("most", MANY_CONTEXTS)
def test_wider_counts_hold_the_narrower_ones(most):
    p = probe(many_contexts=most, tokens=17_000)
    row = p.measure(1)
    random = [line[-1] for line in argmaxes(p, p.contexts(1, most))]
    text = [line[-1] for line in argmaxes(p, torch.from_numpy(p.heldout.contexts(most, 8)))]
    for n in MANY_CONTEXTS:
        expected = (len(set(random[:n])), len(set(text[:: most // n]))) if n <= most else (None, None)
        assert (row[f"random_uniq_{n}"], row[f"text_uniq_{n}"]) == expected, n
    assert row["random_uniq_20"] == row["contexts_uniq"]
    assert len(text[:: most // 20]) == 20  # spread over the text at each size, not its beginning


def test_a_short_text_has_no_wider_counts_but_random_contexts_do():
    row = probe(many_contexts=200, tokens=1000).measure(1)
    assert missing(row) == {"text_uniq_20", "text_uniq_200", "text_uniq_2000", "random_uniq_2000"}


def test_heldout_numbers_are_those_of_the_sequences():
    p = probe()
    row = p.measure(1)
    predicted = np.array(argmaxes(p, p.heldout_HT[:, :-1]))
    with torch.no_grad():
        shares = [p.model(s[None, :-1])[0].double().log_softmax(-1)[range(SEQ_LEN), s[1:]] for s in p.heldout_HT]
    assert row["heldout_loss"] == pytest.approx(-torch.stack(shares).mean().item(), rel=1e-5)
    assert row["heldout_uniq"] == len(np.unique(predicted)) and row["heldout_positions"] == HELDOUT * SEQ_LEN
    for length in REP_LENGTHS:
        assert row[f"rep_{length}"] == rep(predicted.ravel(), p.heldout.ends_N, p.heldout.tokens, length)
    assert row["rep_16"] <= row["rep_32"] <= row["rep_128"] and row["rep_16"] < row["rep_128"]


def test_how_many_logits_are_held_at_a_time_changes_nothing(monkeypatch):
    whole = probe(many_contexts=2000, tokens=17_000).measure(1)
    monkeypatch.setattr(bitnet.evaluation.probe, "CHUNK_LOGITS", 3 * SEQ_LEN * 40)
    assert probe(many_contexts=2000, tokens=17_000).measure(1) == pytest.approx(whole, rel=1e-6)


# ---------------------------------------------------------------------------------------------------------- continuations
def test_samples_are_what_the_text_numbers_are_computed_from():
    p = probe(prompts=2, new_tokens=7)
    row = p.measure(1)
    prompts, followed = p.heldout.prompts(2, 7)
    assert [s.keys() for s in p.samples] == [{"prompt", "greedy", "sampled", "heldout"}] * 2
    assert [s["prompt"] for s in p.samples] == prompts.tolist() and [s["heldout"] for s in p.samples] == followed.tolist()
    for how in HOW:
        expected = text_statistics(np.array([s[how] for s in p.samples]))
        assert {name: row[f"{how}_{name}"] for name in TEXT_NUMBERS} == pytest.approx(expected)
    assert p.reference() == text_statistics(followed)


def test_sampled_tokens_depend_on_the_seed_and_not_on_the_step():
    first, again, other = probe(), probe(), probe(seed=1)
    first.measure(1)
    again.measure(900)
    other.measure(1)
    assert first.samples == again.samples
    assert [s["greedy"] for s in first.samples] == [s["greedy"] for s in other.samples]
    assert [s["sampled"] for s in first.samples] != [s["sampled"] for s in other.samples]


def test_no_prompts_leave_no_samples_and_no_reference():
    for p in (probe(prompts=0), probe(prompts=500)):  # none asked for, or more than the text holds
        p.measure(1)
        assert p.samples == [] and p.reference() == {}


# --------------------------------------------------------------------------------------------------------- leaves no trace
def test_an_evaluation_changes_nothing_that_training_uses():
    p = probe()
    p.model.train()
    weights, rng = {n: t.clone() for n, t in p.model.state_dict().items()}, torch.get_rng_state()
    p.measure(1)
    assert p.model.training and torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(weights[n], t) for n, t in p.model.state_dict().items())
    assert all(q.grad is None for q in p.model.parameters())


def test_flips_are_counted_since_the_last_evaluation_also_after_a_resumption():
    p = probe()
    assert p.measure(1)["flip_rate"] == 0
    saved = {n: t.clone() for n, t in p.state().items()}
    with torch.no_grad():
        for layer in p.model.bitlinears():
            layer.weight.neg_()
    row = p.measure(2)
    assert row["flip_rate"] == pytest.approx(1 - row["ternary_zero"])
    assert p.measure(3)["flip_rate"] == 0
    resumed = probe()
    resumed.load_state(saved)
    resumed.model.load_state_dict(p.model.state_dict())
    assert resumed.measure(2)["flip_rate"] == row["flip_rate"]
    assert probe(quant="float").state() == {}

"""What an evaluation asks: the same contexts for a seed, whatever the arm and the version of NumPy."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from bitnet.config import ModelConfig, ProbeConfig, QuantConfig
from bitnet.model import BitNet
from bitnet.probe import Probe, random_tokens


def probe(seed: int = 0, quant: str = "ternary", **knobs) -> Probe:
    model = ModelConfig(hidden_size=8, num_layers=1, num_heads=2, num_kv_heads=2, ffn_size=16)
    built = BitNet(model, QuantConfig(weights=quant, activations="float"), 50_257, 8)
    windows = np.zeros((1, 5), dtype=np.int64)
    config = ProbeConfig(**knobs)
    return Probe(built, config, seed=seed, first_batch=windows, heldout=windows, autocast=contextlib.nullcontext)


def test_contexts_are_these_for_good():
    """Recorded values: other ones, and no run could be compared with those on disk."""
    assert random_tokens(0, None, 5, 50_257).tolist() == [16943, 29442, 41878, 13705, 15009]
    assert random_tokens(0, 3, 5, 50_257).tolist() == [46075, 10505, 49092, 44179, 44518]


def test_contexts_depend_on_the_seed_and_not_on_the_step_or_the_arm():
    first = probe().contexts(1)
    assert first.shape == (20, 8) and first.dtype == torch.int64
    assert torch.equal(first, probe(quant="float").contexts(1000))
    assert not torch.equal(first, probe(seed=1).contexts(1))
    assert torch.equal(first.flatten(), torch.from_numpy(random_tokens(0, None, 160, 50_257)))


def test_redrawn_contexts_depend_on_the_step_too():
    drawn = [probe(redraw=True).contexts(step) for step in (1, 2)]
    assert not torch.equal(*drawn)
    assert torch.equal(drawn[1], probe(redraw=True).contexts(2))


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

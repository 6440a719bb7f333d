"""Continuations against a loop over single prompts, and what is sampled against the cumulative distribution itself."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from torch import Tensor

from bitnet.config.run import ModelConfig, QuantConfig
from bitnet.evaluation.continuations import continuations
from bitnet.model.transformer import BitNet

L, N, P = 6, 9, 5
PROMPTS = torch.randint(30, (P, L), generator=torch.Generator().manual_seed(1))
UNIFORM = torch.rand(N, P, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def built(quant: str = "ternary") -> BitNet:
    torch.manual_seed(0)
    config = ModelConfig(hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=2, ffn_size=32)
    return BitNet(config, QuantConfig(weights=quant, activations="float"), 30, 64).eval()


def made(model, prompts: Tensor = PROMPTS, uniform: Tensor = UNIFORM, window: int = L) -> tuple[np.ndarray, np.ndarray]:
    return continuations(model, prompts, uniform, window, contextlib.nullcontext)


@torch.no_grad()
def one_by_one(model: BitNet, window: int, *, uniform: Tensor | None) -> list[list[int]]:
    """Each prompt by itself: the whole forward pass, softmax in NumPy, the first token whose cumulative share exceeds u."""
    out = []
    for p, prompt in enumerate(PROMPTS.tolist()):
        ids = list(prompt)
        for n in range(N):
            logits = model(torch.tensor([ids[-window:]]))[0, -1].double().numpy()
            share = np.exp(logits) / np.exp(logits).sum()
            ids.append(int(logits.argmax()) if uniform is None else int((share.cumsum() <= uniform[n, p].item()).sum()))
        out.append(ids[L:])
    return out


@pytest.mark.parametrize("window", [L, L + N, 3])
@pytest.mark.parametrize("quant", ["ternary", "float"])
def test_continuations_are_those_of_a_loop_over_single_prompts(quant, window):
    greedy, sampled = made(built(quant), window=window)
    assert greedy.shape == sampled.shape == (P, N) and greedy.dtype == sampled.dtype == np.int64
    assert greedy.tolist() == one_by_one(built(quant), window, uniform=None)
    assert sampled.tolist() == one_by_one(built(quant), window, uniform=UNIFORM)


def test_the_window_is_never_exceeded():
    model, seen = built(), []
    model.embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    made(model)
    assert seen == [L] * N
    seen.clear()
    made(model, window=L + 2)
    assert seen == [L, L + 1] + [L + 2] * (N - 2)


def test_equal_uniforms_give_equal_tokens_and_others_others():
    model = built()
    first, again = made(model), made(model)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    greedy, sampled = made(model, uniform=1 - UNIFORM)
    assert np.array_equal(greedy, first[0]) and not np.array_equal(sampled, first[1])


def test_a_prompt_goes_on_alike_whatever_stands_beside_it():
    model = built()
    together = made(model)
    for some in ([3], [4, 0], [0, 1, 2]):
        apart = made(model, PROMPTS[some], UNIFORM[:, some])
        assert all(np.array_equal(a[some], b) for a, b in zip(together, apart, strict=True))


def test_no_state_of_a_random_generator_is_used_and_no_gradient_kept():
    model, before = built(), torch.get_rng_state()
    made(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())


# ------------------------------------------------------------------------------------------------- what sampling draws from
class Bigrams:
    """A model whose logits are a table's row for the newest token: what it should draw is known exactly."""

    def __init__(self, table_VV: Tensor) -> None:
        self.table_VV = table_VV

    def hidden(self, ids: Tensor) -> Tensor:
        return ids

    def logits(self, newest: Tensor) -> Tensor:
        return self.table_VV[newest]


def test_samples_follow_the_softmax():
    """Uniforms on a fine grid draw each token as often as its probability says, to one draw."""
    table = torch.tensor([[0.0, 2.0, -1.0, 0.5], [1.0, 1.0, 1.0, 1.0], [3.0, 0.0, 0.0, -9.0], [0.0, 0.1, 0.2, 0.3]])
    draws = 20_000
    grid = (torch.arange(draws, dtype=torch.float64) + 0.5)[None] / draws
    for last in range(4):
        prompts = torch.full((draws, 3), last)
        _, sampled = made(Bigrams(table), prompts, grid)
        expected = draws * table[last].double().softmax(0).numpy()
        assert np.abs(np.bincount(sampled[:, 0], minlength=4) - expected).max() <= 1
        assert (np.diff(sampled[:, 0]) >= 0).all()  # the inverse of the cumulative distribution rises


def test_the_next_sample_depends_on_the_last_one():
    follow = torch.full((3, 3), -30.0)
    follow[[0, 1, 2], [1, 2, 0]] = 30.0  # 0 -> 1 -> 2 -> 0, all but certainly
    greedy, sampled = made(Bigrams(follow), torch.tensor([[0, 0], [0, 1]]), UNIFORM[:4, :2])
    assert greedy.tolist() == sampled.tolist() == [[1, 2, 0, 1], [2, 0, 1, 2]]


def test_the_ends_of_the_unit_interval_draw_tokens_that_can_occur():
    table = torch.zeros(4, 4)
    table[:, 0] = -torch.inf
    ends = torch.tensor([[0.0, 1 - 2**-53]], dtype=torch.float64)
    assert made(Bigrams(table), torch.tensor([[1], [1]]), ends)[1].tolist() == [[1], [3]]
    for size in (3, 10, 49, 1000):  # their shares add up to less than the largest uniform for some of these
        flat = torch.zeros(size, size)
        assert made(Bigrams(flat), torch.tensor([[0], [0]]), ends)[1].tolist() == [[0], [size - 1]]

"""Losses and regularisers against sums written out element by element, with their gradients and their signs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bitnet.training import losses

N, V = 6, 11


@pytest.fixture
def logits() -> Tensor:
    return (3 * torch.randn(N, V, generator=torch.Generator().manual_seed(0))).double().requires_grad_()


@pytest.fixture
def targets() -> Tensor:
    return torch.tensor([0, 3, 3, 10, 7, 1])


@pytest.fixture
def log_frequency() -> Tensor:
    """A skewed corpus: token v is 2^v times as frequent as token 0."""
    counts = 2.0 ** torch.arange(V, dtype=torch.float64)
    return (counts / counts.sum()).log()


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def naive_weights(target: int, epsilon: float, form: str) -> list[float]:
    """What each token's -log p counts."""
    if form == "study":
        return [1 - epsilon if v == target else epsilon / V for v in range(V)]
    return [epsilon / V + (1 - epsilon if v == target else 0) for v in range(V)]


SMOOTHINGS = [(0.0, "study"), (0.0, "standard"), (0.1, "study"), (0.1, "standard"), (0.9, "study")]


@pytest.mark.parametrize(("epsilon", "form"), SMOOTHINGS)
def test_cross_entropy_is_the_sum_over_tokens(logits, targets, epsilon, form):
    p = softmax(logits.detach().numpy())
    total = 0.0
    for n, target in enumerate(targets.tolist()):
        for v, weight in enumerate(naive_weights(target, epsilon, form)):
            total -= weight * math.log(p[n, v])
    assert losses.cross_entropy(logits, targets, epsilon, form).item() == pytest.approx(total / N, rel=1e-12)


@pytest.mark.parametrize(("epsilon", "form"), SMOOTHINGS)
def test_cross_entropy_gradient(logits, targets, epsilon, form):
    """d/dz_v of -sum_u w_u log p_u is p_v sum(w) - w_v."""
    losses.cross_entropy(logits, targets, epsilon, form).backward()
    p = softmax(logits.detach().numpy())
    w = np.array([naive_weights(t, epsilon, form) for t in targets.tolist()])
    np.testing.assert_allclose(logits.grad.numpy(), (p * w.sum(1, keepdims=True) - w) / N, atol=1e-14)


def test_smoothing_of_the_study_gives_the_weight_one_less_a_share():
    assert sum(naive_weights(3, 0.1, "study")) == pytest.approx(1 - 0.1 / V)
    uniform = torch.zeros(1, V)
    value = losses.cross_entropy(uniform, torch.tensor([3]), 0.1, "study").item()
    assert value == pytest.approx((1 - 0.1 / V) * math.log(V), rel=1e-6)
    value = losses.cross_entropy(uniform, torch.tensor([3]), 0.1, "standard").item()
    assert value == pytest.approx(math.log(V), rel=1e-6)


def test_losses_stand_large_logits():
    z = torch.tensor([[1e4, 0.0, -1e4]])
    for form in ("study", "standard"):
        assert torch.isfinite(losses.cross_entropy(z, torch.tensor([2]), 0.1, form))
    for kind, f in losses.REGULARIZERS.items():
        if f is not None:
            value, _ = f(z, torch.log(torch.tensor([0.5, 0.3, 0.2])), losses.initial_state(kind, 3, 0.9))
            assert torch.isfinite(value), kind


# --------------------------------------------------------------------------------------------------------- regularisers
def entropy(p: np.ndarray) -> float:
    return -sum(x * math.log(x) for x in p if x > 0)


NAIVE = {
    "entropy": lambda p, z, f, r: 1 - np.mean([entropy(row) for row in p]) / math.log(V),
    "token_frequency": lambda p, z, f, r: np.mean([sum(p[n, v] * f[v] for v in range(V)) for n in range(N)]) + math.log(V),
    "diversity": lambda p, z, f, r: 1 - entropy(p.mean(axis=0)) / math.log(V),
    "coverage": lambda p, z, f, r: -sum(p.mean(axis=0)[v] * (1 - min(1, V * r[v])) for v in range(V)),
    "z_loss": lambda p, z, f, r: np.mean([math.log(sum(math.exp(x) for x in row)) ** 2 for row in z]),
}


def test_every_regularizer_is_checked():
    assert set(NAIVE) | {"none"} == set(losses.REGULARIZERS)
    assert losses.REGULARIZERS["none"] is None


@pytest.mark.parametrize("kind", NAIVE)
def test_regularizer_is_its_formula(kind, logits, log_frequency):
    recent = torch.linspace(0, 0.2, V, dtype=torch.float64)
    state = {"recent_V": recent, "memory": torch.tensor(0.9)} if kind == "coverage" else {}
    value, _ = losses.REGULARIZERS[kind](logits, log_frequency, state)
    z = logits.detach().numpy()
    assert value.item() == pytest.approx(NAIVE[kind](softmax(z), z, log_frequency.numpy(), recent.numpy()), rel=1e-12)
    assert value.requires_grad


def descend(kind: str, logits: Tensor, log_frequency: Tensor, state: losses.State, steps: int = 200) -> Tensor:
    """Logits after gradient steps on the regulariser alone."""
    z = logits.detach().clone().requires_grad_()
    for _ in range(steps):
        value, _ = losses.REGULARIZERS[kind](z, log_frequency, state)
        (gradient,) = torch.autograd.grad(value, z)
        z = (z - gradient).detach().requires_grad_()
    return z.detach()


def test_entropy_penalty_flattens_each_prediction(logits, log_frequency):
    before, after = (torch.special.entr(z.softmax(-1)).sum(-1) for z in (logits, descend("entropy", logits, log_frequency, {})))
    assert (after > before).all()


def test_token_frequency_penalty_moves_probability_to_rare_tokens(logits, log_frequency):
    after = descend("token_frequency", logits, log_frequency, {}).softmax(-1)
    before = logits.softmax(-1)
    assert (after @ log_frequency < before @ log_frequency).all()
    assert (after[:, -1] < before[:, -1]).all() and after[:, 0].mean() > before[:, 0].mean()


def test_diversity_penalty_spreads_the_batch_not_each_prediction(log_frequency):
    same = torch.zeros(V, V, dtype=torch.float64)
    same[:, 0] = 5
    different = 50 * torch.eye(V, dtype=torch.float64)  # each position sure of a token of its own
    assert losses.diversity_penalty(same, log_frequency, {})[0] > 0.8
    assert losses.diversity_penalty(different, log_frequency, {})[0].item() == pytest.approx(0, abs=1e-9)
    marginal = descend("diversity", same, log_frequency, {}).softmax(-1).mean(0)
    assert torch.special.entr(marginal).sum() > torch.special.entr(same.softmax(-1).mean(0)).sum()


def test_coverage_rewards_tokens_not_predicted_lately(logits, log_frequency):
    recent = torch.zeros(V, dtype=torch.float64)
    recent[:4] = 0.25  # the first four took it all
    state = {"recent_V": recent, "memory": torch.tensor(0.9)}
    after = descend("coverage", logits, log_frequency, state).softmax(-1)
    assert (after[:, 4:].sum(-1) > logits.softmax(-1)[:, 4:].sum(-1)).all()


def test_coverage_remembers_a_running_mean(logits, log_frequency):
    state = losses.initial_state("coverage", V, 0.75)
    assert torch.equal(state["recent_V"], torch.zeros(V))
    p = logits.detach().softmax(-1).mean(0)
    _, state = losses.coverage_penalty(logits, log_frequency, state)
    torch.testing.assert_close(state["recent_V"], 0.25 * p)
    _, state = losses.coverage_penalty(logits, log_frequency, state)
    torch.testing.assert_close(state["recent_V"], (0.25 + 0.75 * 0.25) * p)
    assert not state["recent_V"].requires_grad
    assert losses.initial_state("entropy", V, 0.75) == {}


def test_z_loss_pulls_the_normaliser_to_one(logits, log_frequency):
    high = logits + 10
    after = descend("z_loss", high, log_frequency, {})
    assert torch.logsumexp(after, -1).abs().max() < torch.logsumexp(high, -1).abs().min()
    shifted = F.log_softmax(high, -1)
    assert losses.z_loss(shifted, log_frequency, {})[0].item() == pytest.approx(0, abs=1e-12)


def test_known_values(log_frequency):
    flat, sure = torch.zeros(N, V, dtype=torch.float64), torch.zeros(N, V, dtype=torch.float64)
    sure[:, 2] = 100
    for kind in ("entropy", "diversity"):
        assert losses.REGULARIZERS[kind](flat, log_frequency, {})[0].item() == pytest.approx(0, abs=1e-12)
        assert losses.REGULARIZERS[kind](sure, log_frequency, {})[0].item() == pytest.approx(1, abs=1e-12)
    uniform_corpus = torch.full((V,), -math.log(V), dtype=torch.float64)
    assert losses.token_frequency_penalty(sure, uniform_corpus, {})[0].item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kind", NAIVE)
def test_mixed_precision_leaves_a_regularizer_at_full_precision(kind):
    """The loop computes it inside autocast, from logits in fp32."""
    z = torch.randn(N, 4096, generator=torch.Generator().manual_seed(1))
    log_frequency = torch.linspace(-14, -6, 4096)
    state = losses.initial_state(kind, 4096, 0.9)
    plain, _ = losses.REGULARIZERS[kind](z, log_frequency, state)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, _ = losses.REGULARIZERS[kind](z, log_frequency, state)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, plain, rtol=1e-6, atol=1e-6)

"""Evaluation statistics against numpy over all logits at once, and at cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from bitnet.evaluation.predictions import Predictions, bf16_histogram, distinct, entropy_of_counts, mean_magnitude, percentiles
from bitnet.runs.columns import PERCENTILES

N, V = 60, 37
CPU = torch.device("cpu")


def gathered(logits: Tensor, targets: Tensor, chunk: int) -> dict[str, float]:
    predictions = Predictions(logits.shape[1], CPU)
    for z, t in zip(logits.split(chunk), targets.split(chunk), strict=True):
        predictions.add(z, t)
    return predictions.result()


@pytest.fixture
def logits() -> Tensor:
    return 2 * torch.randn(N, V, generator=torch.Generator().manual_seed(0)) + 0.5


@pytest.fixture
def targets() -> Tensor:
    return torch.randint(0, 9, (N,), generator=torch.Generator().manual_seed(1))


def entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def test_predictions_are_numpys(logits, targets):
    z = logits.double().numpy()
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    argmax = z.argmax(1)
    centre = logits[0].median()
    rounded = (logits - centre).to(torch.bfloat16).double().numpy() + centre.item()
    expected = {
        "loss": -np.mean([math.log(p[n, t]) for n, t in enumerate(targets.tolist())]),
        "uniq": len(set(argmax.tolist())),
        "distinct_targets": len(set(targets.tolist())),
        "entropy_mean": np.mean([entropy(row) for row in p]),
        "entropy_marginal": entropy(p.mean(0)),
        "entropy_argmax": entropy(np.bincount(argmax) / N),
        "top1_prob": p.max(1).mean(),
        "logit_mean": z.mean(),
        "logit_std": z.std(),
        "logit_skewness": scipy.stats.skew(rounded, axis=None),
        "logit_kurtosis": scipy.stats.kurtosis(rounded, axis=None, fisher=False),
        "logit_max_abs": np.abs(z).max(),
        "logsumexp_mean": np.log(np.exp(z).sum(1)).mean(),
        "logsumexp_std": np.log(np.exp(z).sum(1)).std(),
        "positions": N,
    }
    expected["logit_bimodality"] = (expected["logit_skewness"] ** 2 + 1) / expected["logit_kurtosis"]
    expected |= {f"logit_p{q}": np.percentile(rounded, q, method="inverted_cdf") for q in PERCENTILES}
    got = gathered(logits, targets, N)
    assert got.keys() == expected.keys()
    assert got == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("chunk", [1, 7, 59])
def test_chunks_make_no_difference(logits, targets, chunk):
    assert gathered(logits, targets, chunk) == pytest.approx(gathered(logits, targets, N), rel=1e-12)


def test_logits_in_bfloat16_are_taken_in_at_full_precision(logits, targets):
    half = logits.to(torch.bfloat16)
    assert gathered(half, targets, N) == gathered(half.float(), targets, N)


# ---------------------------------------------------------------------------------------------------------- known cases
def test_uniform_predictions():
    got = gathered(torch.zeros(N, V), torch.zeros(N, dtype=torch.int64), N)
    for column in ("loss", "entropy_mean", "entropy_marginal"):
        assert got[column] == pytest.approx(math.log(V), rel=1e-6)
    assert got["top1_prob"] == pytest.approx(1 / V)
    assert got["logit_std"] == got["logit_p1"] == got["logit_p99"] == 0


def test_flat_predictions_with_one_argmax_the_entropy_paradox():
    """Nearly flat logits, the same token a hair ahead everywhere: each prediction is uncertain, their argmax is not."""
    z = torch.zeros(N, V)
    z[:, 5] = 1e-3
    got = gathered(z, torch.arange(N) % V, N)
    assert got["uniq"] == 1 and got["entropy_argmax"] == 0
    assert got["entropy_mean"] == pytest.approx(math.log(V), abs=1e-6)
    assert got["distinct_targets"] == V


def test_certain_predictions_of_different_tokens():
    """The mirror case: each prediction certain, their mean spread."""
    got = gathered(100 * torch.eye(V), torch.arange(V), V)
    assert got["entropy_mean"] == pytest.approx(0, abs=1e-9)
    assert got["entropy_marginal"] == got["entropy_argmax"] == pytest.approx(math.log(V))
    assert got["uniq"] == V and got["loss"] == pytest.approx(0, abs=1e-9)


def test_a_certain_wrong_prediction_stays_finite():
    z = torch.zeros(1, V)
    z[0, 0] = 1e4
    got = gathered(z, torch.tensor([1]), 1)
    assert got["loss"] == pytest.approx(1e4) and got["entropy_mean"] == 0


def test_a_spread_far_smaller_than_the_mean():
    """Naive sums of squares lose this in fp32."""
    z = 100 + 0.01 * torch.randn(50, 1000, generator=torch.Generator().manual_seed(2))
    got = gathered(z, torch.zeros(50, dtype=torch.int64), 10)
    assert got["logit_std"] == pytest.approx(z.double().numpy().std(), rel=1e-6)


# ---------------------------------------------------------------------------------------------------------- percentiles
def bf16_percentiles(x: Tensor, shares: list[float]) -> list[float]:
    return percentiles(bf16_histogram(x), shares).tolist()


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 3e4, 1e30])
def test_percentiles_are_order_statistics_of_the_rounded_logits(scale):
    x = scale * torch.randn(997, generator=torch.Generator().manual_seed(3))
    shares = [0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0]
    rounded = x.to(torch.bfloat16).double().numpy()
    assert bf16_percentiles(x, shares) == [np.percentile(rounded, 100 * s, method="inverted_cdf") for s in shares]


def test_percentiles_of_negative_and_signed_zeros():
    x = torch.tensor([-3.0, -2.0, -1.0, -0.0, 0.0, 1.0, 2.0, 3.0])
    assert bf16_percentiles(x, [k / 8 for k in range(1, 9)]) == [-3, -2, -1, 0, 0, 1, 2, 3]
    assert bf16_percentiles(torch.tensor([-2.5, -2.5, -2.5]), [0.01, 0.5, 0.99]) == [-2.5] * 3


def test_every_bfloat16_value_comes_back_in_order():
    """The whole number line, infinities and NaN left out."""
    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    line = bits[torch.isfinite(bits)].sort().values
    n = line.numel()
    got = percentiles(bf16_histogram(line.float()), [(k + 1) / n for k in range(0, n, 97)])
    assert torch.equal(got, line[::97].double())


def test_one_value_is_every_percentile():
    assert bf16_percentiles(torch.tensor([1.5]), [0.01, 0.5, 0.99]) == [1.5] * 3


@pytest.mark.parametrize(("mean", "sd"), [(1, 1e-3), (-3, 1e-4), (0, 0.58), (50, 2)])
@pytest.mark.parametrize("outlier", [None, 40.0])
def test_percentiles_resolve_a_spread_far_smaller_than_the_mean(mean, sd, outlier):
    """Collapsed logits lie within a hair of their mean: to bfloat16 they are one value."""
    z = mean + sd * torch.randn(50, 1001, generator=torch.Generator().manual_seed(4))
    if outlier is not None:
        z[:, 0] = outlier  # also the very first logit: a token that was never trained
    got = gathered(z, torch.zeros(50, dtype=torch.int64), 8)
    for q in PERCENTILES:
        exact = np.percentile(z.double().numpy(), q, method="inverted_cdf")
        assert got[f"logit_p{q}"] == pytest.approx(exact, abs=0.015 * sd), q


# ---------------------------------------------------------------------------------------------------------------- small
def test_distinct():
    assert distinct(torch.tensor([[3, 3], [3, 0]])) == 2


def test_entropy_of_counts():
    assert entropy_of_counts(torch.tensor([0, 5, 5, 0])).item() == pytest.approx(math.log(2))
    assert entropy_of_counts(torch.tensor([7, 0])).item() == 0


def test_mean_magnitude_weighs_entries_not_tensors():
    assert mean_magnitude([torch.tensor([-4.0]), torch.tensor([1.0, 1.0, -1.0])]).item() == pytest.approx(7 / 4)
    assert mean_magnitude([]) is None

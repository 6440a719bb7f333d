"""What an evaluation says about logits and weights; pure functions of tensors, nothing moved off the device.

Shapes: N positions, V vocabulary. Entropies and losses in nats.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from bitnet.runs.columns import PERCENTILES

_BF16_KEYS = 1 << 16  # bins of the histogram


def distinct(tokens: Tensor) -> int:
    """How many different values there are."""
    return int(torch.unique(tokens).numel())


def entropy_of_counts(counts_V: Tensor) -> Tensor:
    """Entropy of the distribution that the counts describe."""
    p_V = counts_V.double() / counts_V.sum()
    return torch.special.entr(p_V).sum()


def bf16_histogram(x: Tensor) -> Tensor:
    """Counts by bfloat16 value, in ascending order of value: 65,536 bins, so that percentiles need no sort."""
    bits = x.to(torch.bfloat16).view(torch.int16).flatten().int()
    # two's complement order for positive numbers, mirrored for negative ones, shifted to 0..65535
    keys = torch.where(bits < 0, -(bits & 0x7FFF) - 1, bits) + _BF16_KEYS // 2
    return torch.bincount(keys, minlength=_BF16_KEYS)


def _bf16_value(keys: Tensor) -> Tensor:
    shifted = keys.int() - _BF16_KEYS // 2
    bits = torch.where(shifted < 0, (-(shifted + 1)) | 0x8000, shifted)
    return torch.where(bits > 0x7FFF, bits - _BF16_KEYS, bits).to(torch.int16).view(torch.bfloat16).double()


def percentiles(histogram: Tensor, shares: Iterable[float]) -> Tensor:
    """For each share in 0..1 the smallest bfloat16 value with at least that share of the counts at or below it."""
    cumulative = histogram.cumsum(0)
    ranks = torch.tensor(list(shares), dtype=torch.float64, device=histogram.device) * cumulative[-1]
    return _bf16_value(torch.searchsorted(cumulative, ranks.ceil().clamp(min=1).long()))


def moments(histogram: Tensor) -> tuple[Tensor, Tensor]:
    """Skewness and kurtosis (3 for a normal distribution) of what a bfloat16 histogram counts; nan where nothing varies."""
    finite = histogram * torch.isfinite(_all_bf16_values(histogram.device))
    share = finite.double() / finite.sum()
    away = torch.where(finite > 0, _all_bf16_values(histogram.device), 0.0)
    away = away - (share * away).sum()
    variance = (share * away.square()).sum()
    return (share * away**3).sum() / variance**1.5, (share * away**4).sum() / variance.square()


def _all_bf16_values(device: torch.device) -> Tensor:
    return _bf16_value(torch.arange(_BF16_KEYS, device=device))


class Predictions:
    """Statistics over predictions, gathered chunk by chunk so that the logits of a whole evaluation never stand in memory."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self.positions = 0
        self.argmax: list[Tensor] = []  # of each chunk, in order
        self._loss, self._entropy, self._top1, self._sum, self._squares = (zeros(()) for _ in range(5))
        self._normaliser, self._normaliser_squares, self._max_abs = (zeros(()) for _ in range(3))
        self._mean_p_V = zeros(vocab_size)
        self._argmax_V = torch.zeros(vocab_size, dtype=torch.int64, device=device)
        self._target_V = torch.zeros(vocab_size, dtype=torch.int64, device=device)
        self._histogram = torch.zeros(_BF16_KEYS, dtype=torch.int64, device=device)
        self._centre: Tensor | None = None

    def add(self, logits_NV: Tensor, targets_N: Tensor) -> None:
        """Take in the logits at N positions and the tokens that followed."""
        logits_NV = logits_NV.float()
        logp_NV = F.log_softmax(logits_NV, dim=-1)
        p_NV = logp_NV.exp()
        vocab_size = logits_NV.shape[-1]
        self.positions += logits_NV.shape[0]
        self._loss -= logp_NV.gather(1, targets_N[:, None]).double().sum()
        self._entropy -= (p_NV * logp_NV).sum(dim=-1).double().sum()
        self._top1 += p_NV.amax(dim=-1).double().sum()
        self._sum += logits_NV.sum(dtype=torch.float64)
        # squared in float64: a spread far below the mean, as of collapsed logits, drowns in fp32's rounding
        self._squares += torch.linalg.vector_norm(logits_NV, dtype=torch.float64).square()
        self._mean_p_V += p_NV.sum(dim=0, dtype=torch.float64)
        normaliser_N = logits_NV[:, 0].double() - logp_NV[:, 0].double()
        self._normaliser += normaliser_N.sum()
        self._normaliser_squares += normaliser_N.square().sum()
        low, high = torch.aminmax(logits_NV)
        self._max_abs = torch.maximum(self._max_abs, torch.maximum(-low, high).double())
        self.argmax.append(logits_NV.argmax(dim=-1))
        self._argmax_V += torch.bincount(self.argmax[-1], minlength=vocab_size)
        self._target_V += torch.bincount(targets_N, minlength=vocab_size)
        if self._centre is None:
            # Counted from a value in their midst, logits keep 8 bits of their spread, however far from 0 they lie. The first
            # position's median needs no pass over the rest, no outlier moves it, and it is the same for every chunking.
            self._centre = logits_NV[0].median()
        self._histogram += bf16_histogram(logits_NV - self._centre)

    def result(self) -> dict[str, float]:
        """The columns of an evaluation; one synchronisation with the device."""
        n, entries = self.positions, int(self.positions * self._mean_p_V.numel())
        mean, normaliser = self._sum / entries, self._normaliser / n
        skewness, kurtosis = moments(self._histogram)
        values = {
            "loss": self._loss / n,
            "uniq": (self._argmax_V > 0).sum(),
            "distinct_targets": (self._target_V > 0).sum(),
            "entropy_mean": self._entropy / n,
            "entropy_marginal": torch.special.entr(self._mean_p_V / n).sum(),
            "entropy_argmax": entropy_of_counts(self._argmax_V),
            "top1_prob": self._top1 / n,
            "logit_mean": mean,
            "logit_std": (self._squares / entries - mean.square()).clamp(min=0).sqrt(),
            "logit_skewness": skewness,
            "logit_kurtosis": kurtosis,
            "logit_bimodality": (skewness.square() + 1) / kurtosis,
            "logit_max_abs": self._max_abs,
            "logsumexp_mean": normaliser,
            "logsumexp_std": (self._normaliser_squares / n - normaliser.square()).clamp(min=0).sqrt(),
        }
        shares = percentiles(self._histogram, [p / 100 for p in PERCENTILES])
        if self._centre is not None:
            shares = shares + self._centre.double()
        values |= {f"logit_p{p}": share for p, share in zip(PERCENTILES, shares, strict=True)}
        numbers = torch.stack([v.double() for v in values.values()]).tolist()
        return dict(zip(values, numbers, strict=True)) | {"positions": float(n)}


def mean_magnitude(tensors: Iterable[Tensor]) -> Tensor | None:
    """Mean absolute value over all entries of the tensors; None when there are none."""
    tensors = list(tensors)
    if not tensors:
        return None
    total = torch.stack([t.detach().abs().sum(dtype=torch.float64) for t in tensors]).sum()
    return total / sum(t.numel() for t in tensors)

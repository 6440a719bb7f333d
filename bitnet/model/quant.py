"""BitNet b1.58 quantisers with straight-through gradients, and a linear product between quantised operands.

Equations: "The Era of 1-bit LLMs: Training Tips, Code and FAQ" (microsoft/unilm), the same in `transformers`' BitNet.
Shapes: `w_OI` is a weight, out x in; `x_*I` an activation whose last axis is the one that is scaled together (a token).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_TINY = 1e-5  # smallest magnitude that a scale is computed from (FAQ listing)


def _weight_scale(w_OI: Tensor) -> Tensor:
    return 1.0 / w_OI.abs().mean().clamp_(min=_TINY)


def absmean_scaled(w_OI: Tensor) -> Tensor:
    """w / mean(abs w): what is rounded and clipped to codes. Entries beyond 1 in magnitude are usual here, and no fault."""
    return w_OI * _weight_scale(w_OI)


def ternary_codes(w_OI: Tensor) -> Tensor:
    """Codes in {-1, 0, 1}, as floats: w / mean(abs w), rounded and clipped (FAQ, absmean quantisation)."""
    return absmean_scaled(w_OI).round_().clamp_(-1, 1)


def ternary_weight(w_OI: Tensor) -> Tensor:
    """Ternary codes times mean(abs w); one scale for the tensor."""
    scale = _weight_scale(w_OI)
    return (w_OI * scale).round_().clamp_(-1, 1).div_(scale)


def int8_weight(w_OI: Tensor) -> Tensor:
    """Weights on 255 levels, -127..127 times max(abs w) / 127; one scale for the tensor."""
    scale = 127.0 / w_OI.abs().max().clamp_(min=_TINY)
    return (w_OI * scale).round_().clamp_(-127, 127).div_(scale)


def int8_activation(x_I: Tensor) -> Tensor:
    """Each token on the levels -128..127 times max(abs x) / 127 (FAQ, per-token absmax quantisation); always fp32.

    In bfloat16, whose whole numbers end at 256, the scale would be off by up to 0.4 % and products would round to a
    neighbouring level.
    """
    x_I = x_I.float()
    scale = 127.0 / x_I.abs().amax(dim=-1, keepdim=True).clamp_(min=_TINY)
    return (x_I * scale).round_().clamp_(-128, 127).div_(scale)


def bf16(x: Tensor) -> Tensor:
    """Rounded to bfloat16's 8 significant bits, kept as fp32: 16-bit storage in place of ternary codes."""
    return x.to(torch.bfloat16).float()


# A new quantiser is one pure function above and one entry here; None leaves the operand as it is.
WEIGHTS: dict[str, Callable[[Tensor], Tensor] | None] = {
    "ternary": ternary_weight,
    "int8": int8_weight,
    "bf16": bf16,
    "float": None,
}

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor] | None] = {"int8": int8_activation, "bf16": bf16, "float": None}


class _StraightThrough(torch.autograd.Function):
    """`f(x)` forward, the identity backward (Bengio et al., arXiv 1308.3432)."""

    @staticmethod
    def forward(ctx, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        return f(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def straight_through(x: Tensor, f: Callable[[Tensor], Tensor] | None) -> Tensor:
    """`f(x)` with the gradient of `x`; `x` itself when `f` is None."""
    return x if f is None else _StraightThrough.apply(x, f)


def quantise_rows(w_OI: Tensor, rows: Sequence[int], f: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply `f` to each block of `rows` of `w_OI`: one scale a block, for projections stored as one matrix."""
    if len(rows) == 1:
        return f(w_OI)
    return torch.cat([f(block) for block in w_OI.split(list(rows))])

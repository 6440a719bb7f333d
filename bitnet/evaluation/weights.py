"""What an evaluation says of the weights: ternary codes, and how large the latent weights are, part by part."""

from __future__ import annotations

import torch
from torch import Tensor

from bitnet.evaluation.predictions import mean_magnitude
from bitnet.model.transformer import BitLinear, BitNet, part_of
from bitnet.runs.columns import PARTS

_CODES = ("ternary_neg", "ternary_zero", "ternary_pos", "flip_rate", "outside_codes")

_SCALED = {"outside_scaled_attention": ".attention.", "outside_scaled_ffn": ".ffn."}


def ternary_codes_of(model: BitNet) -> Tensor | None:
    """All ternary codes, flat, int8; None for a model without ternary weights."""
    codes = [m.codes().flatten() for m in model.bitlinears() if m.ternary]
    return torch.cat(codes) if codes else None


def _about_codes(codes: Tensor | None, before: Tensor | None) -> dict[str, Tensor | None]:
    if codes is None or before is None:
        return dict.fromkeys(_CODES)
    shares = [(codes == code).double().mean() for code in (-1, 0, 1)]
    changed = (codes != before).double().mean()
    return dict(zip(_CODES, [*shares, changed, (codes.abs() > 1).sum()], strict=True))


def _outside(tensors: list[Tensor]) -> Tensor:
    """How many entries lie outside [-1, 1]; int64."""
    return torch.stack([(t.detach().abs() > 1).sum() for t in tensors]).sum()


def _about_latents(model: BitNet) -> dict[str, Tensor | None]:
    by_part: dict[str, list[Tensor]] = {p: [] for p in PARTS}
    for name, parameter in model.named_parameters():
        by_part[part_of(name)].append(parameter)
    row: dict[str, Tensor | None] = {f"latent_{part}": mean_magnitude(tensors) for part, tensors in by_part.items()}
    outside = {part: _outside(tensors) for part, tensors in by_part.items() if tensors}
    row |= {f"outside_{part}": outside.get(part) for part in PARTS}
    return row | {"outside_latents": torch.stack(list(outside.values())).sum()}


def _about_scaled(model: BitNet) -> dict[str, Tensor | None]:
    """Share of the latent weights of the ternary projections that lie above mean(abs w), part by part."""
    row: dict[str, Tensor | None] = {}
    for column, part in _SCALED.items():
        projections = [m for name, m in model.named_modules() if isinstance(m, BitLinear) and m.ternary and part in name]
        outside = [(m.scaled().abs() > 1).flatten() for m in projections]
        row[column] = torch.cat(outside).double().mean() if outside else None
    return row


@torch.no_grad()
def weight_statistics(model: BitNet, codes: Tensor | None, codes_before: Tensor | None) -> dict[str, float | None]:
    """The columns that an evaluation fills from the weights; one synchronisation with the device."""
    row = _about_codes(codes, codes_before) | _about_latents(model) | _about_scaled(model)
    present = {k: v for k, v in row.items() if v is not None}
    numbers = torch.stack([v.double() for v in present.values()]).tolist()
    return dict.fromkeys(row) | dict(zip(present, numbers, strict=True))

"""What an evaluation says of the weights, against NumPy on a small model with planted values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitnet.config.run import ModelConfig, QuantConfig
from bitnet.evaluation.weights import ternary_codes_of, weight_statistics
from bitnet.model.transformer import BitNet
from bitnet.runs.columns import PARTS

CODES = ("ternary_neg", "ternary_zero", "ternary_pos", "flip_rate", "outside_codes")
SCALED = ("outside_scaled_attention", "outside_scaled_ffn")


def built(quant: str = "ternary", **knobs) -> BitNet:
    torch.manual_seed(0)
    small = {"hidden_size": 8, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "ffn_size": 16, "fused_projections": False}
    return BitNet(ModelConfig(**small | knobs), QuantConfig(weights=quant, activations="float"), 20, 8)


def about(model: BitNet, before: torch.Tensor | None = None) -> dict[str, float | None]:
    codes = ternary_codes_of(model)
    return weight_statistics(model, codes, codes if before is None else before)


def arrays(model: BitNet) -> dict[str, list[np.ndarray]]:
    """The parameters by part, read off their names."""
    found: dict[str, list[np.ndarray]] = {part: [] for part in PARTS}
    for name, p in model.named_parameters():
        part = "norm" if p.ndim == 1 else next(w for w in ("embedding", "attention", "ffn", "head") if w in name)
        found[part].append(p.detach().double().numpy())
    return found


def blocks(model: BitNet, part: str) -> list[np.ndarray]:
    """The matrices of a part that have a scale of their own: q, k, v, output; gate, up, down."""
    rows = {"qkv": [8, 4, 4], "output": [8], "gate_up": [16, 16], "down": [8]}
    matrices = [(n, p.detach().numpy()) for n, p in model.named_parameters() if part in n and p.ndim == 2]
    return [b for n, m in matrices for b in np.split(m, np.cumsum(rows[n.split(".")[-2]])[:-1])]


# ----------------------------------------------------------------------------------------------------------- the latents
PLANTED = {  # values of magnitude above 1, and the two that are just inside
    "embedding": ("embedding.weight", [3.0, -2.0, 1.0]),
    "attention": ("layers.1.attention.output.weight", [-1.5, 0.0, -1.0]),
    "ffn": ("layers.0.ffn.down.weight", [1.0001, 7.0, -8.0, 9.0]),
    "head": ("head.weight", [-1.0]),
    "norm": ("layers.0.ffn.down.norm.weight", [1.25]),
}
OUTSIDE = {"embedding": 2, "attention": 1, "ffn": 4, "head": 0, "norm": 1}


@pytest.mark.parametrize("quant", ["ternary", "float"])
def test_latents_outside_their_bounds_are_counted_by_part(quant):
    model = built(quant)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for p in parameters.values():
            p.fill_(1.0 if p.ndim == 1 else 0.5)
        for name, values in PLANTED.values():
            parameters[name].view(-1)[: len(values)] = torch.tensor(values)
    got = about(model)
    assert {part: got[f"outside_{part}"] for part in PARTS} == OUTSIDE
    assert got["outside_latents"] == sum(OUTSIDE.values())


def test_latents_are_numpys():
    model = built()
    got = about(model)
    by_part = arrays(model)
    for part, found in by_part.items():
        flat = np.concatenate([a.ravel() for a in found])
        assert got[f"latent_{part}"] == pytest.approx(np.abs(flat).mean(), rel=1e-6)
        assert got[f"outside_{part}"] == (np.abs(flat) > 1).sum()
    assert got["outside_latents"] == sum((np.abs(a) > 1).sum() for found in by_part.values() for a in found) > 0


def test_a_tied_head_counts_once_as_embedding():
    tied = about(built(tied_head=True))
    assert tied["latent_head"] is None and tied["outside_head"] is None
    assert tied["outside_latents"] == tied["outside_embedding"] > 0


# ------------------------------------------------------------------------------------------------------- scaled and codes
@pytest.mark.parametrize("part", ["attention", "ffn"])
def test_the_share_above_the_mean_magnitude_is_numpys(part):
    model = built()
    with torch.no_grad():
        for layer in model.layers:
            layer.attention.qkv.weight[8:12] *= 50  # k drowns q and v, unless each has a scale of its own
            layer.ffn.down.weight[0, 0] = 100.0
    outside = np.concatenate([(np.abs(b) / np.abs(b).mean() > 1).ravel() for b in blocks(model, f".{part}.")])
    assert about(model)[f"outside_scaled_{part}"] == pytest.approx(outside.mean(), abs=1e-9)


def test_shares_of_codes_are_numpys():
    model = built()
    with torch.no_grad():
        model.layers[0].ffn.down.weight[:, 3:] = 0.0
    scaled = [b / np.abs(b).mean() for part in ("attention", "ffn") for b in blocks(model, part)]
    codes = np.concatenate([np.rint(b).clip(-1, 1).ravel() for b in scaled])
    got = about(model)
    assert [got[c] for c in CODES[:3]] == pytest.approx([(codes == c).mean() for c in (-1, 0, 1)], abs=1e-12)
    assert got["flip_rate"] == got["outside_codes"] == 0
    assert len(ternary_codes_of(model)) == len(codes)


def test_the_flip_rate_is_the_share_of_codes_that_changed():
    model = built()
    before = ternary_codes_of(model)
    with torch.no_grad():
        w = model.layers[1].attention.output.weight
        places = w.flatten().abs().topk(3).indices
        w.view(-1)[places] *= -1  # three codes of 1 in magnitude change sign; the scale stays
    assert about(model, before)["flip_rate"] == pytest.approx(3 / len(before))


def test_codes_that_are_not_ternary_are_counted_and_not_hidden():
    model = built()
    codes = ternary_codes_of(model)
    codes[:3] = torch.tensor([2, -2, 5], dtype=torch.int8)
    got = weight_statistics(model, codes, codes)
    assert got["outside_codes"] == 3
    assert got["ternary_neg"] + got["ternary_zero"] + got["ternary_pos"] == pytest.approx(1 - 3 / len(codes))


@pytest.mark.parametrize("quant", ["float", "int8", "bf16"])
def test_what_is_said_of_ternary_weights_is_missing_in_other_models(quant):
    model = built(quant)
    assert ternary_codes_of(model) is None
    got = about(model)
    assert got.keys() == about(built()).keys()
    assert {name for name, value in got.items() if value is None} == {*CODES, *SCALED}

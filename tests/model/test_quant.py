"""The quantisers against the paper's equations written out, against `transformers`, and through five training steps.

Reference: "The Era of 1-bit LLMs: Training Tips, Code and FAQ" (microsoft/unilm). Everything is compared bit for bit unless
a line says otherwise.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.integrations.bitnet import ActQuant, WeightQuant

from bitnet.config.run import ModelConfig, QuantConfig
from bitnet.model import quant
from bitnet.model.transformer import BitLinear, BitNet

B158 = QuantConfig(weights="ternary", activations="int8")


@pytest.fixture(autouse=True)
def eager_reference():
    """`transformers` compiles its quantisers; eager gives the bits that its equations give."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


def cases() -> dict[str, Tensor]:
    """Inputs that quantisers stumble over, each 3 x 8."""
    g = torch.Generator().manual_seed(1)
    normal = torch.randn(3, 8, generator=g)
    outlier = normal.clone()
    outlier[1, 2] = 1e4
    return {
        "normal": normal,
        "large": normal * 1e6,
        "small": normal * 1e-3,
        "just above the smallest scale": normal * 3e-5,
        "below the smallest scale": normal * 1e-9,
        "zeros": torch.zeros(3, 8),
        "constant": torch.full((3, 8), -0.7),
        "outlier": outlier,
        "one token of zeros": normal * torch.tensor([[1.0], [0.0], [1.0]]),
    }


each_case = pytest.mark.parametrize("x", cases().values(), ids=cases().keys())


# ----------------------------------------------------------------------------------------- the equations, element by element
def naive_ternary_codes(w: np.ndarray) -> np.ndarray:
    """RoundClip(w / (mean abs w), -1, 1), with no shortcut; 1e-5 is the smallest mean."""
    gamma = max(np.abs(w.astype(np.float64)).mean(), 1e-5)
    out = np.empty(w.shape)
    for index, value in np.ndenumerate(w):
        out[index] = min(1.0, max(-1.0, np.rint(value / gamma)))
    return out


def naive_absmax(x: np.ndarray, low: int, high: int) -> np.ndarray:
    """Each row on the integers low..high by its own largest magnitude."""
    out = np.empty(x.shape)
    for row in range(x.shape[0]):
        scale = 127 / max(np.abs(x[row]).max(), 1e-5)
        for column in range(x.shape[1]):
            out[row, column] = min(high, max(low, np.rint(x[row, column] * scale))) / scale
    return out


@each_case
def test_ternary_is_the_papers_equation(x):
    codes = quant.ternary_codes(x)
    assert np.array_equal(codes.numpy(), naive_ternary_codes(x.numpy()))
    scale = max(np.abs(x.numpy().astype(np.float64)).mean(), 1e-5)
    np.testing.assert_allclose(quant.ternary_weight(x).numpy(), codes.numpy() * scale, rtol=1e-6, atol=0)


@each_case
def test_int8_activation_is_the_papers_equation(x):
    np.testing.assert_allclose(quant.int8_activation(x).numpy(), naive_absmax(x.numpy(), -128, 127), rtol=1e-6, atol=0)


@each_case
def test_int8_weight_has_one_scale_for_the_tensor(x):
    naive = naive_absmax(x.numpy().reshape(1, -1), -127, 127).reshape(x.shape)
    np.testing.assert_allclose(quant.int8_weight(x).numpy(), naive, rtol=1e-6, atol=0)


def naive_bf16(x: np.ndarray) -> np.ndarray:
    """The upper 16 bits of a float32, rounded to nearest, halves to even."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    kept, dropped = bits >> 16, bits & 0xFFFF
    up = (dropped > 0x8000) | ((dropped == 0x8000) & (kept % 2 == 1))
    return ((kept + up) << 16).astype(np.uint32).view(np.float32)


@each_case
def test_bf16_is_rounding_to_8_significant_bits(x):
    got = quant.bf16(x)
    assert got.dtype == torch.float32 and np.array_equal(got.numpy(), naive_bf16(x.numpy()))
    assert torch.equal(quant.bf16(got), got)


def test_bf16_rounds_halves_to_even_and_keeps_the_range_of_fp32():
    # eight significant bits: steps of 1/128 from 1 on, of 2 from 256 on
    x = torch.tensor([1 + 1 / 256, 1 + 3 / 256, 257.0, 259.0, -257.0, 1e-38, 3e38])
    expected = [1.0, 1 + 2 / 128, 256.0, 260.0, -256.0, pytest.approx(1e-38, rel=2**-8), pytest.approx(3e38, rel=2**-8)]
    assert quant.bf16(x).tolist() == expected


@each_case
def test_bits_equal_those_of_transformers(x):
    assert torch.equal(quant.ternary_weight(x), WeightQuant.apply(x))
    assert torch.equal(quant.int8_activation(x), ActQuant.apply(x))


@pytest.mark.parametrize("f", [quant.ternary_weight, quant.int8_weight, quant.int8_activation, quant.ternary_codes, quant.bf16])
@each_case
def test_the_input_is_left_alone(f, x):
    before = x.clone()
    f(x)
    assert torch.equal(x, before)


@each_case
def test_bfloat16_activations_get_the_codes_of_their_fp32_values(x):
    half = x.to(torch.bfloat16)
    got = quant.int8_activation(half)
    assert got.dtype == torch.float32
    assert torch.equal(got, quant.int8_activation(half.float()))


# ------------------------------------------------------------------------------------------------------------- properties
def test_ternary_has_three_levels_and_their_magnitude_is_the_mean():
    w = cases()["normal"]
    levels = quant.ternary_weight(w).unique()
    assert len(levels) == 3
    torch.testing.assert_close(levels, torch.stack([-w.abs().mean(), torch.tensor(0.0), w.abs().mean()]))


def test_ternary_codes_do_not_depend_on_the_weights_scale():
    w = cases()["normal"]
    assert torch.equal(quant.ternary_codes(w), quant.ternary_codes(w * 4096))


def test_halves_are_rounded_to_even():
    # mean(abs) is exactly 1: 0.5 goes to 0, and so does -0.5; 1.5 is clipped
    w = torch.tensor([[0.5, -0.5, 1.5, 1.5]])
    assert quant.ternary_codes(w).tolist() == [[0.0, 0.0, 1.0, 1.0]]
    # a scale of 1: 0.5 to 0, 1.5 and 2.5 to 2, 126.5 to 126
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, 126.5, -0.5, -1.5]])
    assert quant.int8_activation(x).tolist() == [[127.0, 0.0, 2.0, 2.0, 126.0, 0.0, -2.0]]


def test_int8_quantisers_change_nothing_the_second_time():
    x = cases()["normal"]
    for f in (quant.int8_activation, quant.int8_weight):
        torch.testing.assert_close(f(f(x)), f(x), rtol=1e-6, atol=0)


def test_zeros_stay_zeros_and_tiny_inputs_stay_finite():
    for f in (quant.ternary_weight, quant.int8_weight, quant.int8_activation):
        assert torch.equal(f(torch.zeros(2, 4)), torch.zeros(2, 4))
        assert torch.isfinite(f(torch.full((2, 4), 1e-40))).all()


def test_an_outlier_costs_its_own_token_only():
    x = cases()["normal"]
    with_outlier = cases()["outlier"]
    q, q_outlier = quant.int8_activation(x), quant.int8_activation(with_outlier)
    assert torch.equal(q[[0, 2]], q_outlier[[0, 2]])
    others = [i for i in range(8) if i != 2]
    assert torch.equal(q_outlier[1, others], torch.zeros(7))  # 1e4 / 127 a level: all else rounds to 0


def test_a_weight_outlier_zeroes_the_whole_block():
    w = torch.full((4, 64), 0.01)
    w[0, 0] = 100.0
    codes = quant.ternary_codes(w)
    assert codes.sum() == 1 and codes[0, 0] == 1


# -------------------------------------------------------------------------------------------------------------- gradients
@pytest.mark.parametrize("f", [quant.ternary_weight, quant.int8_weight, quant.int8_activation, quant.bf16])
def test_the_gradient_passes_straight_through(f):
    """As x + (f(x) - x).detach(), also where the value was clipped."""
    x = cases()["outlier"].requires_grad_()
    upstream = torch.randn(3, 8, generator=torch.Generator().manual_seed(2))
    y = quant.straight_through(x, f)
    assert torch.equal(y, f(x.detach()))
    y.backward(upstream)
    assert torch.equal(x.grad, upstream)


def test_no_quantiser_means_the_operand_itself():
    x = torch.randn(2, 3)
    assert quant.straight_through(x, None) is x
    assert quant.WEIGHTS["float"] is None and quant.ACTIVATIONS["float"] is None


# --------------------------------------------------------------------------------------------- one scale a block of rows
def test_fused_and_separate_projections_differ_in_their_scales():
    w = torch.cat([torch.randn(4, 8), 100 * torch.randn(6, 8)])
    separate = quant.quantise_rows(w, [4, 6], quant.ternary_weight)
    assert torch.equal(separate, torch.cat([quant.ternary_weight(w[:4]), quant.ternary_weight(w[4:])]))
    fused = quant.quantise_rows(w, [10], quant.ternary_weight)
    assert torch.equal(fused, quant.ternary_weight(w))
    assert torch.equal(fused[:4], torch.zeros(4, 8))  # drowned by the larger block's scale


@pytest.mark.parametrize("shared", [True, False])
def test_a_bitlinear_quantises_by_block_and_reports_those_codes(shared):
    layer = BitLinear(8, [4, 6], shared_scale=shared, norm=False, eps=1e-5, quant=B158)
    with torch.no_grad():
        layer.weight.copy_(torch.cat([torch.randn(4, 8), 100 * torch.randn(6, 8)]))
    blocks = [layer.weight] if shared else [layer.weight[:4], layer.weight[4:]]
    expected = torch.cat([quant.ternary_codes(b.detach()) for b in blocks])
    assert layer.codes().dtype == torch.int8
    assert torch.equal(layer.codes().float(), expected)
    used = quant.quantise_rows(layer.weight.detach(), layer.blocks, quant.ternary_weight)
    assert torch.equal(used.sign(), expected)


# ----------------------------------------------------------------------------------------------------- five training steps
class NaiveBitLinear(nn.Module):
    """Norm, then both operands as x + (q(x) - x).detach(), then a plain product. The quantisers are `transformers`'."""

    def __init__(self, ours: BitLinear, gain: Tensor | None, quant_config: QuantConfig, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(ours.weight.detach().clone())
        self.norm = None if gain is None else nn.Parameter(gain.detach().clone())
        self.blocks, self.config, self.eps = ours.blocks, quant_config, eps

    @staticmethod
    def ste(x: Tensor, q: Tensor) -> Tensor:
        return x + (q - x).detach()

    def quantised(self, w: Tensor) -> Tensor:
        if self.config.weights == "ternary":
            return WeightQuant.apply(w)
        if self.config.weights == "bf16":
            return torch.from_numpy(naive_bf16(w.numpy()))
        scale = 127 / w.abs().max()
        return torch.round(w * scale) / scale

    def forward(self, x: Tensor) -> Tensor:
        if self.norm is not None:
            x = x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.norm
        if self.config.activations == "int8":
            x = self.ste(x, ActQuant.apply(x.detach()))
        if self.config.activations == "bf16":
            x = self.ste(x, torch.from_numpy(naive_bf16(x.detach().numpy())))
        w = self.weight
        if self.config.weights != "float":
            w = self.ste(w, torch.cat([self.quantised(b) for b in w.detach().split(self.blocks)]))
        return F.linear(x, w)


def losses_of_five_steps(model: nn.Module, ids: Tensor) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for _ in range(5):
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    "quant_config",
    [B158] + [QuantConfig(weights=w, activations=a) for w, a in (("ternary", "float"), ("int8", "float"), ("bf16", "bf16"))],
    ids=["b158", "ternary_a16", "int8_w", "bf16"],
)
def test_five_training_steps_follow_a_naive_composition(quant_config, fused):
    config = ModelConfig(hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=1, ffn_size=32, fused_projections=fused)
    torch.manual_seed(0)
    ours = BitNet(config, quant_config, 50, 12)
    torch.manual_seed(0)
    naive = BitNet(config, quant_config, 50, 12)
    for parent in [m for m in naive.modules() if any(isinstance(c, BitLinear) for c in m.children())]:
        for name, child in list(parent.named_children()):
            if isinstance(child, BitLinear):
                setattr(parent, name, NaiveBitLinear(child, child.norm.weight, quant_config, config.norm_eps))
    assert not list(naive.bitlinears())
    ids = torch.randint(50, (4, 12), generator=torch.Generator().manual_seed(3))
    expected = losses_of_five_steps(naive, ids)
    # not bits: x + (q - x) rounds where q does not, and the naive norm sums in another order
    got = losses_of_five_steps(ours, ids)
    assert got == pytest.approx(expected, abs=1e-5)
    assert expected[4] < expected[0] - 0.1  # the steps moved something

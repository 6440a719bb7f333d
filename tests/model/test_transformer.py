"""The transformer: its sizes, what it may look at, its layouts, and how it starts."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitnet.config.run import ModelConfig, QuantConfig
from bitnet.model.quant import int8_activation
from bitnet.model.transformer import BitNet, parameter_counts, part_of, rope_tables, rotate

B158 = QuantConfig(weights="ternary", activations="int8")
FLOAT = QuantConfig(weights="float", activations="float")


def configured(**knobs) -> ModelConfig:
    small = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 4, "ffn_size": 64}
    return ModelConfig(**small | knobs)


def built(quant: QuantConfig = B158, *, vocab_size: int = 50, length: int = 16, seed: int = 0, **knobs) -> BitNet:
    torch.manual_seed(seed)
    return BitNet(configured(**knobs), quant, vocab_size, length)


def some_ids(shape: tuple[int, int] = (2, 16), vocab_size: int = 50) -> Tensor:
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(7))


# ----------------------------------------------------------------------------------------------------------------- size
@pytest.mark.parametrize("hidden", [256, 512, 768, 1024])
def test_parameter_count_is_the_studys_formula(hidden):
    config = configured(hidden_size=hidden, num_layers=4, ffn_size=2 * hidden)
    with torch.device("meta"):
        counts = parameter_counts(BitNet(config, B158, 50_257, 32))
    assert counts["total"] == 40 * hidden**2 + 2 * 50_257 * hidden + 29 * hidden
    assert counts["embedding"] == counts["head"] == 50_257 * hidden
    assert counts["attention"] == 16 * hidden**2 and counts["ffn"] == 24 * hidden**2
    assert counts["norm"] == 29 * hidden
    if hidden == 256:
        assert counts["total"] == 28_360_448


def test_every_parameter_belongs_to_a_part():
    model = built()
    parts = {name: part_of(name) for name, _ in model.named_parameters()}
    assert set(parts.values()) == {"embedding", "attention", "ffn", "head", "norm"}
    gains = {name for name, p in model.named_parameters() if p.ndim == 1}
    assert gains == {name for name, part in parts.items() if part == "norm"}


def test_a_tied_head_is_the_embedding():
    model = built(tied_head=True)
    assert model.head.weight is model.embedding.weight
    counts = parameter_counts(model)
    assert counts["head"] == 0 and counts["embedding"] == 50 * 32
    model(some_ids()).sum().backward()
    assert model.embedding.weight.grad.abs().sum() > 0
    h = model.hidden(some_ids())
    torch.testing.assert_close(model(some_ids()), h @ model.embedding.weight.T)


# ------------------------------------------------------------------------------------------------------------ causality
@pytest.mark.parametrize("quant", [B158, FLOAT], ids=["b158", "float"])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_a_logit_depends_on_its_past_only_by_gradient(quant, kv_heads):
    model = built(quant, num_kv_heads=kv_heads, length=8)
    embedded: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    model.embedding.register_forward_hook(keep)
    logits = model(some_ids((1, 8)))
    for t in range(8):
        (gradient,) = torch.autograd.grad(logits[0, t].square().sum(), embedded[0], retain_graph=True)
        reach = gradient[0].abs().sum(-1)
        assert torch.equal(reach[t + 1 :], torch.zeros(7 - t)), f"position {t} sees the future"
        assert (reach[: t + 1] > 0).all(), f"position {t} misses part of its past"


@pytest.mark.parametrize("quant", [B158, FLOAT], ids=["b158", "float"])
def test_other_future_tokens_change_nothing(quant):
    model = built(quant)
    ids = some_ids((1, 16))
    changed = ids.clone()
    changed[0, 9:] = (changed[0, 9:] + 1) % 50
    with torch.no_grad():
        before, after = model(ids), model(changed)
    assert torch.equal(before[0, :9], after[0, :9])
    assert (before[0, 9:] != after[0, 9:]).any(dim=-1).all()


def test_a_prefix_gives_the_same_logits():
    model = built()
    ids = some_ids((1, 16))
    with torch.no_grad():
        torch.testing.assert_close(model(ids[:, :5]), model(ids)[:, :5], rtol=0, atol=1e-5)


def test_sequences_of_a_batch_do_not_mix():
    model = built()
    ids = some_ids((2, 16))
    with torch.no_grad():
        torch.testing.assert_close(model(ids)[:1], model(ids[:1]), rtol=0, atol=1e-5)


def test_evaluation_computes_what_training_does():
    model = built()
    with torch.no_grad():
        assert torch.equal(model.train()(some_ids()), model.eval()(some_ids()))


# ---------------------------------------------------------------------------------------------------------------- rotary
def test_rotary_scores_depend_on_the_distance_only():
    cos, sin = rope_tables(32, 8, 10_000.0)
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(1, 1, 1, 8, generator=g), torch.randn(1, 1, 1, 8, generator=g)
    at = lambda x, t: rotate(x, cos[t : t + 1], sin[t : t + 1]).flatten()  # noqa: E731
    for distance in (0, 1, 5):
        scores = torch.stack([at(q, t + distance) @ at(k, t) for t in range(20)])
        torch.testing.assert_close(scores, scores[:1].expand(20), rtol=0, atol=1e-5)
    assert abs(at(q, 3) @ at(k, 0) - at(q, 0) @ at(k, 3)) > 1e-3  # and on its sign


def test_rotary_is_a_rotation_by_the_papers_angles():
    cos, sin = rope_tables(6, 4, 100.0)
    x = torch.tensor([[[[1.0, 2.0, 0.0, 0.0]]]])
    y = rotate(x, cos[5:6], sin[5:6]).flatten()
    # pairs (0, 2) and (1, 3) turn by 5 x 1 and 5 x 100^(-1/2)
    expected = [math.cos(5), 2 * math.cos(0.5), math.sin(5), 2 * math.sin(0.5)]
    torch.testing.assert_close(y, torch.tensor(expected))
    assert torch.equal(rotate(x, cos[:1], sin[:1]), x)


# --------------------------------------------------------------------------------------------------- heads and projections
def test_fewer_kv_heads_equal_repeated_ones():
    grouped, full = built(FLOAT, num_kv_heads=2), built(FLOAT, num_kv_heads=4)
    with torch.no_grad():
        full.load_state_dict({n: p for n, p in grouped.state_dict().items() if "qkv.weight" not in n}, strict=False)
        for ours, theirs in zip(grouped.layers, full.layers, strict=True):
            q, k, v = ours.attention.qkv.weight.split(ours.attention.rows)
            repeated = [w.view(2, 8, 32).repeat_interleave(2, dim=0).reshape(32, 32) for w in (k, v)]
            theirs.attention.qkv.weight.copy_(torch.cat([q, *repeated]))
        torch.testing.assert_close(grouped(some_ids()), full(some_ids()), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("fused", "qkv", "gate_up"), [(True, [64], [128]), (False, [32, 16, 16], [64, 64])])
def test_which_rows_share_a_weight_scale(fused, qkv, gate_up):
    for layer in built(fused_projections=fused, num_kv_heads=2).layers:
        assert layer.attention.qkv.blocks == qkv and layer.ffn.gate_up.blocks == gate_up
        assert layer.attention.output.blocks == [32] and layer.ffn.down.blocks == [32]


def test_without_quantisers_projections_may_be_fused_or_not():
    fused, separate = (built(FLOAT, fused_projections=f) for f in (True, False))
    with torch.no_grad():
        assert torch.equal(fused(some_ids()), separate(some_ids()))
        fused, separate = (built(B158, fused_projections=f) for f in (True, False))
        assert not torch.equal(fused(some_ids()), separate(some_ids()))


class PlainBlock(nn.Module):
    """The study's block of the float control, written with nothing but torch's own functions and explicit loops over heads."""

    def __init__(self, block: nn.Module, config: ModelConfig) -> None:
        super().__init__()
        self.block, self.config = block, config

    def norm(self, x: Tensor, norm: nn.Module) -> Tensor:
        if isinstance(norm, nn.Identity):
            return x
        return x * (x.square().mean(-1, keepdim=True) + self.config.norm_eps).rsqrt() * norm.weight

    def linear(self, x: Tensor, layer: nn.Module) -> Tensor:
        return self.norm(x, layer.norm) @ layer.weight.T

    def turn(self, x: Tensor) -> Tensor:
        """Complex rotation of the pairs (i, i + E/2)."""
        half = x.shape[-1] // 2
        angle = torch.arange(x.shape[-2])[:, None] * self.config.rope_theta ** (-torch.arange(half) / half)
        z = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([z.real, z.imag], -1)

    def forward(self, x: Tensor) -> Tensor:
        a, f, c = self.block.attention, self.block.ffn, self.config
        width = c.hidden_size // c.num_heads
        q, k, v = self.linear(self.norm(x, self.block.attention_norm), a.qkv).split(c.hidden_size, -1)
        heads = []
        for h in range(c.num_heads):
            own = slice(h * width, (h + 1) * width)
            scores = self.turn(q[..., own]) @ self.turn(k[..., own]).transpose(-1, -2) / math.sqrt(width)
            mask = torch.ones(x.shape[1], x.shape[1]).tril() == 0
            heads.append(scores.masked_fill(mask, -torch.inf).softmax(-1) @ v[..., own])
        x = x + self.linear(torch.cat(heads, -1), a.output)
        gate, up = self.linear(self.norm(x, self.block.ffn_norm), f.gate_up).split(c.ffn_size, -1)
        return x + self.linear(gate.clamp(min=0) ** 2 * up, f.down)


@pytest.mark.parametrize("placement", ["block_and_bitlinear", "bitlinear", "block"])
def test_the_float_control_is_a_plain_transformer(placement):
    model = built(FLOAT, norm_placement=placement)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if part_of(name) == "norm":  # gains that are not all alike, so that each must be used in its place
                p.copy_(1 + 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))))
        x = model.embedding(some_ids())
        for block in model.layers:
            x = PlainBlock(block, configured(norm_placement=placement))(x)
        x = x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * model.norm.weight
        torch.testing.assert_close(model(some_ids()), x @ model.head.weight.T, rtol=0, atol=2e-4)


# --------------------------------------------------------------------------------------------------------------- layouts
LAYOUTS = list(itertools.product(["block_and_bitlinear", "bitlinear", "block"], ["relu2", "silu", "gelu"], [True, False]))


@pytest.mark.parametrize(("placement", "activation", "gated"), LAYOUTS)
def test_every_layout_runs_and_trains_every_parameter(placement, activation, gated):
    model = built(norm_placement=placement, activation=activation, gated_ffn=gated, fused_projections=gated)
    logits = model(some_ids())
    assert logits.shape == (2, 16, 50)
    F.cross_entropy(logits.flatten(0, 1), some_ids().flatten()).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("placement", "gains_a_layer"), [("block_and_bitlinear", 7), ("bitlinear", 5), ("block", 2)])
def test_norms_stand_where_the_layout_says(placement, gains_a_layer):
    """In units of the hidden size: qkv, output and gate_up take 1 each, down takes 2, the block norms 1 each."""
    assert parameter_counts(built(norm_placement=placement))["norm"] == (2 * gains_a_layer + 1) * 32


def test_the_2b4t_layout():
    """arXiv 2504.12285: 30 layers, 2560 wide, 20 heads with 5 for keys and values, FFN 6912, tied, theta 500,000: 2.4 billion."""
    config = ModelConfig(
        hidden_size=2560, num_layers=30, num_heads=20, num_kv_heads=5, ffn_size=6912, tied_head=True,
        norm_placement="bitlinear", fused_projections=False, rope_theta=500_000.0,
    )  # fmt: skip
    with torch.device("meta"):
        counts = parameter_counts(BitNet(config, B158, 128_256, 16))
    assert counts["attention"] == 30 * (2 * 2560**2 + 2 * 2560 * 640)
    assert counts["ffn"] == 30 * 3 * 2560 * 6912
    assert counts["total"] == pytest.approx(2.41e9, rel=0.01)


# ----------------------------------------------------------------------------------------------------------- output scale
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("scale", [0.25, 8.0])
def test_output_scale_multiplies_the_logits_and_their_gradient(scale, tied):
    """Powers of two, so that every product is exact."""
    plain, scaled = built(tied_head=tied), built(tied_head=tied, output_scale=scale)
    assert torch.equal(scaled(some_ids()), scale * plain(some_ids()))
    assert torch.equal(scaled.hidden(some_ids()), plain.hidden(some_ids()))
    upstream = torch.randn(2, 16, 50, generator=torch.Generator().manual_seed(1))
    for model in (plain, scaled):
        (model(some_ids()) * upstream).sum().backward()
    for (name, p), q in zip(scaled.named_parameters(), plain.parameters(), strict=True):
        assert q.grad.abs().sum() > 0 and torch.equal(p.grad, scale * q.grad), name


def test_an_output_scale_of_1_leaves_the_bits():
    model = built(output_scale=1.0)
    assert torch.equal(model(some_ids()), built()(some_ids()))
    assert torch.equal(model(some_ids()), F.linear(model.hidden(some_ids()), model.head.weight))


# ---------------------------------------------------------------------------------------------------------------- bfloat16
@pytest.mark.parametrize("placement", ["block_and_bitlinear", "bitlinear", "block"])
def test_in_bfloat16_norms_and_activation_codes_are_those_of_fp32(placement):
    """Each projection's quantised input, against the same formulas on what came in, in fp32: only the products are rounded."""
    model = built(norm_placement=placement)
    came_in: list[Tensor] = []
    multiplied: list[Tensor] = []
    linear = F.linear

    def keep_operand(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        multiplied.append(x.detach())
        return linear(x, w, bias)

    for layer in model.bitlinears():
        layer.register_forward_pre_hook(lambda _, inputs: came_in.append(inputs[0].detach()))
    with pytest.MonkeyPatch.context() as patched, torch.autocast("cpu", torch.bfloat16):
        patched.setattr(F, "linear", keep_operand)
        model(some_ids())
    seen_half = False
    for layer, x, got in zip(model.bitlinears(), came_in, multiplied, strict=False):
        seen_half |= x.dtype == torch.bfloat16
        with torch.no_grad():
            expected = int8_activation(layer.norm(x.float()))
        assert got.dtype == torch.float32 and torch.equal(got, expected)
    assert seen_half and len(came_in) == 8


def test_a_step_in_bfloat16_warns_of_nothing_and_gives_fp32_gradients():
    model = built(norm_placement="bitlinear")
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # what torch says once a process may have been said already
    try:
        with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16):
            warnings.simplefilter("error")
            F.cross_entropy(model(some_ids()).flatten(0, 1), some_ids().flatten()).backward()
    finally:
        torch.set_warn_always(before)
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


# -------------------------------------------------------------------------------------------------------------- the start
def test_initial_weights_follow_pytorchs_defaults():
    model = built(hidden_size=128, ffn_size=256, vocab_size=2000)
    embedding = model.embedding.weight
    assert embedding.mean().item() == pytest.approx(0, abs=0.01) and embedding.std().item() == pytest.approx(1, abs=0.01)
    matrices = [m.weight for m in model.bitlinears()] + [model.head.weight]
    for w in matrices:
        bound = 1 / math.sqrt(w.shape[1])
        assert w.abs().max() <= bound and w.abs().max() > 0.99 * bound
        assert w.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert all((p == 1).all() for n, p in model.named_parameters() if part_of(n) == "norm")


def test_initial_logits_have_the_published_spread():
    """A normalised stream times a head uniform in +-1/sqrt(D): std sqrt(1/3) = 0.577. The study reports mean 0.00, std 0.58."""
    model = built(hidden_size=256, ffn_size=512, vocab_size=4000, num_layers=4)
    with torch.no_grad():
        logits = model(some_ids((4, 16), 4000))
    assert logits.std().item() == pytest.approx(math.sqrt(1 / 3), abs=0.01)
    assert logits.mean().item() == pytest.approx(0, abs=0.01)
    # so that the first loss is ln V + 1/6: 10.99 for the GPT-2 vocabulary
    loss = F.cross_entropy(logits.flatten(0, 1), some_ids((4, 16), 4000).flatten()).item()
    assert loss == pytest.approx(math.log(4000) + 1 / 6, abs=0.25)


@pytest.mark.parametrize("tied", [False, True])
def test_normal_initialisation(tied):
    model = built(init="normal", init_std=0.05, hidden_size=128, vocab_size=500, tied_head=tied)
    for w in [model.embedding.weight, model.head.weight, *(m.weight for m in model.bitlinears())]:
        assert w.std().item() == pytest.approx(0.05, rel=0.02) and w.mean().item() == pytest.approx(0, abs=0.002)


def test_a_seed_is_its_weights():
    first, again, other = (built(seed=s).state_dict() for s in (3, 3, 4))
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])


def test_arms_that_differ_in_their_quantisers_start_from_the_same_weights():
    ternary, plain = built(B158).state_dict(), built(FLOAT).state_dict()
    assert all(torch.equal(ternary[n], plain[n]) for n in ternary)


def test_rotary_tables_are_not_part_of_the_weights():
    assert not any("cos" in n or "sin" in n for n in built().state_dict())

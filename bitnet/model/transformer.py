"""A decoder-only transformer whose projections are BitLinear layers.

Shapes: B sequences, T tokens, D hidden size, H heads, K heads of keys and values, E width of a head, F inner width of
the FFN, V vocabulary; I and O are the input and output width of a projection.

One class spells the study's model, the FAQ's and BitNet 2B4T's: `ModelConfig` says where they differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitnet.config.run import ModelConfig, QuantConfig
from bitnet.model.quant import ACTIVATIONS, WEIGHTS, absmean_scaled, quantise_rows, straight_through, ternary_codes
from bitnet.runs.columns import PARTS

ACTIVATION_FUNCTIONS = {"relu2": lambda x: F.relu(x).square(), "silu": F.silu, "gelu": F.gelu}


class RMSNorm(nn.Module):
    """x / rms(x) times a gain (Zhang & Sennrich, arXiv 1910.07467), in fp32 whatever the precision of the products."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps)


class BitLinear(nn.Module):
    """A projection without bias whose input and weight are quantised, with straight-through gradients.

    Args:
        rows: output widths of the projections that share this input. They are stored as one `weight_OI`.
        shared_scale: one weight scale for all of them (`fused_projections`), or one for each.
        norm: whether the input is normalised here (gain of width I).
    """

    def __init__(self, width: int, rows: list[int], shared_scale: bool, norm: bool, eps: float, quant: QuantConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(sum(rows), width))
        self.blocks = [sum(rows)] if shared_scale else rows
        self.norm = RMSNorm(width, eps) if norm else nn.Identity()
        self.quantise_input = ACTIVATIONS[quant.activations]
        self.quantise_weight = WEIGHTS[quant.weights]
        self.ternary = quant.weights == "ternary"

    def _quantised(self, w_OI: Tensor) -> Tensor:
        return quantise_rows(w_OI, self.blocks, self.quantise_weight)

    def forward(self, x_BTI: Tensor) -> Tensor:
        x_BTI = straight_through(self.norm(x_BTI), self.quantise_input)
        w_OI = straight_through(self.weight, None if self.quantise_weight is None else self._quantised)
        return F.linear(x_BTI, w_OI)

    @torch.no_grad()
    def codes(self) -> Tensor:
        """The ternary codes of the weight as int8, out x in."""
        return quantise_rows(self.weight, self.blocks, ternary_codes).to(torch.int8)

    @torch.no_grad()
    def scaled(self) -> Tensor:
        """The latent weight over its scale mean(abs w), out x in: what the codes are rounded from."""
        return quantise_rows(self.weight, self.blocks, absmean_scaled)


def rope_tables(length: int, width: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin of the rotary embedding, length x width, in the rotate-half layout (RoFormer, arXiv 2104.09864)."""
    frequency = theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * torch.cat([frequency, frequency])
    return angle.cos().float(), angle.sin().float()


def rotate(x_BHTE: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    """Rotate each pair (i, i + E/2) of a head by its position's angle."""
    first, second = x_BHTE.chunk(2, dim=-1)
    return x_BHTE * cos_TE + torch.cat([-second, first], dim=-1) * sin_TE


class Attention(nn.Module):
    """Causal attention with rotary positions and grouped keys and values."""

    def __init__(self, c: ModelConfig, quant: QuantConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width = c.num_heads, c.num_kv_heads, c.hidden_size // c.num_heads
        self.rows = [self.heads * self.width, self.kv_heads * self.width, self.kv_heads * self.width]
        norm = c.norm_placement != "block"
        self.qkv = BitLinear(c.hidden_size, self.rows, c.fused_projections, norm, c.norm_eps, quant)
        self.output = BitLinear(c.hidden_size, [c.hidden_size], True, norm, c.norm_eps, quant)

    def forward(self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
        batch, length, _ = x_BTD.shape
        q, k, v = (p.view(batch, length, -1, self.width).transpose(1, 2) for p in self.qkv(x_BTD).split(self.rows, dim=-1))
        q, k = rotate(q, cos_TE, sin_TE).to(v.dtype), rotate(k, cos_TE, sin_TE).to(v.dtype)
        y_BHTE = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.kv_heads != self.heads)
        return self.output(y_BHTE.transpose(1, 2).reshape(batch, length, -1))


class FeedForward(nn.Module):
    """act(gate(x)) * up(x), then down; without a gate act(up(x))."""

    def __init__(self, c: ModelConfig, quant: QuantConfig) -> None:
        super().__init__()
        norm = c.norm_placement != "block"
        self.gated = c.gated_ffn
        rows = [c.ffn_size] * (2 if c.gated_ffn else 1)
        self.gate_up = BitLinear(c.hidden_size, rows, c.fused_projections, norm, c.norm_eps, quant)
        self.down = BitLinear(c.ffn_size, [c.hidden_size], True, norm, c.norm_eps, quant)
        self.activation = ACTIVATION_FUNCTIONS[c.activation]

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTF = self.gate_up(x_BTD)
        if self.gated:
            gate_BTF, up_BTF = x_BTF.chunk(2, dim=-1)
            return self.down(self.activation(gate_BTF) * up_BTF)
        return self.down(self.activation(x_BTF))


class Block(nn.Module):
    """Attention and FFN, each added to the residual stream."""

    def __init__(self, c: ModelConfig, quant: QuantConfig) -> None:
        super().__init__()
        block_norm = c.norm_placement != "bitlinear"
        self.attention_norm = RMSNorm(c.hidden_size, c.norm_eps) if block_norm else nn.Identity()
        self.attention = Attention(c, quant)
        self.ffn_norm = RMSNorm(c.hidden_size, c.norm_eps) if block_norm else nn.Identity()
        self.ffn = FeedForward(c, quant)

    def forward(self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), cos_TE, sin_TE)
        return x_BTD + self.ffn(self.ffn_norm(x_BTD))


class BitNet(nn.Module):
    """Token ids in, logits out. Embedding and head are not quantised."""

    def __init__(self, c: ModelConfig, quant: QuantConfig, vocab_size: int, max_length: int) -> None:
        super().__init__()
        self.output_scale = c.output_scale
        self.embedding = nn.Embedding(vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Block(c, quant) for _ in range(c.num_layers))
        self.norm = RMSNorm(c.hidden_size, c.norm_eps)
        self.head = nn.Linear(c.hidden_size, vocab_size, bias=False)
        if c.tied_head:
            self.head.weight = self.embedding.weight
        cos_TE, sin_TE = rope_tables(max_length, c.hidden_size // c.num_heads, c.rope_theta)
        self.register_buffer("cos_TE", cos_TE, persistent=False)
        self.register_buffer("sin_TE", sin_TE, persistent=False)
        self._initialise(c)

    @torch.no_grad()
    def _initialise(self, c: ModelConfig) -> None:
        """`pytorch`: N(0, 1) embedding, Kaiming-uniform(a = sqrt 5) projections; `normal`: N(0, init_std) throughout."""
        matrices = [m.weight for m in self.bitlinears()] + ([] if c.tied_head else [self.head.weight])
        if c.init == "normal":
            for w in [self.embedding.weight, *matrices]:
                nn.init.normal_(w, std=c.init_std)
            return
        nn.init.normal_(self.embedding.weight)
        for w in matrices:
            nn.init.kaiming_uniform_(w, a=math.sqrt(5))

    def bitlinears(self) -> Iterator[BitLinear]:
        """The quantised projections, from the first layer to the last."""
        return (m for m in self.modules() if isinstance(m, BitLinear))

    def hidden(self, ids_BT: Tensor) -> Tensor:
        """The normalised residual stream that the head reads, B x T x D."""
        x_BTD = self.embedding(ids_BT)
        length = ids_BT.shape[1]
        cos_TE, sin_TE = self.cos_TE[:length], self.sin_TE[:length]
        for layer in self.layers:
            x_BTD = layer(x_BTD, cos_TE, sin_TE)
        return self.norm(x_BTD)

    def logits(self, x_ND: Tensor) -> Tensor:
        """What the head, times `output_scale`, makes of the hidden states, ... x V."""
        logits_NV = self.head(x_ND)
        return logits_NV if self.output_scale == 1 else logits_NV * self.output_scale

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Logits, B x T x V."""
        return self.logits(self.hidden(ids_BT))


def part_of(name: str) -> str:
    """Which of `columns.PARTS` a parameter of `BitNet` belongs to, by its name."""
    if name.endswith("norm.weight"):
        return "norm"
    return next(p for p in PARTS if f"{p}." in name)


def parameter_counts(model: BitNet) -> dict[str, int]:
    """Parameters by part and in total; a tied head counts once, as embedding."""
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        counts[part_of(name)] += parameter.numel()
    return {"total": sum(counts.values()), **counts}

"""The study's model and step in plain PyTorch, written to be read: what the harness is measured against, and equals.

Nothing is fused, chunked or reused: quantisers are `x + (q(x) - x).detach()`, the logits stand in memory whole, the loss is
`F.cross_entropy`, and the optimizer is `torch.optim.Adam` as it comes. Parameters have the names that `bitnet.model.transformer`
gives them, so that the weights of one load into the other. Of the layouts only the study's is here: norms before the blocks and
in every BitLinear, one weight scale for fused projections, no grouped keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitnet.data.batches import Batches


class Norm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-5)


class BitLinear(nn.Module):
    """Eight-bit inputs, one scale a token; ternary weights, one scale a matrix; gradients as if neither were rounded."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm = Norm(inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        x, w = self.norm(x), self.weight
        to_levels = 127 / x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-5)
        to_codes = 1 / w.abs().mean().clamp(min=1e-5)
        x = x + ((x * to_levels).round().clamp(-128, 127) / to_levels - x).detach()
        w = w + ((w * to_codes).round().clamp(-1, 1) / to_codes - w).detach()
        return F.linear(x, w)


def rotate(x: Tensor) -> Tensor:
    """Rotary positions: each pair (i, i + half) of a head turns by position / 10000^(i / half)."""
    length, width = x.shape[-2:]
    frequency = 10_000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.outer(torch.arange(length, dtype=torch.float64), torch.cat([frequency, frequency]))
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return x * angle.cos().float().to(x.device) + turned * angle.sin().float().to(x.device)


class Attention(nn.Module):
    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.output = BitLinear(hidden, 3 * hidden), BitLinear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, hidden = x.shape
        q, k, v = (p.view(batch, length, self.heads, -1).transpose(1, 2) for p in self.qkv(x).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
        return self.output(y.transpose(1, 2).reshape(batch, length, hidden))


class FeedForward(nn.Module):
    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_up, self.down = BitLinear(hidden, 2 * inner), BitLinear(inner, hidden)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.relu(gate).square() * up)


class Block(nn.Module):
    def __init__(self, hidden: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attention_norm, self.attention = Norm(hidden), Attention(hidden, heads)
        self.ffn_norm, self.ffn = Norm(hidden), FeedForward(hidden, inner)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.ffn(self.ffn_norm(x))


class ReferenceModel(nn.Module):
    """Token ids in, logits out."""

    def __init__(self, vocabulary: int, hidden: int, inner: int, layers: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, hidden)
        self.layers = nn.ModuleList(Block(hidden, heads, inner) for _ in range(layers))
        self.norm = Norm(hidden)
        self.head = nn.Linear(hidden, vocabulary, bias=False)

    def hidden(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.hidden(ids))


class PlainTrainer:
    """A training step as a tutorial writes it, around any model that gives logits.

    `rates` gives the learning rate and weight decay of a step, counted from 1.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Batches,
        rates: Callable[[int], tuple[float, float]],
        max_norm: float | None,
    ) -> None:
        self.model, self.optimizer, self.batches, self.rates, self.max_norm = model, optimizer, batches, rates, max_norm
        self.device = next(model.parameters()).device

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a step."""
        window = torch.from_numpy(self.batches.at(step)).to(self.device)
        return window[:, :-1], window[:, 1:]

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.model(inputs).flatten(0, 1), targets.flatten())

    def clip(self) -> None:
        if self.max_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)

    def update(self, step: int) -> Tensor:
        """One optimizer step; its loss, before the update."""
        for group in self.optimizer.param_groups:
            group["lr"], group["weight_decay"] = self.rates(step)
        loss = self.loss(*self.batch(step))
        loss.backward()
        self.clip()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

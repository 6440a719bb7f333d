"""What a training step costs against plain eager PyTorch with a fused optimizer, as a ratio within one run.

    python tests/benchmarks/step.py [hidden_size ...]

The reference computes the same step with nothing around it: straight-through quantisers as `x + (q(x) - x).detach()`, one
module after the other, clipping, `Adam(fused=True)`, no records, no watch for a loss that is not finite. Rounds of both
alternate, so that a machine whose speed drifts treats them alike; the median of the rounds' ratios is printed.
"""

from __future__ import annotations

import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitnet.config.run import ClipConfig, ModelConfig, OptimizerConfig, QuantConfig, RegularizerConfig, SmoothingConfig
from bitnet.model.transformer import BitNet, rotate
from bitnet.training import optim
from bitnet.training.loop import LossWatch, Trainer

VOCABULARY, BATCH, LENGTH, ROUNDS, STEPS = 8192, 4, 32, 15, 10


class Linear(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.weight, self.gain = nn.Parameter(torch.empty(o, i)), nn.Parameter(torch.ones(i))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        x = F.rms_norm(x, self.gain.shape, self.gain, 1e-5)
        s = 127 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
        x = x + ((x * s).round().clamp(-128, 127) / s - x).detach()
        w, t = self.weight, 1 / self.weight.abs().mean().clamp(min=1e-5)
        return F.linear(x, w + ((w * t).round().clamp(-1, 1) / t - w).detach())


class Reference(nn.Module):
    """The study's model, written out."""

    def __init__(self, h: int, model: BitNet) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(VOCABULARY, h), nn.Linear(h, VOCABULARY, bias=False)
        sizes = {"qkv": (h, 3 * h), "o": (h, h), "up": (h, 4 * h), "down": (2 * h, h)}
        self.layers = nn.ModuleList(nn.ModuleDict({k: Linear(*v) for k, v in sizes.items()}) for _ in range(4))
        self.norms = nn.ParameterList(torch.ones(h) for _ in range(9))
        self.cos, self.sin, self.h = model.cos_TE, model.sin_TE, h

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for n, layer in enumerate(self.layers):
            y = F.rms_norm(x, (self.h,), self.norms[2 * n], 1e-5)
            q, k, v = (p.view(BATCH, LENGTH, 4, -1).transpose(1, 2) for p in layer["qkv"](y).chunk(3, -1))
            q, k = rotate(q, self.cos, self.sin), rotate(k, self.cos, self.sin)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape)
            x = x + layer["o"](y)
            gate, up = layer["up"](F.rms_norm(x, (self.h,), self.norms[2 * n + 1], 1e-5)).chunk(2, -1)
            x = x + layer["down"](F.relu(gate).square() * up)
        return self.head(F.rms_norm(x, (self.h,), self.norms[8], 1e-5))


class RandomBatches:
    """Stands in for `bitnet.data.batches.Batches`."""

    def __init__(self) -> None:
        self.windows = torch.randint(0, VOCABULARY, (256, BATCH, LENGTH + 1)).numpy()

    def at(self, step: int):
        return self.windows[step % 256]


def trainer(h: int) -> Trainer:
    c = ModelConfig(hidden_size=h, num_layers=4, num_heads=4, num_kv_heads=4, ffn_size=2 * h)
    model = BitNet(c, QuantConfig(weights="ternary", activations="int8"), VOCABULARY, LENGTH)
    return Trainer(
        model=model,
        optimizer=optim.build_optimizer(model, OptimizerConfig(kind="adam_l2")),
        batches=RandomBatches(),
        probe=None,
        lr=lambda s: 1e-3,
        wd=lambda s: 0.1,
        applied_lr=lambda s: 1e-3,
        applied_wd=lambda s: 0.1,
        clip=ClipConfig(max_norm=1.0),
        smoothing=SmoothingConfig(epsilon=0.0),
        regularizer=RegularizerConfig(kind="none"),
        log_frequency_V=torch.zeros(VOCABULARY),
        autocast=lambda: torch.autocast("cpu", enabled=False),
        device=torch.device("cpu"),
    )


def compare(h: int) -> None:
    ours = trainer(h)
    watch = LossWatch(ours.device)
    reference = Reference(h, ours.model)
    adam = torch.optim.Adam(reference.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def our_steps(first: int) -> None:
        for step in range(first, first + STEPS):
            watch.see(step, ours.update(step)[0])

    def reference_steps(first: int) -> None:
        for step in range(first, first + STEPS):
            window = torch.from_numpy(ours.batches.at(step))
            logits = reference(window[:, :-1])
            F.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten()).backward()
            nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
            adam.step()
            adam.zero_grad()

    def seconds(work, first: int) -> float:
        began = time.perf_counter()
        work(first)
        return (time.perf_counter() - began) / STEPS

    our_steps(1), reference_steps(1)
    pairs = [(seconds(our_steps, 1 + n * STEPS), seconds(reference_steps, 1 + n * STEPS)) for n in range(ROUNDS)]
    ratios = [a / b for a, b in pairs]
    ms = [1000 * statistics.median(p) for p in zip(*pairs, strict=True)]
    print(
        f"hidden {h}: ours {ms[0]:.2f} ms, reference {ms[1]:.2f} ms a step; "
        f"ratio {statistics.median(ratios):.3f} (quartiles {statistics.quantiles(ratios, n=4)[0]:.3f} "
        f"to {statistics.quantiles(ratios, n=4)[2]:.3f})"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for size in map(int, sys.argv[1:] or ["64", "256"]):
        compare(size)

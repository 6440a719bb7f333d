"""The least time that a step could take on a machine: its products at the measured peak, its memory traffic at the measured
bandwidth, one after the other."""

from __future__ import annotations

from dataclasses import dataclass

from bitnet.config.run import ModelConfig

_FP32 = 4  # bytes

_ADAM_BYTES = 7 * _FP32  # a parameter: weight, gradient and both running means read, all but the gradient written back

_LOGIT_PASSES = 6  # over the logits or their gradient: each written once and read twice


@dataclass(frozen=True)
class Work:
    """What a step can't do without: floating-point operations of its products, and bytes to or from memory."""

    flops: float
    bytes: float

    def seconds(self, flops_per_second: float, bytes_per_second: float) -> float:
        """The bound."""
        return self.flops / flops_per_second + self.bytes / bytes_per_second


def matrix_weights(c: ModelConfig) -> int:
    """Entries of the projections of all layers: 10 d^2 a layer with ungrouped keys and a gated FFN of inner width 2 d."""
    d, kv = c.hidden_size, c.hidden_size // c.num_heads * c.num_kv_heads
    attention = d * (d + 2 * kv) + d * d
    return c.num_layers * (attention + (3 if c.gated_ffn else 2) * d * c.ffn_size)


def parameters(c: ModelConfig, vocabulary: int) -> int:
    """Of embedding, projections and head; gains, a few thousand, are left out."""
    return matrix_weights(c) + (1 if c.tied_head else 2) * vocabulary * c.hidden_size


def step_work(c: ModelConfig, vocabulary: int, batch: int, length: int) -> Work:
    """The work of one fp32 step over `batch` sequences of `length` tokens.

    FLOPs a token: 6 (W + V d) + 6 L T d. A product with a weight costs 2 a weight forward and twice that backward, for W
    weights of projections and V d of the head; causal attention reads T / 2 earlier tokens on average, in two products of
    width d.

    Bytes: 28 a parameter (Adam), and six passes over the logits. What else a step reads and writes can stay in caches, or
    overlaps with products.
    """
    tokens = batch * length
    per_token = 6 * (matrix_weights(c) + vocabulary * c.hidden_size) + 6 * c.num_layers * length * c.hidden_size
    logits = _LOGIT_PASSES * tokens * vocabulary * _FP32
    return Work(float(tokens * per_token), float(_ADAM_BYTES * parameters(c, vocabulary) + logits))


def memory_needed(c: ModelConfig, vocabulary: int, batch: int, length: int) -> int:
    """About how many bytes a plain step needs: weights, gradients and running means, and five copies of the logits."""
    return 4 * _FP32 * parameters(c, vocabulary) + 5 * _FP32 * batch * length * vocabulary

"""The bound on numbers that were worked out by hand."""

from __future__ import annotations

import pytest
from torch import nn

from bitnet.benchmark.bound import Work, matrix_weights, memory_needed, parameters, step_work
from bitnet.benchmark.cases import Case, run_of
from bitnet.config.run import ModelConfig, QuantConfig
from bitnet.model.transformer import BitNet, part_of


def model(**changes) -> ModelConfig:
    sizes = {"hidden_size": 8, "num_layers": 2, "num_heads": 2, "num_kv_heads": 2, "ffn_size": 16}
    return ModelConfig(**(sizes | changes))


def test_weights_by_hand():
    # a layer: qkv 8 x 24 = 192, output 64, gate and up 8 x 32 = 256, down 128; two layers
    assert matrix_weights(model()) == 2 * (192 + 64 + 256 + 128) == 2 * 10 * 8**2
    assert matrix_weights(model(num_kv_heads=1)) == 2 * (8 * 16 + 64 + 256 + 128)
    assert matrix_weights(model(gated_ffn=False)) == 2 * (192 + 64 + 128 + 128)
    assert parameters(model(), 100) == 1280 + 2 * 800
    assert parameters(model(tied_head=True), 100) == 1280 + 800


def test_work_by_hand():
    # 12 tokens; each 6 x (1,280 + 100 x 8) for products with weights and 6 x 2 layers x 4 tokens x 8 for attention
    work = step_work(model(), vocabulary=100, batch=3, length=4)
    assert work.flops == 12 * (6 * 2080 + 384) == 154_368
    # 28 bytes for each of 2,880 parameters; six passes over 12 x 100 logits of 4 bytes
    assert work.bytes == 28 * 2880 + 6 * 12 * 100 * 4 == 109_440
    assert memory_needed(model(), 100, 3, 4) == 16 * 2880 + 20 * 1200


def test_seconds_add_up():
    assert Work(flops=10.0, bytes=6.0).seconds(flops_per_second=5.0, bytes_per_second=2.0) == 2.0 + 3.0


@pytest.mark.parametrize("changes", [{}, {"num_kv_heads": 1}, {"gated_ffn": False}, {"tied_head": True}])
def test_parameters_are_those_of_the_model(changes):
    c = model(**changes)
    built = BitNet(c, QuantConfig(weights="ternary", activations="int8"), vocab_size=100, max_length=4)
    assert parameters(c, 100) == sum(p.numel() for name, p in built.named_parameters() if part_of(name) != "norm")


def test_flops_are_those_of_a_step_that_torch_counts():
    """Torch counts whole attention matrices and no causal half, so that attention is left out of the comparison."""
    from torch.utils.flop_counter import FlopCounterMode

    case = Case(hidden=8, batch=2, length=4, vocabulary=64)
    config = run_of(case)
    built = BitNet(config.model, config.quant, case.vocabulary, case.length)
    ids = nn.functional.one_hot(built.embedding.weight.new_zeros(2, 4).long()).argmax(-1)
    with FlopCounterMode(display=False) as counter:
        built(ids).sum().backward()
    products = sum(n for op, n in counter.get_flop_counts()["Global"].items() if op.__name__.startswith(("mm", "addmm")))
    work = step_work(config.model, case.vocabulary, case.batch, case.length)
    attention = case.tokens * 6 * config.model.num_layers * case.length * case.hidden
    assert products == work.flops - attention

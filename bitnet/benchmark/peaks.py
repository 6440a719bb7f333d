"""What this machine reaches at best: large matrix products and copies, measured."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from typing import Any

import torch

from bitnet.planning.cost import available_memory
from bitnet.training.device import describe

_REPEATS, _SECONDS = 3, 0.3  # each is repeated so often at least, and for so long; the quickest counts


def peaks(device: torch.device, names: Collection[str] = ("fp32", "bf16", "int8", "copy")) -> dict[str, float | None]:
    """Operations a second of square products by operand (None where torch has no such product), and bytes a second of a copy,
    read and written bytes both counted; those of `names`."""
    size = 8192 if device.type == "cuda" else 1024
    block = 1 << (30 if device.type == "cuda" else 28)
    found: dict[str, float | None] = {}
    if "copy" in names:
        source = torch.ones(block, dtype=torch.uint8, device=device)
        target = torch.zeros_like(source)
        found["copy"] = 2 * block / best_seconds(lambda: target.copy_(source), device)
    operands = {"fp32": torch.randn(size, size, device=device)}
    operands["bf16"] = operands["fp32"].bfloat16()
    operands["int8"] = torch.ones(size, size, dtype=torch.int8, device=device)
    return found | {name: _product(operand, device) for name, operand in operands.items() if name in names}


def _product(operand: torch.Tensor, device: torch.device) -> float | None:
    multiply = torch._int_mm if operand.dtype == torch.int8 else torch.mm
    try:
        return 2 * operand.shape[0] ** 3 / best_seconds(lambda: multiply(operand, operand), device)
    except (RuntimeError, NotImplementedError):
        return None


def best_seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of the quickest of several calls, after one that is not counted."""
    work()
    best, calls, until = math.inf, 0, time.perf_counter() + _SECONDS
    while calls < _REPEATS or time.perf_counter() < until:
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        best, calls = min(best, time.perf_counter() - began), calls + 1
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def torch_facts(device: torch.device) -> dict[str, Any]:
    """What only torch knows of a machine."""
    facts = {"device": describe(device), "threads": torch.get_num_threads(), "torch": torch.__version__}
    return facts | {"memory": available_memory(device), "peaks": peaks(device)}

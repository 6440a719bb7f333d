"""The same bits each time: determinism does not rest on what fresh memory holds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from small import FEW_PROBES, TINY

from bitnet import train
from bitnet.training import execute
from bitnet.training.device import make_deterministic

SMALL = [*TINY, *FEW_PROBES, "steps=6", "eval_every=3", "launcher=serial"]


def trained(out: Path, *options: str) -> str:
    assert train.main([*SMALL, *options, f"out={out}"]) == 0
    (found,) = out.glob("*/*/metrics.csv")
    return found.read_text()


@pytest.mark.parametrize(
    "options",
    [
        ("quant=b158",),
        ("quant=float", "smoothing=ls01"),
        ("quant=bf16", "optimizer=adamw"),
        ("recipe=modern",),
        ("recipe=faq",),
        ("regularizer=coverage", "clip=norm01"),
        ("regularizer=z_loss",),
        ("layout=2b4t", "precision=bf16"),
    ],
    ids=" ".join,
)
def test_no_operation_reads_memory_that_was_not_written(tmp_path, monkeypatch, options):
    """With fresh memory full of NaN, one that did would show it; training leaves it as it comes, which takes less time."""
    monkeypatch.setattr(sys, "argv", ["bitnet-train"])
    monkeypatch.chdir(tmp_path)
    plain = trained(tmp_path / "plain", *options)

    def poisoned(threads: int) -> None:
        make_deterministic(threads)
        torch.utils.deterministic.fill_uninitialized_memory = True

    monkeypatch.setattr(execute, "make_deterministic", poisoned)
    assert trained(tmp_path / "poisoned", *options) == plain
    assert torch.empty(3).isnan().all(), "the memory was not poisoned"
    make_deterministic(1)
    assert not torch.utils.deterministic.fill_uninitialized_memory

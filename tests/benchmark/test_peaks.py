"""What a machine reaches at best, on products so small that they take no time."""

from __future__ import annotations

import time

import torch

from bitnet.benchmark import peaks


def test_rates_are_work_over_the_quickest_time(monkeypatch):
    monkeypatch.setattr(peaks, "best_seconds", lambda work, device: work() is None or 0.5)
    found = peaks.peaks(torch.device("cpu"))
    assert set(found) == {"fp32", "bf16", "int8", "copy"}
    assert found["fp32"] == 2 * 1024**3 / 0.5
    assert found["copy"] == 2 * 2**28 / 0.5


def test_the_quickest_of_several_counts(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 3.0, 4.0, 4.0, 14.0])  # the first reading sets the end; then pairs around each call
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock, 99.0))
    calls = []
    assert peaks.best_seconds(lambda: calls.append(1), torch.device("cpu")) == 1.0
    assert len(calls) == 4, "one to warm up, three that count"


def test_a_product_that_torch_lacks_has_no_rate(monkeypatch):
    def lacking(*operands):
        raise RuntimeError("not implemented")

    monkeypatch.setattr(torch, "_int_mm", lacking)
    monkeypatch.setattr(peaks, "best_seconds", lambda work, device: work() is None or 0.5)
    found = peaks.peaks(torch.device("cpu"))
    assert found["int8"] is None and found["fp32"] is not None

"""The parts of a step are told apart, and make up the whole."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch

from bitnet.benchmark.cases import CONTENDERS, FLOAT, PARTS, Case, run_of
from bitnet.benchmark.contenders import contender
from bitnet.benchmark.stopwatch import Stopwatch

CPU = torch.device("cpu")


def test_a_lap_is_all_of_its_time_each_moment_once(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0, 21.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    step = SimpleNamespace()
    step.inner = lambda: None
    step.outer = lambda: step.inner()
    watch = Stopwatch(CPU, [(step, "outer", "head + loss"), (step, "inner", "forward")])  # 0
    step.outer()  # begins at 1, its inner part lasts from 3 to 6, ends at 10
    parts = watch.lap()  # 15
    assert {part: seconds for part, seconds in parts.items() if seconds} == {
        "head + loss": (3 - 1) + (10 - 6),
        "forward": 6 - 3,
        "other": 1 + (15 - 10),
    }


def test_a_part_ends_when_its_function_fails():
    step = SimpleNamespace(work=lambda: 1 / 0)
    watch = Stopwatch(CPU, [(step, "work", "clip")])
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            step.work()
    assert watch.lap()["clip"] > 0
    assert watch.lap()["clip"] == 0


@pytest.fixture
def untouched(monkeypatch):
    """Functions of modules that a stopwatch wraps, put back after the test; and what setting up a contender sets for good."""
    from bitnet.benchmark import contenders
    from bitnet.training import optim

    for owner, name in ((torch.autograd, "backward"), (optim, "clip_gradients"), (optim, "set_rates")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(contenders, "keep_large_blocks", lambda: None)
    monkeypatch.setattr(contenders, "make_deterministic", lambda threads: None)


@pytest.mark.parametrize("name", CONTENDERS)
def test_every_part_of_a_step_is_seen_in_every_contender(name, untouched):
    config = run_of(Case(hidden=16, batch=2, length=8, vocabulary=64), quant="float" if name == FLOAT else "b158")
    own = contender(name, config, CPU, 1)
    watch = Stopwatch(CPU, own.watched)
    own.step(1)
    watch.lap()
    began = time.perf_counter()
    losses = [float(own.step(number)) for number in (2, 3)]
    parts = watch.lap()
    took = time.perf_counter() - began
    assert list(parts) == list(PARTS)
    assert all(seconds > 0 for seconds in parts.values()), parts
    assert 0.5 * took < sum(parts.values()) <= took + 0.01
    assert all(loss > 0 for loss in losses)
    assert (own.evaluate is not None) == (name in {"ours", "float"})

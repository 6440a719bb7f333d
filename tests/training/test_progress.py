"""What a run says of its speed and its time left, and its sign of life whatever it is at."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from small import TINY

from bitnet import train
from bitnet.evaluation.probe import Probe
from bitnet.runs import heartbeat
from bitnet.training import checkpoint
from bitnet.training.progress import Progress

ROW = {"UniquePredictions": 3, "Loss": 4.0, "heldout_loss": 4.5, "heldout_uniq": 7.0, "heldout_distinct_targets": 9.0}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set; it stands still otherwise."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_the_first_step_which_warms_up_is_no_measure_of_speed(tmp_path, clock, capsys):
    with Progress(tmp_path, first_step=0, last_step=101, tokens_per_step=128) as progress:
        clock[0] += 60  # the first step and its evaluation
        progress.evaluated(1, ROW)
        progress.step(1, 4.0)
        line = capsys.readouterr().err
        assert "step 1/101" in line and "tok/s" not in line and "left" not in line
        assert heartbeat.read(tmp_path)["left"] is None
        clock[0] += 10
        progress.step(51, 4.0)
        assert heartbeat.read(tmp_path)["tokens_per_second"] == 50 * 128 / 10 and heartbeat.read(tmp_path)["left"] == 10
        progress.evaluated(51, ROW)
        assert "640 tok/s  00:10 left" in capsys.readouterr().err


def test_a_resumed_run_counts_from_where_it_goes_on(tmp_path, clock, capsys):
    with Progress(tmp_path, first_step=1000, last_step=1200, tokens_per_step=10) as progress:
        progress.step(1001, None)
        clock[0] += 100
        progress.evaluated(1101, ROW)
        assert "10 tok/s  01:39 left" in capsys.readouterr().err


def test_between_steps_it_beats_with_what_the_last_step_said(tmp_path, clock):
    with Progress(tmp_path, first_step=1000, last_step=1200, tokens_per_step=10) as progress:
        progress.alive()
        assert heartbeat.read(tmp_path)["step"] == 1000
        progress.step(1001, 4.0)
        clock[0] += 5
        progress.alive()
        found = heartbeat.read(tmp_path)
        assert (found["step"], found["loss"]) == (1001, 4.0)
        heartbeat.remove(tmp_path)
        progress.alive()
        assert heartbeat.read(tmp_path) == {}, "once a second is enough"


def test_evaluations_and_saves_are_signs_of_life(tmp_path, monkeypatch):
    """One that was longer than `launcher.stalled_minutes` had its run killed."""
    monkeypatch.setattr(sys, "argv", ["bitnet-train"])
    monkeypatch.setattr(time, "monotonic", itertools.count(1000.0, 2.0).__next__)
    events: list[str] = []

    def noted(name: str, real: Callable) -> Callable:
        def call(*arguments: Any, **named: Any) -> Any:
            events.append(name)
            result = real(*arguments, **named)
            events.append(f"end of {name}")
            return result

        return call

    monkeypatch.setattr(heartbeat, "write", lambda folder, values: events.append("beat"))
    monkeypatch.setattr(Probe, "measure", noted("evaluation", Probe.measure))
    monkeypatch.setattr(checkpoint, "save", noted("save", checkpoint.save))
    small = [*TINY, "probe.many_contexts=200", "probe.prompts=2", "probe.new_tokens=5"]
    assert train.main([*small, "steps=2", "eval_every=1", "checkpoint.every=1", "launcher=serial", f"out={tmp_path}"]) == 0
    # contexts, more of them, random and of text, the first batch, held-out text, five new tokens, weights
    step = ["evaluation", *["beat"] * 11, "end of evaluation", "beat", "save", "end of save", "beat"]
    assert events == [*step, *step]

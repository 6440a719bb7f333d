"""What a run says of its speed and its time left."""

from __future__ import annotations

import time

import pytest

from bitnet.runs import heartbeat
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

"""A run that is at work without a sign of life is seen; one that waits, one of another process and one that beats are not."""

from __future__ import annotations

import pytest

from bitnet.launch import stalls
from bitnet.runs import heartbeat
from bitnet.runs.record import RunRecord

PID = 4242


@pytest.fixture
def clock(monkeypatch):
    """Passes when it is told to."""
    now = [1000.0]
    monkeypatch.setattr(stalls.time, "monotonic", lambda: now[0])

    def passes(seconds: float) -> None:
        now[0] += seconds

    return passes


@pytest.fixture
def run(tmp_path):
    record = RunRecord(tmp_path / "run")
    record.create({}, {})
    record.update(status="running", pid=PID, sessions=[{}])
    return record


def looks(watch: stalls.Stalls, clock, run: RunRecord, seconds: int, pids=frozenset({PID})) -> list[int]:
    """The seconds, counted from the first look, at which the run had stalled."""
    found = []
    for second in range(seconds):
        if watch.look({run.folder: pids}):
            found.append(second)
        clock(1)
    return found


def test_a_silent_run_has_stalled_after_its_time(clock, run):
    watch = stalls.Stalls(30)
    clock(1)
    assert looks(watch, clock, run, 40)[0] == 30


def test_a_run_that_beats_has_not(clock, run):
    watch = stalls.Stalls(3)
    for beat in range(20):
        heartbeat.write(run.folder, {"time": beat, "step": beat})
        assert looks(watch, clock, run, 2) == []


def test_a_run_that_waits_for_another_process_has_not(clock, run):
    watch = stalls.Stalls(3)
    assert looks(watch, clock, run, 20, pids=frozenset({PID + 1})) == []
    run.update(status="queued", pid=None)
    assert looks(watch, clock, run, 20) == []


def test_a_run_that_takes_its_place_begins_anew(clock, run):
    watch = stalls.Stalls(10)
    assert looks(watch, clock, run, 8) == []
    run.update(sessions=[{}, {}])
    assert looks(watch, clock, run, 8) == []


def test_while_the_machine_sleeps_nobody_stalls(clock, run):
    watch = stalls.Stalls(60)
    assert looks(watch, clock, run, 5) == []
    clock(36_000)
    assert looks(watch, clock, run, 5) == []

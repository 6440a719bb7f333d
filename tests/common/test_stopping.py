"""Signals become a reason to stop; a cluster's handler gets its turn when the run has saved, and once."""

from __future__ import annotations

import os
import signal

import pytest

from bitnet.common import stopping
from bitnet.common.stopping import stop_requests


def send(*names: str) -> None:
    for name in names:
        os.kill(os.getpid(), getattr(signal, name))


@pytest.fixture
def requeued():
    """How often the cluster's handler was called: a stand-in for submitit's, there before the run listens."""
    calls: list[int] = []
    previous = signal.signal(signal.SIGUSR2, lambda number, frame: calls.append(number))
    yield calls
    signal.signal(signal.SIGUSR2, previous)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR2"])
def test_before_the_first_step_a_signal_stops_at_once_and_while_training_it_is_noted(name, capfd):
    with stop_requests() as requests:
        assert requests.reason() is None
        with pytest.raises(KeyboardInterrupt):
            send(name)
        send(name)  # while it cleans up
        assert requests.reason() == name
    with stop_requests() as requests:
        requests.at_once = False
        send(name, "SIGTERM")
        assert requests.reason() == name
    assert f"{name}: saving at the next step" in capfd.readouterr().err


def test_a_third_ctrl_c_interrupts_a_step_that_hangs():
    with stop_requests() as requests:
        requests.at_once = False
        send("SIGINT", "SIGINT")
        with pytest.raises(KeyboardInterrupt):
            send("SIGINT")


def test_the_handlers_that_were_there_are_back_afterwards(requeued):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)]
    with stop_requests():
        assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)] != before
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)] == before


def test_a_clusters_job_is_requeued_when_the_run_says_so_and_once(requeued):
    with stop_requests() as requests:
        requests.at_once = False
        send("SIGUSR2", "SIGUSR2")
        assert requeued == []
        requests.requeue()
    assert requeued == [signal.SIGUSR2]


def test_a_warning_that_comes_while_the_job_is_requeued_or_ends_changes_nothing():
    calls = []
    previous = signal.signal(signal.SIGUSR2, lambda *_: (calls.append(1), send("SIGUSR2")))
    try:
        with stop_requests() as requests:
            requests.at_once = False
            send("SIGUSR2")
            requests.requeue()
        send("SIGUSR2")
    finally:
        signal.signal(signal.SIGUSR2, previous)
    assert calls == [1]


def test_after_sigterm_a_job_waits_for_what_the_cluster_does(requeued, monkeypatch):
    """SLURM kills a cancelled job, and requeues others by itself."""
    waited = []
    with stop_requests() as requests:
        requests.at_once = False
        send("SIGTERM")
        monkeypatch.setattr(stopping.time, "sleep", lambda seconds: (waited.append(seconds), send("SIGUSR2")))
        requests.requeue()
    assert waited and requeued == [signal.SIGUSR2]


def test_a_job_that_outlives_all_patience_asks_for_its_requeue(requeued, monkeypatch):
    monkeypatch.setattr(stopping, "_PATIENCE_SECONDS", 0.0)
    with stop_requests() as requests:
        requests.at_once = False
        send("SIGTERM")
        requests.requeue()
    assert requeued == [signal.SIGUSR2]


def test_outside_a_cluster_nothing_is_requeued(requeued):
    with stop_requests() as requests:
        requests.requeue()  # nothing was received
    assert requeued == []
    previous = signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    try:
        with stop_requests() as requests:
            requests.at_once = False
            send("SIGTERM")
            requests.requeue()  # returns at once
    finally:
        signal.signal(signal.SIGUSR2, previous)

"""Signals become a reason to stop; a cluster's handler gets its turn when the run has saved, and once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bitnet.common import stopping
from bitnet.common.paths import PACKAGE
from bitnet.common.stopping import interrupt_on_signals, interruptible, stop_requests


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


@pytest.fixture(autouse=True)
def with_a_terminal():
    """SIGHUP as it is in a terminal, also where the tests themselves run under nohup."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, previous)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR2", "SIGHUP"])
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


# A step that hangs where Python runs no handler: the main thread is in a call of C's, and signals go to another one.
HUNG = """
import ctypes, pathlib, signal
from bitnet.common import stopping
stopping.GRACE_SECONDS = {grace}
with stopping.stop_requests({leave}) as requests:
    requests.at_once = False
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping.SIGNALS)
    print("ready", flush=True)
    ctypes.CDLL(None).sleep({seconds})
print("went on")
"""


def hung(grace: float, *, leave: str = "pathlib.Path('left').touch", seconds: int = 60, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", HUNG.format(grace=grace, leave=leave, seconds=seconds)]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def ask(process: subprocess.Popen, times: int) -> None:
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.4)


@pytest.mark.parametrize(("times", "grace"), [(2, 0.5), (3, 600)])
def test_a_step_that_hangs_ends_some_seconds_after_the_second_request_and_at_once_on_the_third(times, grace, tmp_path):
    process = hung(grace, folder=tmp_path)
    ask(process, times)
    said = process.communicate(timeout=20)[1].splitlines()
    assert process.returncode == 130 and (tmp_path / "left").exists()
    assert [line.split(": ")[0] for line in said] == ["SIGINT"] * times
    assert "saving at the next step; a second signal" in said[0]
    assert f"ends in {grace:.0f} s unless it has saved by then" in said[1] and "a third signal" in said[1]
    assert times < 3 or "ends at once; the last checkpoint stands" in said[2]


def test_one_that_comes_to_its_next_step_within_the_grace_is_not_cut_off(tmp_path):
    process = hung(600, seconds=2, folder=tmp_path)
    ask(process, 2)
    assert process.communicate(timeout=20)[0] == "went on\n"
    assert process.returncode == 0 and not (tmp_path / "left").exists()


def test_where_another_process_decides_about_the_end_further_requests_change_nothing(tmp_path):
    process = hung(0, leave="None", seconds=3, folder=tmp_path)
    ask(process, 3)
    said = process.communicate(timeout=20)
    assert said == ("went on\n", "SIGINT: saving at the next step\n") and process.returncode == 0


def test_signals_right_after_each_other_are_one_request():
    asked = stopping.Asked()
    assert [asked.note(signal.SIGINT), asked.note(signal.SIGTERM), asked.times] == [True, False, 1]
    asked.last -= 1
    assert asked.note(signal.SIGTERM) and (asked.times, asked.name) == (2, "SIGTERM")


def test_a_hangup_that_is_ignored_stays_so():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_requests() as requests:
        send("SIGHUP")
        assert requests.reason() is None
    with interrupt_on_signals():
        send("SIGHUP")
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_whoever_listened_before_hears_the_signals_too():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing)
    try:
        with stop_requests() as requests:
            requests.at_once = False
            send("SIGTERM")
        assert os.read(reading, 8) == bytes([signal.SIGTERM])
        assert signal.set_wakeup_fd(writing) == writing
    finally:
        signal.set_wakeup_fd(before)


# --------------------------------------------------------------------------------------------------- nothing to be saved
def test_whatever_an_interruption_makes_of_an_import_it_is_one():
    with pytest.raises(KeyboardInterrupt), interrupt_on_signals():
        try:
            send("SIGTERM")
        except KeyboardInterrupt:
            raise ImportError("cut off in the middle") from None
    with pytest.raises(ImportError), interrupt_on_signals():
        raise ImportError("its own")


def test_an_interruption_in_text_that_is_executed_leaves_the_exit_code_to_the_command(tmp_path):
    """As namedtuple and dataclass execute it, in many an import."""
    (tmp_path / "program.py").write_text(
        "import os, signal, sys\n"
        "from bitnet.common.stopping import interrupt_on_signals\n"
        "try:\n"
        "    with interrupt_on_signals(): exec('os.kill(os.getpid(), signal.SIGINT)')\n"
        "except KeyboardInterrupt: sys.exit(130)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    assert subprocess.run([sys.executable, "-m", "program"], cwd=tmp_path, env=environment, timeout=20).returncode == 130


def test_what_a_library_computes_for_long_is_left_when_it_is_asked_to_stop():
    came, may_end = threading.Event(), threading.Event()

    def compute() -> None:
        came.set()
        may_end.wait(60)

    def interrupt() -> None:
        came.wait(60)
        send("SIGINT")

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt), interrupt_on_signals():
        interruptible(compute)
    may_end.set()


def test_what_a_library_computes_is_returned_or_raised():
    assert interruptible(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 / 0)


def test_a_process_ends_in_good_order_while_a_library_is_still_at_work():
    script = (
        "import ctypes, os, signal, threading\n"
        "from bitnet.common.stopping import SIGNALS, interrupt_on_signals, interruptible\n"
        "def compute():\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)\n"
        "    ctypes.CDLL(None).sleep(60)\n"
        "threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "try:\n"
        "    with interrupt_on_signals(): interruptible(compute)\n"
        "except KeyboardInterrupt: print('cleaned up')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (130, "cleaned up\n", "")


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
    monkeypatch.setattr(stopping, "PATIENCE_SECONDS", 0.0)
    with stop_requests() as requests:
        requests.at_once = False
        send("SIGTERM")
        requests.requeue()
    assert requeued == [signal.SIGUSR2]


def test_outside_a_cluster_nothing_is_requeued(requeued):
    with stop_requests() as requests:
        requests.requeue()  # nothing was received
    assert requeued == []
    with interrupt_on_signals(), stop_requests() as requests:
        requests.at_once = False
        send("SIGTERM")
        requests.requeue()  # returns at once, here and below
    previous = signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    try:
        with stop_requests() as requests:
            requests.at_once = False
            send("SIGTERM")
            requests.requeue()
    finally:
        signal.signal(signal.SIGUSR2, previous)

"""pytest ends on a signal from outside, whatever the test at work does with it, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TEST = """
import os, signal, subprocess, time
from pathlib import Path

def test_long():
    child = subprocess.Popen(["sleep", "600"])
    Path("child").write_text(str(child.pid))
    HANDLING
    Path("ready").touch()
    end = time.monotonic() + 600
    WAITING

def test_next():
    Path("went_on").touch()
"""
SLEEPING = "while time.monotonic() < end: time.sleep(0.05)"
NOTED = "noted = []; [signal.signal(s, lambda n, f: noted.append(n)) for s in (signal.SIGINT, signal.SIGTERM)]"
TESTS = {
    "plain": ("pass", SLEEPING),
    "saves and returns": (NOTED, "while not noted: time.sleep(0.05)"),  # as the training command does
    "heeds nothing": (NOTED, SLEEPING),
    "after a signal of its own": (f"{NOTED}; os.kill(os.getpid(), signal.SIGTERM)", SLEEPING),
}


ON_TWO = ["-n", "2", "--dist", "loadfile"]  # as `make test`


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("kind", "options"), [*((k, []) for k in TESTS), ("saves and returns", ON_TWO)], ids=str)
def test_pytest_ends_within_seconds(kind, options, number, tmp_path):
    if options:
        pytest.importorskip("xdist")
    handling, waiting = TESTS[kind]
    (tmp_path / "test_it.py").write_text(TEST.replace("HANDLING", handling).replace("WAITING", waiting))
    places = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "ending", "-p", "no:cacheprovider", "-c", "/dev/null"]
    environment = os.environ | {"PYTHONPATH": places, "ENDING_PATIENCE": "0.5"}
    process = subprocess.Popen([*command, *options, "test_it.py"], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    began = time.monotonic()
    while not (tmp_path / "ready").exists():
        assert process.poll() is None and time.monotonic() < began + 60
        time.sleep(0.02)
    asked = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=20) != 0
    assert time.monotonic() - asked < 15
    assert not (tmp_path / "went_on").exists()
    child = Path("/proc", (tmp_path / "child").read_text(), "stat")
    assert not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z"

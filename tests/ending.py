"""The test process ends when it is asked to, whatever the code under test does with signals; a test's processes end with it.

Code under test answers SIGTERM and Ctrl-C by saving and returning, as it should: pytest would take that for a failed test and
begin the next. So each signal is also read from the pipe that Python writes its number to, whoever handles it. One that no
test sent means pytest itself: it ends after the test, and if that takes too long, on the spot.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PATIENCE_SECONDS = float(os.environ.get("ENDING_PATIENCE", 5))
ENDING = (signal.SIGINT, signal.SIGTERM)
HANDLED = [*ENDING, *(getattr(signal, n) for n in ("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD") if hasattr(signal, n))]

_asked: list[int] = []  # signals from outside
_sent: Counter[int] = Counter()  # by the test to its own process, and not read from the pipe yet
_pipe: list[int] = []  # the end that is written to


def pytest_configure() -> None:
    """Listen. SIGINT too: a shell starts what it puts into the background with SIGINT ignored."""
    if _pipe or os.name != "posix":
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    _pipe.append(writing)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.kill, signal.raise_signal = _counted(os.kill), _raised(signal.raise_signal)
    threading.Thread(target=_listen, args=(reading,), daemon=True, name="ending").start()


def pytest_runtest_logfinish() -> None:
    """After each test: no further one where the end was asked for."""
    if _asked:
        pytest.exit(f"{signal.Signals(_asked[0]).name} from outside", returncode=128 + _asked[0])


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Signals are handled after a test as before it, and no process that it started is left."""
    if not _pipe:
        yield
        return
    signal.set_wakeup_fd(_pipe[0], warn_on_full_buffer=False)
    _sent.clear()
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    before = descendants(os.getpid())
    yield
    deadline = time.monotonic() + 0.2
    while any(_sent[number] > 0 for number in ENDING) and time.monotonic() < deadline:
        time.sleep(0.005)  # the next test forgets what this one has sent and what is not read by then
    for number, handler in handlers.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
    _kill(descendants(os.getpid()) - before)


def descendants(pid: int) -> set[int]:
    """Its processes and theirs, but for Python's own helper; none where there is no /proc."""
    found: set[int] = set()
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(c) for c in listing.read_text().split()]
        except OSError:
            continue
        for child in children:
            try:
                command = Path(f"/proc/{child}/cmdline").read_bytes()
            except OSError:
                continue
            if b"resource_tracker" not in command:
                found |= {child} | descendants(child)
    return found


def _listen(reading: int) -> None:
    while True:
        for number in os.read(reading, 64):
            if number not in ENDING:
                continue
            if _sent[number] > 0:
                _sent[number] -= 1
            elif not _asked:
                _asked.append(number)
                threading.Thread(target=_insist, args=(number,), daemon=True).start()


def _insist(number: int) -> None:
    """Hand the request on to all processes below, then do without their consent."""
    _kill(descendants(os.getpid()), signal.SIGTERM)
    time.sleep(PATIENCE_SECONDS)
    _kill(descendants(os.getpid()))
    sys.__stderr__.write(f"\n{signal.Signals(number).name} from outside: the test did not end, so the process does\n")
    sys.__stderr__.flush()
    os._exit(128 + number)


_real_kill = os.kill


def _kill(pids: set[int], number: int = signal.SIGKILL) -> None:
    for pid in pids:
        try:
            _real_kill(pid, number)
        except OSError:
            continue


def _counted(real):
    def kill(pid: int, number: int) -> None:
        if pid == os.getpid():
            _sent[number] += 1
        real(pid, number)

    return kill


def _raised(real):
    def raise_signal(number: int) -> None:
        _sent[number] += 1
        real(number)

    return raise_signal

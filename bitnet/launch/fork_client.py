"""The controller's end of `fork_server.py`: starts the process that runs are forked from, sends it jobs, hears how they end.

That process needs seconds to import torch. `prestarted` starts it before the controller needs it, so that a sweep is composed
meanwhile, and keeps it for all launches of a command, of which a search has many.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bitnet.common.stopping import held_back
from bitnet.runs.record import RunRecord, is_worked_on
from bitnet.runs.statuses import RUNNING

COMMAND = (sys.executable, "-m", "bitnet.launch.fork_server")


class ForkServerDied(Exception):
    """The process that runs are forked from ended before it was told to; the runs that it had started go on to their end."""


def describe_exit(code: int) -> str:
    """What is to be said of a process with this exit code: `was killed by SIGKILL (out of memory?)`."""
    if code >= 0:
        return f"exited with code {code}"
    hint = " (out of memory?)" if code == -signal.SIGKILL else ""
    return f"was killed by {signal.Signals(-code).name}{hint}"


class ForkServer:
    """A process of `fork_server.py`, from its start on; it may not be ready yet."""

    def __init__(self) -> None:
        self._orphans: dict[Path, int] = {}  # runs that an earlier process had started, which go on without it
        self._asked: set[Path] = set()  # those of them that were asked to stop
        self._begin()

    def _begin(self) -> None:
        with held_back():  # a Ctrl-C while it starts is not for it
            self.process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._at_work: dict[Path, int | None] = {}  # the process of each run, None until it is known
        self._gpus: int | None = None
        self._stopping = False
        self._pending = b""

    @property
    def gpus(self) -> int:
        """How many GPUs torch sees, which is also the sign that the process is ready: waits for it.

        Raises:
            ForkServerDied: here as in all that follows.
        """
        while self._gpus is None:
            self._receive()
        return self._gpus

    def start(self, job: dict[str, Any]) -> None:
        """Fork a process for a run; `job` is what `fork_server.run_job` takes."""
        self._send(job)
        self._at_work[Path(job["folder"])] = None

    def stop(self) -> None:
        """Ask every run that was started to save and end. Told once, whatever the number of calls."""
        if not self._stopping:
            self._stopping = True
            self._ask_orphans()
            self._send("stop")

    def kill(self, folders: Iterable[Path]) -> None:
        """Kill the processes of runs; that of each which was started by this process is reported as ended."""
        for folder in folders:
            self._signal_orphan(folder, signal.SIGKILL)
            if (pid := self._at_work.get(folder)) is not None:
                _send_signal(pid, signal.SIGKILL)

    def processes(self, folder: Path) -> set[int]:
        """The processes that were started for a run and may be at work on it: one, or two where one waits for an orphan."""
        return {pid for pid in (self._at_work.get(folder), self._orphans.get(folder)) if pid is not None}

    def orphans(self) -> set[Path]:
        """Runs at work that an earlier process started: nobody reports their ends. Those that begin after `stop` are asked."""
        if self._stopping:
            self._ask_orphans()
        return {folder for folder in self._orphans if self._may_be_at_work(folder) and is_worked_on(RunRecord(folder))}

    def _may_be_at_work(self, folder: Path) -> bool:
        """Whether the record of an orphan's run names no other process; one that begins is not named yet."""
        record = RunRecord(folder).read()
        return record.get("status") != RUNNING or record.get("pid") == self._orphans[folder]

    def _ask_orphans(self) -> None:
        for folder in self._orphans.keys() - self._asked:
            if self._signal_orphan(folder, signal.SIGTERM):
                self._asked.add(folder)

    def _signal_orphan(self, folder: Path, number: int) -> bool:
        """Signal one that the record says is at work: another process could have got the id of one that has ended."""
        record, pid = RunRecord(folder).read(), self._orphans.get(folder)
        if pid is None or record.get("status") != RUNNING or record.get("pid") != pid:
            return False
        _send_signal(pid, number)
        return True

    def ended(self, seconds: float) -> list[tuple[Path, int]]:
        """Runs that ended by now, with the exit codes of their processes; waits up to `seconds` for the first."""
        if select.select([self.process.stdout], [], [], seconds)[0]:
            return self._receive()
        return []

    def _send(self, message: object) -> None:
        try:
            self.process.stdin.write((json.dumps(message) + "\n").encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._gone() from None

    def _receive(self) -> list[tuple[Path, int]]:
        """Read what the process reports, and return the runs that ended."""
        received = os.read(self.process.stdout.fileno(), 1 << 16)
        if not received:
            raise self._gone()
        *lines, self._pending = (self._pending + received).split(b"\n")
        over = []
        for report in map(json.loads, lines):
            if "gpus" in report:
                self._gpus = report["gpus"]
            elif "pid" in report:
                self._at_work[Path(report["folder"])] = report["pid"]
            else:
                self._at_work.pop(Path(report["folder"]))
                over.append((Path(report["folder"]), report["exit"]))
        return over

    def _gone(self) -> ForkServerDied:
        """Runs that were at work go on by themselves, and hold their locks; asked to stop, they may not have heard of it."""
        self._orphans |= {folder: pid for folder, pid in self._at_work.items() if pid is not None}
        self._at_work = {}
        if self._stopping:
            self._ask_orphans()
        return ForkServerDied(f"the process that runs are forked from {describe_exit(self.process.wait())}")

    def restart(self) -> None:
        """Begin anew after `ForkServerDied`."""
        self.close()
        self._begin()

    def close(self, *, force: bool = False) -> None:
        """End the process. Runs that are at work go on to their end, and it waits for them unless it is forced."""
        with contextlib.suppress(BrokenPipeError):  # what could not be sent to a process that is gone
            self.process.stdin.close()
        self.process.stdout.close()
        if force or not self._at_work:  # it may still be importing
            self.process.kill()
            self.process.wait()


def _send_signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


_kept: list[ForkServer] = []  # the one of this process, while there is one


@contextlib.contextmanager
def prestarted(wanted: bool) -> Iterator[None]:
    """Start a server now, where it is `wanted`, and keep it for every launch within the block."""
    if not wanted:
        yield
        return
    _kept.append(ForkServer())
    try:
        yield
    finally:
        stop_prestarted()


def stop_prestarted() -> None:
    """End the server that is kept, for a command that turns out to start no runs of its own."""
    while _kept:
        _kept.pop().close()


@contextlib.contextmanager
def fork_server() -> Iterator[ForkServer]:
    """The server that is kept, begun anew if it is gone; or one for this block alone."""
    if _kept:
        if _kept[-1].process.poll() is not None:
            _kept[-1].restart()
        yield _kept[-1]
        return
    own = ForkServer()
    try:
        yield own
    finally:
        own.close()

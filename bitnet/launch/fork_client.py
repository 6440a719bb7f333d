"""The controller's end of `fork_server.py`: starts the process that runs are forked from, sends it jobs, hears how they end.

That process needs seconds to import torch. `prestarted` starts it before the controller needs it, so that a sweep is composed
meanwhile, and keeps it for all launches of a command, of which a search has many.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_COMMAND = (sys.executable, "-m", "bitnet.launch.fork_server")


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
        self.process = subprocess.Popen(_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.at_work = 0
        self.stopping = False
        self._pending = b""

    @functools.cached_property
    def gpus(self) -> int:
        """How many GPUs torch sees, which is also the sign that the process is ready: waits for it.

        Raises:
            ForkServerDied: here as in all that follows.
        """
        while b"\n" not in self._pending:
            self._receive()
        line, _, self._pending = self._pending.partition(b"\n")
        return json.loads(line)["gpus"]

    def start(self, job: dict[str, Any]) -> None:
        """Fork a process for a run; `job` is what `fork_server.run_job` takes."""
        self._send(job)
        self.at_work += 1

    def stop(self) -> None:
        """Ask every run that was started to save and end. Told once, whatever the number of calls."""
        if not self.stopping:
            self.stopping = True
            self._send("stop")

    def ended(self, seconds: float) -> list[tuple[Path, int]]:
        """Runs that ended by now, with the exit codes of their processes; waits up to `seconds` for the first."""
        if select.select([self.process.stdout], [], [], seconds)[0]:
            self._receive()
        *lines, self._pending = self._pending.split(b"\n")
        reports = [json.loads(line) for line in lines]
        self.at_work -= len(reports)
        return [(Path(r["folder"]), r["exit"]) for r in reports]

    def _send(self, message: object) -> None:
        try:
            self.process.stdin.write((json.dumps(message) + "\n").encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._gone() from None

    def _receive(self) -> None:
        received = os.read(self.process.stdout.fileno(), 1 << 16)
        if not received:
            raise self._gone()
        self._pending += received

    def _gone(self) -> ForkServerDied:
        return ForkServerDied(f"the process that runs are forked from {describe_exit(self.process.wait())}")

    def close(self) -> None:
        """End the process; runs that are at work go on to their end."""
        with contextlib.suppress(BrokenPipeError):  # what could not be sent to a process that is gone
            self.process.stdin.close()
        self.process.stdout.close()
        if not self.at_work:  # it may still be importing
            self.process.kill()
            self.process.wait()


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
            _kept.pop().close()
            _kept.append(ForkServer())
        yield _kept[-1]
        return
    own = ForkServer()
    try:
        yield own
    finally:
        own.close()

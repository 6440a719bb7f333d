"""What goes to the person at the terminal: messages on stderr, results on stdout, how to type this program's commands.

Messages may be lost: whoever reads them, or no longer does, training goes on. Results wait for their reader, as `| less` needs
it; a reader that stops early (`| head`) is no error.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import stat
import sys
import time
from pathlib import Path

_PATIENCE_SECONDS = 1.0  # for a reader of messages that has stopped reading; it is waited for once

_AT_ONCE = 512  # bytes that a pipe with any room takes without blocking: the least PIPE_BUF that POSIX allows

_READER_LEFT = (errno.EPIPE, errno.EIO, errno.ENXIO)  # a closed pipe, a terminal that is gone

_lost: set[int] = set()  # descriptors whose reader has left


def say(message: str) -> None:
    """One line to the person who started the run, where there is one."""
    if sys.stderr is not None:  # else print would take stdout
        with contextlib.suppress(OSError, ValueError):
            print(message, file=sys.stderr, flush=True)


def is_watched() -> bool:
    """Whether messages go to a terminal."""
    with contextlib.suppress(OSError, ValueError):
        return sys.stderr is not None and sys.stderr.isatty()
    return False


def print_text(text: str) -> None:
    """Print what the terminal can show; a reader that stops early is no error."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _discard(sys.stdout.fileno())


def is_read() -> bool:
    """Whether what is printed still has a reader, as far as is known."""
    return 1 not in _lost


def command_name(command: str) -> str:
    """How to type one of this package's commands: `bitnet-report` for one who typed an installed command, else
    `python -m bitnet.report`."""
    return f"bitnet-{command}" if Path(sys.argv[0]).name.startswith("bitnet-") else f"python -m bitnet.{command}"


# ----------------------------------------------------------------------------------------------------- a program's streams
def guard_streams() -> None:
    """Make stdout and stderr of this program those of this module, whatever was left open or connected by its parent.

    A descriptor that was closed is opened on the null device: the next file to be opened would get its number, and with it
    every message.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest number that is free
    if os.name != "posix":  # elsewhere select takes no pipes
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    sys.stderr = io.TextIOWrapper(
        _Messages(2), _encoding(sys.stderr), "backslashreplace", line_buffering=True, write_through=True
    )
    errors = getattr(sys.stdout, "errors", None)
    results = io.BufferedWriter(_Results(1))
    sys.stdout = io.TextIOWrapper(results, _encoding(sys.stdout), errors, line_buffering=os.isatty(1))


def _encoding(stream: object) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


def _discard(descriptor: int) -> None:
    """Send what is still written to a descriptor nowhere."""
    _lost.add(descriptor)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


class _Descriptor(io.RawIOBase):
    """An open descriptor that this object does not close."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.descriptor

    def isatty(self) -> bool:
        return os.isatty(self.descriptor)


class _Messages(_Descriptor):
    """Takes everything, raises nothing, and blocks for a second at most: what can't be written by then is dropped.

    That is so for a closed pipe, a terminal that is gone, a full disk, and a pipe or a terminal that nobody empties.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self.unblocking = _unblocking(descriptor)
        self.patience = _PATIENCE_SECONDS

    def write(self, data: bytes) -> int:
        left = memoryview(data).cast("B")
        with contextlib.suppress(OSError, ValueError):
            while left and (written := self._write_some(left)):
                left = left[written:]
        return memoryview(data).nbytes

    def _write_some(self, data: memoryview) -> int:
        """How many bytes were taken; 0 when the reader's time is over, and the next message does not wait for it."""
        deadline = time.monotonic() + self.patience
        while select.select([], [self.unblocking], [], max(0.0, deadline - time.monotonic()))[1]:
            try:
                written = os.write(self.unblocking, data[:_AT_ONCE])
            except BlockingIOError:  # a terminal may have less room than it says
                if time.monotonic() >= deadline:
                    break
                time.sleep(0.01)
            else:
                self.patience = _PATIENCE_SECONDS
                return written
        self.patience = 0.0
        return 0

    def close(self) -> None:
        if not self.closed and self.unblocking != self.descriptor:
            os.close(self.unblocking)
        super().close()


def _unblocking(descriptor: int) -> int:
    """A descriptor of this process's own on the same pipe or terminal, on which no write blocks; else the one that is given.

    The one that is given is shared with the processes around this one, which its flags would change, too.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        with contextlib.suppress(OSError):  # not on Linux, or another user's terminal
            return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    return descriptor


class _Results(_Descriptor):
    """Waits for its reader; once that has left, the rest goes nowhere. A full disk is an error."""

    def write(self, data: bytes) -> int:
        try:
            return os.write(self.descriptor, data)
        except OSError as error:
            if error.errno not in _READER_LEFT or stat.S_ISREG(os.fstat(self.descriptor).st_mode):
                raise
            _discard(self.descriptor)
            return memoryview(data).nbytes

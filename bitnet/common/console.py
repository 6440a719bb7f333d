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

    patience = _PATIENCE_SECONDS

    def write(self, data: bytes) -> int:
        left = memoryview(data).cast("B")
        with contextlib.suppress(OSError, ValueError):
            while left and self._has_room():
                left = left[os.write(self.descriptor, left[:_AT_ONCE]) :]
        return memoryview(data).nbytes

    def _has_room(self) -> bool:
        room = bool(select.select([], [self.descriptor], [], self.patience)[1])
        self.patience = _PATIENCE_SECONDS if room else 0.0
        return room


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

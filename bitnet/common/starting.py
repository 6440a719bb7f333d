"""What a command does before it imports what takes seconds. Light to import, for the same reason."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from bitnet.common.console import guard_streams

INTERRUPTED = 130  # exit code of a command that was asked to stop, as shells have it for Ctrl-C


def begin(module: str) -> None:
    """Guard the program's streams, and let Ctrl-C end it at once and without a traceback while it imports.

    Nothing where the command's module is imported by another program, whose streams and signals are its own.

    Args:
        module: the `__name__` of the command's module.
    """
    if module != "__main__" and not Path(sys.argv[0]).name.startswith("bitnet-"):
        return
    guard_streams()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: object) -> NoReturn:
    # not by an exception: an import that one cuts off may end in any other, or go on
    os._exit(INTERRUPTED)

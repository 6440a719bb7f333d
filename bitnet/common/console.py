"""What goes to the person at the terminal: lines on stderr, text on stdout, how to type this program's commands."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def say(message: str) -> None:
    """One line to the person who started the run."""
    print(message, file=sys.stderr, flush=True)


def discard_output() -> None:
    """Send what is still printed nowhere: a reader that stops early (`| head`) is no error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def command_name(command: str) -> str:
    """How to type one of this package's commands: `bitnet-report` for one who typed an installed command, else
    `python -m bitnet.report`."""
    return f"bitnet-{command}" if Path(sys.argv[0]).name.startswith("bitnet-") else f"python -m bitnet.{command}"


def print_text(text: str) -> None:
    """Print what the terminal can show; a reader that stops early (`| head`) is no error."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    try:
        print(text, flush=True)
    except BrokenPipeError:
        discard_output()

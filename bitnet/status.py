"""`python -m bitnet.status`: how runs stand, wherever they were started, and what to type next."""

from __future__ import annotations

from bitnet.common.starting import INTERRUPTED, begin

begin(__name__)

import argparse
import sys
from pathlib import Path

from rich.console import Console

from bitnet.common.console import command_name, say
from bitnet.common.errors import UserError
from bitnet.common.stopping import interrupt_on_signals
from bitnet.launch.monitor import Monitor
from bitnet.launch.status_view import show, watch

_EPILOG = """states
  queued       waiting to start, or stopped and ready to resume; on a cluster also pending or requeued
  running      with a recent heartbeat
  stalled      recorded as running, but without a heartbeat for a minute and without a pending job: killed or hung
  done, diverged, failed   over; a failed run is tried again when its sweep is launched again
  unreadable   run.json is absent, damaged or of another version, or the folder can't be listed

examples
  {status}                        every run below outputs/
  {status} outputs/quickstart     one sweep
  {status} --watch                redrawn every two seconds until Ctrl-C"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command_name("status"),
        description="Shows how runs stand, from their folders and, for runs on a cluster, from its queue; and what to type next.",
        epilog=_EPILOG.format(status=command_name("status")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dir", nargs="?", type=Path, default=Path("outputs"), help="a folder of runs (default: outputs)")
    parser.add_argument("--watch", action="store_true", help="redraw every two seconds until Ctrl-C")
    parser.add_argument("--all", action="store_true", help="list all runs, not only the first 40")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = _parser().parse_args(argv)
    most = sys.maxsize if arguments.all else 40
    try:
        with interrupt_on_signals():
            (watch if arguments.watch else show)(Monitor(arguments.dir), Console(), most)
    except UserError as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return 0 if arguments.watch else INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())

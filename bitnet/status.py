"""`python -m bitnet.status`: how runs stand, wherever they were started, and what to type next.

It reads run folders, and asks a cluster's queue once where runs that are not over were given to it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from bitnet.common.console import command_name, discard_output
from bitnet.common.errors import UserError
from bitnet.launch.monitor import Monitor
from bitnet.launch.status_view import show, watch

_EPILOG = """states
  queued       frozen and waiting, or stopped and ready to go on; on a cluster also pending or requeued
  running      its heartbeat is fresh
  stalled      it says running, but has had no heartbeat for a minute, and no job that waits: killed, or hanging
  done, diverged, failed   over; a failed one is tried again when its sweep is launched again

examples
  {status}                        every run below outputs/
  {status} outputs/quickstart     one sweep
  {status} --watch                drawn anew every two seconds until Ctrl-C"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command_name("status"),
        description="How runs stand, read from their folders and, where they are a cluster's, joined with its queue.",
        epilog=_EPILOG.format(status=command_name("status")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dir", nargs="?", type=Path, default=Path("outputs"), help="a folder of runs (default: outputs)")
    parser.add_argument("--watch", action="store_true", help="draw anew every two seconds, until Ctrl-C")
    parser.add_argument("--all", action="store_true", help="list every run, not only the first 40")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = _parser().parse_args(argv)
    most = sys.maxsize if arguments.all else 40
    try:
        (watch if arguments.watch else show)(Monitor(arguments.dir), Console(), most)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        discard_output()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m bitnet.status`: how runs stand, from disk alone, wherever they were started; and what to type next."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bitnet import heartbeat
from bitnet.errors import UserError

_STALLED_SECONDS = 60.0  # a run beats once a second, but an evaluation or a save in between may take long
_ORDER = ("running", "stalled", "failed", "diverged", "queued", "done", "unreadable")
_STYLES = {"running": "green", "stalled": "yellow", "failed": "red", "diverged": "magenta", "done": "dim", "unreadable": "red"}

_EPILOG = """states
  queued       frozen and waiting, or stopped and ready to go on
  running      its heartbeat is fresh
  stalled      it says running, but has had no heartbeat for a minute: killed, or hanging
  done, diverged, failed   over; a failed one is tried again when its sweep is launched again

examples
  bitnet-status                        every run below outputs/
  bitnet-status outputs/quickstart     one sweep
  bitnet-status --watch                drawn anew every two seconds until Ctrl-C"""


@dataclass(frozen=True)
class Standing:
    """How one run stands."""

    folder: Path
    status: str
    step: int | None
    steps: int | None
    detail: str


def standings(top: Path, now: float) -> list[Standing]:
    """Every run below `top`, those that need a look first.

    Raises:
        UserError: when there is no such folder, or no run in it.
    """
    if not top.is_dir():
        raise UserError(f"{top}: no such folder")
    found = [_standing(folder, now) for folder in _run_folders(top)]
    if not found:
        raise UserError(f"{top}: no run in it; python -m bitnet.train sweeps=quickstart makes some")
    return sorted(found, key=lambda s: (_ORDER.index(s.status), s.folder))


def _run_folders(top: Path) -> Iterator[Path]:
    """Folders with a run.json, without going down into them."""
    with os.scandir(top) as entries:
        inside = list(entries)
    if any(e.name == "run.json" for e in inside):
        yield top
        return
    for entry in inside:
        if entry.is_dir() and not entry.name.startswith("."):
            yield from _run_folders(Path(entry.path))


def _standing(folder: Path, now: float) -> Standing:
    run = _read(folder / "run.json")
    status = run.get("status")
    if status not in _ORDER:
        return Standing(folder, "unreadable", None, None, "run.json can't be read")
    step, detail = run.get("step"), run.get("reason") or ""
    if status == "running":
        beat = heartbeat.read(folder)
        fresh = max(beat.get("time", 0.0), (folder / "run.json").stat().st_mtime)
        step = beat.get("step", step)
        if now - fresh > _STALLED_SECONDS:
            status, detail = "stalled", f"no heartbeat for {now - fresh:,.0f} s; {_last_line(folder)}"
        elif beat:
            loss = "" if beat.get("loss") is None else f"loss {beat['loss']:.3f}, "
            detail = f"{loss}{beat.get('tokens_per_second', 0):,.0f} tokens/s, {beat.get('left', 0) / 60:.0f} min left"
    elif status == "failed":
        detail = detail or _last_line(folder)
    elif status == "done" and (final := run.get("final") or {}):
        detail = f"held-out loss {final.get('heldout_loss', float('nan')):.3f}" + (f"; {detail}" if detail else "")
    return Standing(folder, status, step, run.get("steps"), detail)


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _last_line(folder: Path) -> str:
    """What the run said last."""
    try:
        lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:200] if lines else ""


def table(found: list[Standing], top: Path, most: int) -> Table:
    """The runs that need a look first, at most `most` of them, with the counts of all in the title."""
    counts = Counter(s.status for s in found)
    title = ", ".join(f"{counts[s]} {s}" for s in _ORDER if counts[s])
    drawn = Table(title=Text(f"{top}: {len(found)} runs: {title}"), title_justify="left")
    drawn.add_column("run", overflow="ellipsis", no_wrap=True, ratio=3)
    drawn.add_column("status", no_wrap=True)
    drawn.add_column("step", justify="right", no_wrap=True)
    drawn.add_column("detail", overflow="fold", ratio=2)
    for s in found[:most]:
        step = "" if s.step is None else f"{s.step}/{s.steps}"
        name = s.folder.name if s.folder == top else str(s.folder.relative_to(top))
        drawn.add_row(Text(name), s.status, step, Text(s.detail), style=_STYLES.get(s.status))
    if len(found) > most:
        drawn.add_row(f"... and {len(found) - most} more (--all shows them)", "", "", "")
    return drawn


def plain(found: list[Standing]) -> str:
    """Every run on a line of its own, for pipes and files: status, step, folder, detail, separated by tabs."""
    rows = ((s.status, "" if s.step is None else f"{s.step}/{s.steps}", str(s.folder), s.detail) for s in found)
    return "\n".join("\t".join(row) for row in rows)


def advice(found: list[Standing], top: Path) -> str:
    """What to type next."""
    counts = Counter(s.status for s in found)
    if counts["running"]:
        return f"look on: python -m bitnet.status {shlex.quote(str(top))} --watch"
    open_runs = [s for s in found if s.status in {"stalled", "failed", "queued"}]
    if open_runs and all(s.status == "queued" for s in open_runs):
        return "they wait for their sweep; where none is at work any more, launching it again goes on"
    if open_runs:
        one = shlex.quote(f"resume={open_runs[0].folder}")
        return f"go on: launch the same sweep again, or one of them: python -m bitnet.train {one}"
    return f"tables: python -m bitnet.report {shlex.quote(str(top))}"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="bitnet-status",
        description="How runs stand, read from their folders.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dir", nargs="?", type=Path, default=Path("outputs"), help="a folder of runs (default: outputs)")
    parser.add_argument("--watch", action="store_true", help="draw anew every two seconds, until Ctrl-C")
    parser.add_argument("--all", action="store_true", help="list every run, not only the first 40")
    arguments = parser.parse_args(argv)
    most = sys.maxsize if arguments.all else 40
    console = Console()

    def draw() -> Table:
        return table(standings(arguments.dir, time.time()), arguments.dir, most)

    try:
        if not arguments.watch:
            found = standings(arguments.dir, time.time())
            if console.is_terminal:
                console.print(table(found, arguments.dir, most))
            else:
                print(plain(found))
            print(advice(found, arguments.dir))
            return 0
        with Live(draw(), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(2)
                live.update(draw(), refresh=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())

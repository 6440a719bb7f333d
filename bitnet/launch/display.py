"""What a person sees of the runs at work on this machine: a live table, or a line for each start and end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bitnet.common.console import say
from bitnet.common.stopping import Asked
from bitnet.common.text import format_duration
from bitnet.runs import heartbeat
from bitnet.runs.reading import Unreadable
from bitnet.runs.record import RunRecord, read_record
from bitnet.runs.statuses import DONE, MISSING, QUEUED, UNREADABLE

REDRAW_SECONDS = 0.5


@dataclass
class Course:
    """What goes on: runs that wait, runs at work, and how those that are over ended."""

    waiting: list[Path]
    trunks: dict[Path, Path]  # of a run that begins as another one: that one's folder
    running: set[Path] = field(default_factory=set)
    exits: dict[Path, int] = field(default_factory=dict)
    killed: dict[Path, dict[str, Any]] = field(default_factory=dict)  # by the launching process: what to record of each
    asked: Asked = field(default_factory=Asked)  # to stop
    begun: bool = False  # whether a run was ever started

    @property
    def stopping(self) -> bool:
        """Whether no further run is to start."""
        return self.asked.times > 0


# ------------------------------------------------------------------------------------------------------ what one sees
@contextlib.contextmanager
def live_display(course: Course, folders: Sequence[Path]) -> Iterator[Any]:
    """A function that shows the course: a live table on a terminal, a line for each start and end elsewhere."""
    console = Console(stderr=True)
    if console.is_terminal:
        names = run_names(folders)
        with Live(_table(course, names), console=console, auto_refresh=False) as live:
            drawn = [time.monotonic()]

            def redraw() -> None:
                if time.monotonic() - drawn[0] >= REDRAW_SECONDS or not course.running:
                    live.update(_table(course, names), refresh=True)
                    drawn[0] = time.monotonic()

            yield redraw
            live.update(_table(course, names), refresh=True)
        return
    told: set[Path] = set()

    def tell() -> None:
        for folder in [f for f in course.exits if f not in told]:
            told.add(folder)
            try:
                run = read_record(folder)
            except Unreadable as error:  # its folder was removed, or damaged, while it ran
                say(f"[{len(told)}/{len(folders)}] {folder.name}: {UNREADABLE}: {error}")
                continue
            final = run.get("final") or {}
            loss = f", held-out loss {final['heldout_loss']:.3f}" if "heldout_loss" in final else ""
            how = "stopped" if run.get("status") == QUEUED else run.get("status")
            why = f" ({run['reason']})" if run.get("status") == DONE and run.get("reason") else ""
            say(f"[{len(told)}/{len(folders)}] {folder.name}: {how} at step {run.get('step')}{why}{loss}")

    yield tell
    tell()


def run_names(folders: Sequence[Path]) -> dict[Path, str]:
    """What tells each run from the others: the overrides that not all of them were given."""
    given = {folder: RunRecord(folder).read().get("overrides") or [] for folder in folders}
    shared = set.intersection(*map(set, given.values())) if len(given) > 1 else set()
    return {folder: " ".join(o for o in own if o not in shared) or folder.name for folder, own in given.items()}


def _table(course: Course, names: Mapping[Path, str], most: int = 20) -> Table:
    """Runs at work first, then those that ended badly, then the newest that ended well; counts in the title."""
    ended = list(reversed(course.exits))
    bad = [f for f in ended if course.exits[f] not in (0, 130)]
    rows = [*sorted(course.running), *bad, *[f for f in ended if f not in bad]]
    title = f"{len(course.exits)} of {len(names)} runs ended, {len(course.running)} running, {len(course.waiting)} waiting"
    table = Table(title=title + (" (stopping: running ones save first)" if course.stopping else ""), title_justify="left")
    table.add_column("run", overflow="ellipsis", no_wrap=True, ratio=1)
    for name, width in {"status": 7, "step": 11, "loss": 6, "unique": 6, "tokens/s": 8, "left": 7}.items():
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    for folder in rows[:most]:
        table.add_row(Text(names[folder]), *_cells(folder, folder in course.running))
    if len(rows) > most:
        table.add_row(f"... and {len(rows) - most} more", *[""] * 6)
    return table


def _cells(folder: Path, at_work: bool) -> list[str]:
    run = RunRecord(folder).read()
    beat = heartbeat.read(folder) if at_work else {}
    final = run.get("final") or {}
    loss = beat.get("loss") if at_work else final.get("Loss")
    unique = beat.get("unique") if at_work else final.get("UniquePredictions")
    speed = beat.get("tokens_per_second") if at_work else (run.get("timing") or {}).get("tokens_per_second")
    return [
        "stopped" if run.get("status") == QUEUED and not at_work else str(run.get("status", MISSING)),
        f"{beat.get('step', run.get('step', 0))}/{run.get('steps', '?')}",
        "" if loss is None else f"{loss:.3f}",
        "" if unique is None else f"{unique:.0f}",
        "" if speed is None else f"{speed:,.0f}",
        format_duration(beat["left"]) if beat.get("left") is not None else "",
    ]

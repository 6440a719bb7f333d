"""`python -m bitnet.status`: how runs stand, wherever they were started, and what to type next.

It reads run folders, and asks a cluster's queue once where runs that are not over were given to it.
"""

from __future__ import annotations

import shlex
import time
from collections import Counter
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bitnet.common.console import command_name
from bitnet.launch.monitor import STATE_ORDER, Monitor, RunState

_COMMANDS = 3  # at most so many are printed of those that go on with runs

_STYLES = {"running": "green", "stalled": "yellow", "failed": "red", "diverged": "magenta", "done": "dim", "unreadable": "red"}


def table(found: list[RunState], top: Path, most: int) -> Table:
    """The runs that need a look first, at most `most` of them, with the counts of all in the title."""
    drawn = Table(title=Text(f"{top}: {counts(found)}"), title_justify="left")
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


def counts(found: list[RunState]) -> str:
    """How many runs there are of each status, in words."""
    of_status = Counter(s.status for s in found)
    listed = ", ".join(f"{of_status[s]} {s}" for s in STATE_ORDER if of_status[s])
    return f"{len(found)} run{'' if len(found) == 1 else 's'}: {listed}"


def plain(found: list[RunState]) -> str:
    """Every run on a line of its own, for pipes and files: status, step, folder, detail, separated by tabs."""
    rows = ((s.status, "" if s.step is None else f"{s.step}/{s.steps}", str(s.folder), s.detail) for s in found)
    return "\n".join("\t".join(row) for row in rows)


def advice(found: list[RunState], top: Path) -> list[str]:
    """What to type next, a line for each thing that there is to do."""
    by_status = {status: [s for s in found if s.status == status] for status in STATE_ORDER}
    here = shlex.quote(str(top))
    lines = []
    if by_status["running"]:
        lines.append(f"look on: {command_name('status')} {here} --watch")
    for status in ("failed", "stalled"):
        if by_status[status] and (log := _log(by_status[status])) is not None:
            lines.append(f"why it {'failed' if status == 'failed' else 'stopped'}: tail -n 30 {shlex.quote(str(log))}")
    jobs = [(s.job, s.in_queue) for s in by_status["stalled"] if s.job is not None]
    if ended := [job for job, in_queue in jobs if in_queue is False]:
        lines.append(f"how its job ended: sacct -j {shlex.quote(ended[0])}")
    if silent := [job for job, in_queue in jobs if in_queue]:
        lines.append(f"its job still runs, without a sign of life; to end it: scancel {shlex.quote(silent[0])}")
    if waiting := [s.job for s in by_status["queued"] if s.job is not None and s.in_queue]:
        lines.append(f"{len(waiting)} wait in the cluster's queue; when they may start: squeue --start --jobs={_arrays(waiting)}")
    lines += _go_on([s for status in ("failed", "stalled", "queued") for s in by_status[status] if not s.in_queue], top)
    if broken := by_status["unreadable"]:
        record = shlex.quote(str(broken[0].folder / "run.json"))
        lines.append(f"look at the broken record: cat {record}; launching its sweep again makes the run anew")
    if by_status["done"] or by_status["diverged"]:
        lines.append(f"tables: {command_name('report')} {here}")
    return lines


def _log(found: list[RunState]) -> Path | None:
    """The first file that says what happened to one of these runs."""
    places = (s.folder / name for s in found for name in ("error.txt", "log.txt"))
    return next((place for place in places if place.is_file()), None)


def _arrays(jobs: list[str]) -> str:
    """The jobs without their tasks, as squeue takes them."""
    return ",".join(dict.fromkeys(job.split("_")[0] for job in jobs))


def _go_on(found: list[RunState], top: Path) -> list[str]:
    """The commands that start what is left: those that the runs were started with."""
    by_command: dict[str, list[RunState]] = {}
    for s in found:
        command = f"{command_name('train')} {shlex.quote(f'resume={s.folder}')}" if not s.command else _again(s.command)
        by_command.setdefault(command, []).append(s)
    lines = []
    for command, runs in list(by_command.items())[:_COMMANDS]:
        counts = Counter(s.status for s in runs)
        what = ", ".join(f"{n} {status}" for status, n in counts.items())
        unsure = any(s.in_queue is None for s in runs) or (set(counts) == {"queued"} and any(s.job is None for s in runs))
        at_work = " once nothing is at work on them" if unsure else ""
        lines.append(f"go on with {what}{at_work}: {command}")
    if len(by_command) > _COMMANDS:
        lines.append(f"... and {len(by_command) - _COMMANDS} more commands; each run.json below {top} has its own")
    return lines


def _again(command: str) -> str:
    """A recorded command, without what would repeat finished runs or leave failed ones alone."""
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    return shlex.join(w for w in words if not w.startswith(("overwrite=", "launcher.retry=")))


def show(look: Monitor, console: Console, most: int) -> None:
    found = look()
    if console.is_terminal:
        console.print(table(found, look.top, most))
    else:
        print(plain(found))
        print(f"{look.top}: {counts(found)}")
    print("\n".join([*look.remark, *advice(found, look.top)]), flush=True)


def watch(look: Monitor, console: Console, most: int) -> None:
    def drawn() -> Group:
        return Group(table(look(), look.top, most), *map(Text, look.remark))

    with Live(drawn(), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(2)
            live.update(drawn(), refresh=True)

"""How runs stand, as tables and lines, and what to type next."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bitnet.common.console import command_name, is_read, print_text
from bitnet.common.text import counted, single_line, without_interpolation
from bitnet.launch.monitor import Monitor, RunState
from bitnet.runs.statuses import DIVERGED, DONE, FAILED, LISTED, QUEUED, RUNNING, STALLED, UNREADABLE, count_statuses, describe

_COMMANDS = 3  # of those that resume runs, at most so many are printed

_STYLES = {RUNNING: "green", STALLED: "yellow", FAILED: "red", DIVERGED: "magenta", DONE: "dim", UNREADABLE: "red"}


def table(found: list[RunState], top: Path, most: int) -> Table:
    """At most `most` runs, those that need a look first, with the counts of all in the title."""
    drawn = Table(title=Text(f"{top}: {describe(s.status for s in found)}"), title_justify="left")
    drawn.add_column("run", overflow="ellipsis", no_wrap=True, ratio=3)
    drawn.add_column("status", no_wrap=True)
    drawn.add_column("step", justify="right", no_wrap=True)
    drawn.add_column("detail", overflow="fold", ratio=2)
    for s in found[:most]:
        inner = s.folder != top and s.folder.is_relative_to(top)
        name = str(s.folder.relative_to(top)) if inner else s.folder.name
        drawn.add_row(Text(single_line(name)), s.status, _step(s), Text(single_line(s.detail)), style=_STYLES.get(s.status))
    if len(found) > most:
        drawn.add_row(f"... and {len(found) - most:,} more (--all shows them)", "", "", "")
    return drawn


def _step(state: RunState) -> str:
    """The step that a run is at, and how many it has."""
    return "" if state.step is None else f"{state.step}/{'?' if state.steps is None else state.steps}"


def plain(found: list[RunState]) -> str:
    """A line for each run, for pipes and files: status, step, folder and detail, separated by tabs."""
    rows = ((s.status, _step(s), str(s.folder), single_line(s.detail)) for s in found)
    return "\n".join("\t".join(row) for row in rows)


def advice(found: list[RunState], top: Path) -> list[str]:
    """What to type next, one command a line."""
    by_status = {status: [s for s in found if s.status == status] for status in LISTED}
    here = shlex.quote(str(top))
    lines = []
    if by_status[RUNNING]:
        lines.append(f"watch: {command_name('status')} {here} --watch")
    for status in (FAILED, STALLED):
        if (log := _log(by_status[status])) is not None:
            lines.append(f"see why a run {status}: tail -n 30 {shlex.quote(str(log))}")
    jobs = [(s.job, s.in_queue) for s in by_status[STALLED] if s.job is not None]
    if ended := [job for job, in_queue in jobs if in_queue is False]:
        lines.append(f"see how a stalled run's job ended: sacct -j {shlex.quote(ended[0])}")
    if silent := [job for job, in_queue in jobs if in_queue]:
        lines.append(f"cancel a job that is still running without a heartbeat: scancel {shlex.quote(silent[0])}")
    if waiting := [s.job for s in by_status[QUEUED] if s.job is not None and s.in_queue]:
        runs = counted(len(waiting), "run")
        lines.append(f"see when {runs} in the cluster's queue may start: squeue --start --jobs={_arrays(waiting)}")
    lines += _resume([s for status in (FAILED, STALLED, QUEUED) for s in by_status[status] if not s.in_queue], top)
    if broken := by_status[UNREADABLE]:
        lines.append(f"inspect an unreadable run: {_inspect(broken[0].folder)}")
    if by_status[DONE] or by_status[DIVERGED]:
        lines.append(f"tables: {command_name('report')} {here}")
    return lines


def _inspect(folder: Path) -> str:
    """What shows why a folder can't be read."""
    record = folder / "run.json"
    return f"cat {shlex.quote(str(record))}" if record.is_file() else f"ls -la {shlex.quote(str(folder))}"


def _log(found: list[RunState]) -> Path | None:
    """The first file that says what happened to one of these runs, None where there is none."""
    places = (s.folder / name for s in found for name in ("error.txt", "log.txt"))
    return next((place for place in places if place.is_file()), None)


def _arrays(jobs: list[str]) -> str:
    """The jobs without their task numbers, as squeue takes them."""
    return ",".join(dict.fromkeys(job.split("_")[0] for job in jobs))


def _resume(found: list[RunState], top: Path) -> list[str]:
    """The commands that resume what is left: those that started the runs."""
    by_command: dict[str, list[RunState]] = {}
    for s in found:
        resumption = shlex.quote(f"resume={without_interpolation(str(s.folder))}")
        command = _again(s.command) if s.command else f"{command_name('train')} {resumption}"
        by_command.setdefault(command, []).append(s)
    lines = []
    for command, runs in list(by_command.items())[:_COMMANDS]:
        kinds = {s.status for s in runs}
        mixed = f"{counted(len(runs), 'run')} ({count_statuses(s.status for s in runs)})"
        what = counted(len(runs), f"{runs[0].status} run") if len(kinds) == 1 else mixed
        unsure = any(s.in_queue is None for s in runs) or (kinds == {QUEUED} and any(s.job is None for s in runs))
        once = f", once no process is working on {'it' if len(runs) == 1 else 'them'}" if unsure else ""
        lines.append(f"resume {what}{once}: {command}")
    if len(by_command) > _COMMANDS:
        lines.append(f"... and {counted(len(by_command) - _COMMANDS, 'more command')}: each run.json below {top} holds its own")
    return lines


def _again(command: str) -> str:
    """A recorded command, without what would repeat finished runs or skip failed ones."""
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    return shlex.join(w for w in words if not w.startswith(("overwrite=", "launcher.retry=")))


def show(monitor: Monitor, console: Console, most: int) -> None:
    found = monitor()
    if console.is_terminal:
        console.print(table(found, monitor.top, most))
    else:
        print_text(f"{plain(found)}\n{monitor.top}: {describe(s.status for s in found)}")
    print_text("\n".join([*monitor.remark, *advice(found, monitor.top)]))


def watch(monitor: Monitor, console: Console, most: int) -> None:
    """Redraw every two seconds, as long as someone may see it."""

    def drawn() -> Group:
        return Group(table(monitor(), monitor.top, most), *map(Text, monitor.remark))

    with Live(drawn(), console=console, auto_refresh=False) as live:
        while is_read():
            time.sleep(2)
            live.update(drawn(), refresh=True)

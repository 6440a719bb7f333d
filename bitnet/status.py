"""`python -m bitnet.status`: how runs stand, wherever they were started, and what to type next.

It reads run folders, and asks a cluster's queue once where runs that are not over were given to it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bitnet import heartbeat, squeue
from bitnet.called import called
from bitnet.errors import UserError
from bitnet.files import discard_output
from bitnet.units import clock

_COMMANDS = 3  # at most so many are printed of those that go on with runs
_QUEUE_SECONDS = 30.0  # between two questions to the cluster's controller, which serves others too
_TAIL_BYTES = 4096
_STALLED_SECONDS = 60.0  # a run beats once a second, but an evaluation or a save in between may take long
_ORDER = ("running", "stalled", "failed", "diverged", "queued", "done", "unreadable")
_STYLES = {"running": "green", "stalled": "yellow", "failed": "red", "diverged": "magenta", "done": "dim", "unreadable": "red"}

_EPILOG = """states
  queued       frozen and waiting, or stopped and ready to go on; on a cluster also pending or requeued
  running      its heartbeat is fresh
  stalled      it says running, but has had no heartbeat for a minute, and no job that waits: killed, or hanging
  done, diverged, failed   over; a failed one is tried again when its sweep is launched again

examples
  {status}                        every run below outputs/
  {status} outputs/quickstart     one sweep
  {status} --watch                drawn anew every two seconds until Ctrl-C"""


@dataclass(frozen=True)
class Standing:
    """How one run stands."""

    folder: Path
    status: str
    step: int | None
    steps: int | None
    detail: str
    command: str | None = None  # what was typed to start it
    job: str | None = None  # its name in the cluster's queue
    in_queue: bool | None = False  # whether that job still waits or is at work; None when the queue did not say


def standings(top: Path, now: float, queue: squeue.Queue | None = None) -> list[Standing]:
    """Every run below `top`, those that need a look first.

    Args:
        now: seconds since the epoch.
        queue: what the cluster said; None for disk alone.
    Raises:
        UserError: when there is no such folder, or no run in it.
    """
    return _judged(_records(top), now, queue)


def _records(top: Path) -> dict[Path, dict[str, Any]]:
    """run.json of every run below `top`; empty for one that can't be read."""
    if not top.is_dir():
        raise UserError(f"{top}: no such folder")
    found = {folder: _read(folder / "run.json") for folder in _run_folders(top)}
    if not found:
        raise UserError(f"{top}: no run in it; {called('train')} sweeps=quickstart makes some")
    return found


def _judged(records: Mapping[Path, dict[str, Any]], now: float, queue: squeue.Queue | None) -> list[Standing]:
    found = [_standing(folder, run, now, queue) for folder, run in records.items()]
    return sorted(found, key=lambda s: (_ORDER.index(s.status), s.folder))


def _open_jobs(records: Mapping[Path, dict[str, Any]]) -> set[str]:
    """Names of the jobs that runs which are not over were given to."""
    return {job for run in records.values() if run.get("status") in {"queued", "running"} and (job := _job_name(run)) is not None}


def _job_name(run: Mapping[str, Any]) -> str | None:
    slurm = run.get("slurm")
    job = slurm.get("job") if isinstance(slurm, dict) else None
    return str(job) if str(job)[:1].isdigit() else None


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


def _standing(folder: Path, run: dict[str, Any], now: float, queue: squeue.Queue | None) -> Standing:
    status = run.get("status")
    if status not in _ORDER:
        return Standing(folder, "unreadable", None, None, "run.json can't be read")
    name = _job_name(run)
    job = None if queue is None or name is None else queue.jobs.get(name)
    step, detail = run.get("step"), run.get("reason") or ""
    if status == "running":
        status, step, detail = _of_running(folder, run, now, job)
    elif status == "failed":
        detail = _told(detail, _last_line(folder))
    elif status == "done" and (final := run.get("final") or {}):
        detail = f"held-out loss {final.get('heldout_loss', float('nan')):.3f}" + (f"; {detail}" if detail else "")
    if status in {"queued", "running", "stalled"} and queue is not None and name is not None and queue.problem is None:
        detail = _told(detail, f"job {name} is no longer in the queue" if job is None else str(job))
    asked = name is None or (queue is not None and queue.problem is None)
    in_queue = (job is not None and not job.is_over) if asked else None
    return Standing(folder, status, step, run.get("steps"), detail, run.get("command"), name, in_queue)


def _of_running(folder: Path, run: dict[str, Any], now: float, job: squeue.Job | None) -> tuple[str, int | None, str]:
    """Status, step and detail of a run whose record says that it runs."""
    beat = heartbeat.read(folder)
    step = beat.get("step", run.get("step"))
    fresh = max(beat.get("time", 0.0), (folder / "run.json").stat().st_mtime)
    if now - fresh > _STALLED_SECONDS:
        if job is not None and job.waits:  # preempted or requeued: it comes back by itself
            return "queued", step, ""
        return "stalled", step, _told(f"no heartbeat for {now - fresh:,.0f} s", _last_line(folder))
    if not beat:
        return "running", step, ""
    loss, rate, left = (beat.get(key) for key in ("loss", "tokens_per_second", "left"))
    known = [] if loss is None else [f"loss {loss:.3f}"]
    if rate is not None and left is not None:
        known += [f"{rate:,.0f} tokens/s", f"{clock(left)} left"]
    return "running", step, ", ".join(known)


def _told(first: str, second: str) -> str:
    """Both, or one where the other adds nothing."""
    return second if first in second else f"{first}; {second}" if second else first


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _last_line(folder: Path) -> str:
    """What the run said last, from the end of its log."""
    try:
        with (folder / "log.txt").open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:200] if lines else ""


def table(found: list[Standing], top: Path, most: int) -> Table:
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


def counts(found: list[Standing]) -> str:
    """How many runs there are of each status, in words."""
    of_status = Counter(s.status for s in found)
    return f"{len(found)} run{'' if len(found) == 1 else 's'}: {', '.join(f'{of_status[s]} {s}' for s in _ORDER if of_status[s])}"


def plain(found: list[Standing]) -> str:
    """Every run on a line of its own, for pipes and files: status, step, folder, detail, separated by tabs."""
    rows = ((s.status, "" if s.step is None else f"{s.step}/{s.steps}", str(s.folder), s.detail) for s in found)
    return "\n".join("\t".join(row) for row in rows)


def advice(found: list[Standing], top: Path) -> list[str]:
    """What to type next, a line for each thing that there is to do."""
    by_status = {status: [s for s in found if s.status == status] for status in _ORDER}
    here = shlex.quote(str(top))
    lines = []
    if by_status["running"]:
        lines.append(f"look on: {called('status')} {here} --watch")
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
        lines.append(f"tables: {called('report')} {here}")
    return lines


def _log(found: list[Standing]) -> Path | None:
    """The first file that says what happened to one of these runs."""
    places = (s.folder / name for s in found for name in ("error.txt", "log.txt"))
    return next((place for place in places if place.is_file()), None)


def _arrays(jobs: list[str]) -> str:
    """The jobs without their tasks, as squeue takes them."""
    return ",".join(dict.fromkeys(job.split("_")[0] for job in jobs))


def _go_on(found: list[Standing], top: Path) -> list[str]:
    """The commands that start what is left: those that the runs were started with."""
    by_command: dict[str, list[Standing]] = {}
    for s in found:
        command = f"{called('train')} {shlex.quote(f'resume={s.folder}')}" if not s.command else _again(s.command)
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


# -------------------------------------------------------------------------------------------------------- command line
class _Look:
    """Looks at the runs below a folder; asks the queue again only after a while."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.queue = squeue.Queue()
        self._asked = -_QUEUE_SECONDS

    def __call__(self) -> list[Standing]:
        records = _records(self.top)
        jobs = _open_jobs(records)
        if jobs and time.monotonic() - self._asked >= _QUEUE_SECONDS:
            self.queue = squeue.ask(jobs)
            self._asked = time.monotonic()
        return _judged(records, time.time(), self.queue if jobs else None)

    @property
    def remark(self) -> list[str]:
        """That the queue could not be asked, in one line; nothing when it answered."""
        return [] if self.queue.problem is None else [f"cluster queue: {self.queue.problem}; this is from disk alone"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=called("status"),
        description="How runs stand, read from their folders and, where they are a cluster's, joined with its queue.",
        epilog=_EPILOG.format(status=called("status")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dir", nargs="?", type=Path, default=Path("outputs"), help="a folder of runs (default: outputs)")
    parser.add_argument("--watch", action="store_true", help="draw anew every two seconds, until Ctrl-C")
    parser.add_argument("--all", action="store_true", help="list every run, not only the first 40")
    return parser


def _show(look: _Look, console: Console, most: int) -> None:
    found = look()
    if console.is_terminal:
        console.print(table(found, look.top, most))
    else:
        print(plain(found))
        print(f"{look.top}: {counts(found)}")
    print("\n".join([*look.remark, *advice(found, look.top)]), flush=True)


def _watch(look: _Look, console: Console, most: int) -> None:
    def drawn() -> Group:
        return Group(table(look(), look.top, most), *map(Text, look.remark))

    with Live(drawn(), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(2)
            live.update(drawn(), refresh=True)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = _parser().parse_args(argv)
    most = sys.maxsize if arguments.all else 40
    try:
        (_watch if arguments.watch else _show)(_Look(arguments.dir), Console(), most)
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

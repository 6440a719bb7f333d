"""Many runs on this machine: a process for each, as many at once as there are GPUs or cores; and what one sees of them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bitnet import branches, heartbeat
from bitnet.freeze import Busy, alone, say
from bitnet.records import RunRecord, now
from bitnet.server import Gone, Server, how_it_ended, server
from bitnet.stopping import SIGNALS
from bitnet.units import clock

SIMULATED_GPUS = "BITNET_SIMULATED_GPUS"  # for tests of the leases on a machine without GPUs
_REDRAW_SECONDS = 0.5


@dataclass(frozen=True)
class Room:
    """What this machine offers to runs: `jobs` at once, `threads` for each, on `devices` (empty: the CPU) x `slots`."""

    jobs: int
    threads: int
    devices: tuple[str, ...]
    slots: int


def gpus(count: int | None = None) -> tuple[str, ...]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES gives them.

    `count`: how many torch sees; None: torch is asked here, which takes seconds where it isn't imported yet.
    """
    if SIMULATED_GPUS in os.environ:
        return tuple(str(n) for n in range(int(os.environ[SIMULATED_GPUS])))
    if count is None:
        import torch

        count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(n) for n in range(count)] if visible is None else visible.split(",")
    return tuple(names[:count])


def room(runs: int, device: str, jobs: int | None, jobs_per_gpu: int, count: int | None = None) -> Room:
    """How many of `runs` go at once, and with what; `count` as for `gpus`.

    On GPUs each run holds one, or one of `jobs_per_gpu` places on it. On the CPU as many run as there are cores, and the
    cores are divided among them.
    """
    there = () if device == "cpu" else gpus(count)
    if device.startswith("cuda:"):
        there = there[int(device.split(":")[1]) :][:1]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    places = len(there) * jobs_per_gpu if there else cores
    at_once = max(1, min(runs, places if jobs is None else jobs))
    return Room(at_once, max(1, cores // at_once), there, jobs_per_gpu)


def leases_folder() -> Path:
    """Where GPU leases lie: one place for all of a user's controllers on this machine."""
    return Path(tempfile.gettempdir()) / f"bitnet-leases-{os.getuid() if hasattr(os, 'getuid') else 'user'}"


@dataclass
class _Course:
    """What goes on: runs that wait, runs at work, and how those that are over ended."""

    waiting: list[Path]
    trunks: dict[Path, Path]  # of a run that begins as another one: that one's folder
    running: set[Path] = field(default_factory=set)
    exits: dict[Path, int] = field(default_factory=dict)
    stopping: bool = False


def run_all(folders: Sequence[Path], device: str, jobs: int | None, jobs_per_gpu: int) -> dict[Path, int]:
    """Execute the runs in `folders`, each in its own process; returns their exit codes. The other arguments: see `room`.

    Every run goes to its end, whatever becomes of the others. After Ctrl-C, SIGTERM or SIGUSR2 no new run starts, those at work
    save and end, and KeyboardInterrupt is raised. Should the process that they are forked from be killed, those at work go on by
    themselves; these and the runs that were not begun count as ended with code 1.
    """
    course = _Course(list(folders), _trunks(folders))
    with _stopped_by_signals(course), _shown(course, folders) as redraw, server() as forking:
        try:
            where = room(len(folders), device, jobs, jobs_per_gpu, forking.gpus)
            while course.running or (course.waiting and not course.stopping):
                while not course.stopping and len(course.running) < where.jobs and (ready := _ready(course)):
                    _start(forking, course, where, ready)
                if course.stopping:
                    forking.stop()
                for folder, code in forking.ended(_REDRAW_SECONDS):
                    _end(course, folder, code)
                redraw()
        except Gone as error:
            left = f"{len(course.running)} runs may be at work without it, {len(course.waiting)} were not begun"
            say(f"{error}; {left}; the same command goes on")
    if course.stopping:
        raise KeyboardInterrupt
    return dict.fromkeys(folders, 1) | course.exits


def _trunks(folders: Sequence[Path]) -> dict[Path, Path]:
    trunks = {f: branches.trunk_folder(RunRecord(f)) for f in folders}
    return {f: trunk for f, trunk in trunks.items() if trunk is not None}


def _ready(course: _Course) -> Path | None:
    """The first run that can begin: not one whose trunk is still to reach the step where it branches off.

    Training the common steps beside the trunk would take as long as waiting for it, and a core.
    """

    def can_begin(folder: Path) -> bool:
        trunk = course.trunks.get(folder)
        if trunk is None:
            return True
        if trunk in course.waiting:
            return False
        return trunk not in course.running or not branches.awaits(RunRecord(folder))

    ready = next(filter(can_begin, course.waiting), None)
    # records that two controllers wrote may name each other
    return course.waiting[0] if ready is None and course.waiting and not course.running else ready


def _start(forking: Server, course: _Course, where: Room, folder: Path) -> None:
    job = {"folder": str(folder), "threads": where.threads, "devices": where.devices, "slots": where.slots}
    forking.start(job | {"leases": str(leases_folder())})
    course.waiting.remove(folder)
    course.running.add(folder)


def _end(course: _Course, folder: Path, code: int) -> None:
    """Note a run's end; where it could not write its own, it is recorded here.

    A run that was stopped is in the queue. Any other that is not over has failed, whatever its process's exit code.
    """
    course.running.discard(folder)
    course.exits[folder] = code
    record = RunRecord(folder)
    if code == 130:  # stopped before it went on, where a crash had left it as if it were at work
        unfinished, end = {"running"}, {"status": "queued", "reason": "stopped; launch again to go on"}
    else:
        unfinished = {"queued", "running"}
        end = {"status": "failed", "reason": f"its process {how_it_ended(code)}", "finished": now()}
    if record.read().get("status") not in unfinished:
        return
    course.exits[folder] = code or 1
    try:
        with alone(record):
            if record.read().get("status") in unfinished:
                record.update(**end)
    except Busy:
        say(f"{folder}: a process that waited for the run {how_it_ended(code)}; another one is working on it")
    except OSError as error:  # the disk is full: the other runs go on
        say(f"{folder}: its process {how_it_ended(code)}, which can't be recorded: {error.strerror}")


@contextlib.contextmanager
def _stopped_by_signals(course: _Course) -> Iterator[None]:
    """Every request to stop, a terminal's Ctrl-C among them, stops the course: no run starts, those at work save and end."""

    def stop(number: int, frame: FrameType | None) -> None:
        course.stopping = True

    previous = {s: signal.signal(s, stop) for s in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


# ------------------------------------------------------------------------------------------------------ what one sees
@contextlib.contextmanager
def _shown(course: _Course, folders: Sequence[Path]) -> Iterator[Any]:
    """A function that shows the course: a live table on a terminal, a line for each start and end elsewhere."""
    console = Console(stderr=True)
    if console.is_terminal:
        names = _names(folders)
        with Live(_table(course, names), console=console, auto_refresh=False) as live:
            drawn = [time.monotonic()]

            def redraw() -> None:
                if time.monotonic() - drawn[0] >= _REDRAW_SECONDS or not course.running:
                    live.update(_table(course, names), refresh=True)
                    drawn[0] = time.monotonic()

            yield redraw
            live.update(_table(course, names), refresh=True)
        return
    told: set[Path] = set()

    def tell() -> None:
        for folder in [f for f in course.exits if f not in told]:
            told.add(folder)
            run = RunRecord(folder).read()
            final = run.get("final") or {}
            loss = f", held-out loss {final['heldout_loss']:.3f}" if "heldout_loss" in final else ""
            how = "stopped" if run.get("status") == "queued" else run.get("status")
            why = f" ({run['reason']})" if run.get("status") == "done" and run.get("reason") else ""
            line = f"[{len(told)}/{len(folders)}] {folder.name}: {how} at step {run.get('step')}{why}{loss}"
            print(line, file=sys.stderr, flush=True)

    yield tell
    tell()


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """What tells each run from the others: the overrides that not all of them were given."""
    given = {folder: RunRecord(folder).read().get("overrides") or [] for folder in folders}
    shared = set.intersection(*map(set, given.values())) if len(given) > 1 else set()
    return {folder: " ".join(o for o in own if o not in shared) or folder.name for folder, own in given.items()}


def _table(course: _Course, names: Mapping[Path, str], most: int = 20) -> Table:
    """Runs at work first, then those that ended badly, then the newest that ended well; counts in the title."""
    ended = list(reversed(course.exits))
    bad = [f for f in ended if course.exits[f] not in (0, 130)]
    rows = [*sorted(course.running), *bad, *[f for f in ended if f not in bad]]
    title = f"{len(course.exits)} of {len(names)} runs over, {len(course.running)} at work, {len(course.waiting)} waiting"
    table = Table(title=title + (" (stopping: each saves and ends)" if course.stopping else ""), title_justify="left")
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
        "stopped" if run.get("status") == "queued" and not at_work else str(run.get("status", "missing")),
        f"{beat.get('step', run.get('step', 0))}/{run.get('steps', '?')}",
        "" if loss is None else f"{loss:.3f}",
        "" if unique is None else f"{unique:.0f}",
        "" if speed is None else f"{speed:,.0f}",
        clock(beat["left"]) if beat.get("left") is not None else "",
    ]

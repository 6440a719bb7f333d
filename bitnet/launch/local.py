"""Many runs on this machine: a process for each, as many at once as there are GPUs or cores."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from bitnet.common.console import say
from bitnet.common.errors import UserError
from bitnet.common.stopping import SIGNALS
from bitnet.launch.display import REDRAW_SECONDS, Course, live_display
from bitnet.launch.fork_client import ForkServer, ForkServerDied, describe_exit, fork_server
from bitnet.launch.resources import Capacity, capacity, leases_folder
from bitnet.runs.record import RunLocked, RunRecord, lock_run, utc_now
from bitnet.runs.statuses import FAILED, OPEN, QUEUED, RUNNING
from bitnet.runs.trunk import trunk_folder, waits_for_trunk


def run_all(folders: Sequence[Path], device: str, jobs: int | None, jobs_per_gpu: int) -> dict[Path, int]:
    """Execute the runs in `folders`, each in its own process; returns their exit codes. The other arguments: see `capacity`.

    Every run goes to its end, whatever becomes of the others. After Ctrl-C, SIGTERM or SIGUSR2 no new run starts, those at work
    save and end, and KeyboardInterrupt is raised. Should the process that they are forked from be killed, those at work go on by
    themselves; these and the runs that were not begun count as ended with code 1.
    """
    course = Course(list(folders), _trunks(folders))
    with _stopped_by_signals(course), live_display(course, folders) as redraw, fork_server() as forking:
        try:
            where = capacity(len(folders), device, jobs, jobs_per_gpu, forking.gpus)
            while course.running or (course.waiting and not course.stopping):
                while not course.stopping and len(course.running) < where.jobs and (ready := _ready(course)):
                    _start(forking, course, where, ready)
                if course.stopping:
                    forking.stop()
                for folder, code in forking.ended(REDRAW_SECONDS):
                    _end(course, folder, code)
                redraw()
        except ForkServerDied as error:
            left = f"{len(course.running)} runs may still be running without it, {len(course.waiting)} were not started"
            say(f"{error}; {left}; the same command resumes")
    if course.stopping:
        raise KeyboardInterrupt
    return dict.fromkeys(folders, 1) | course.exits


def _trunks(folders: Sequence[Path]) -> dict[Path, Path]:
    trunks = {f: trunk_folder(RunRecord(f)) for f in folders}
    return {f: trunk for f, trunk in trunks.items() if trunk is not None}


def _ready(course: Course) -> Path | None:
    """The first run that can begin: not one whose trunk is still to reach the step where it branches off.

    Training the common steps beside the trunk would take as long as waiting for it, and a core.
    """

    def can_begin(folder: Path) -> bool:
        trunk = course.trunks.get(folder)
        if trunk is None:
            return True
        if trunk in course.waiting:
            return False
        return trunk not in course.running or not waits_for_trunk(RunRecord(folder))

    ready = next(filter(can_begin, course.waiting), None)
    # records that two controllers wrote may name each other
    return course.waiting[0] if ready is None and course.waiting and not course.running else ready


def _start(forking: ForkServer, course: Course, where: Capacity, folder: Path) -> None:
    job = {"folder": str(folder), "threads": where.threads, "devices": where.devices, "slots": where.slots}
    forking.start(job | {"leases": str(leases_folder())})
    course.waiting.remove(folder)
    course.running.add(folder)


def _end(course: Course, folder: Path, code: int) -> None:
    """Note a run's end; where it could not write its own, it is recorded here.

    A run that was stopped is in the queue. Any other that is not over has failed, whatever its process's exit code.
    """
    course.running.discard(folder)
    course.exits[folder] = code
    record = RunRecord(folder)
    if code == 130:  # stopped before it went on, where a crash had left it as if it were at work
        unfinished, end = (RUNNING,), {"status": QUEUED, "reason": "stopped; the same command resumes"}
    else:
        unfinished = OPEN
        end = {"status": FAILED, "reason": f"its process {describe_exit(code)}", "finished": utc_now()}
    if record.read().get("status") not in unfinished:
        return
    course.exits[folder] = code or 1
    try:
        with lock_run(record):
            if record.read().get("status") in unfinished:
                record.update(**end)
    except RunLocked:
        say(f"{folder}: a process that waited for the run {describe_exit(code)}; another one is working on it")
    except UserError as error:
        say(f"{error}; its process {describe_exit(code)}, which can't be recorded")
    except OSError as error:  # the disk is full: the other runs go on
        say(f"{folder}: its process {describe_exit(code)}, which can't be recorded: {error.strerror}")


@contextlib.contextmanager
def _stopped_by_signals(course: Course) -> Iterator[None]:
    """Every request to stop, a terminal's Ctrl-C among them, stops the course: no run starts, those at work save and end."""

    def stop(number: int, frame: FrameType | None) -> None:
        course.stopping = True

    previous = {s: signal.signal(s, stop) for s in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

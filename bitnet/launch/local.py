"""Many runs on this machine: a process for each, as many at once as there are GPUs or cores."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from bitnet.common.console import say
from bitnet.common.errors import UserError
from bitnet.common.starting import INTERRUPTED
from bitnet.common.stopping import GRACE_SECONDS, handled
from bitnet.common.text import counted
from bitnet.launch.display import REDRAW_SECONDS, Course, live_display
from bitnet.launch.fork_client import ForkServer, ForkServerDied, describe_exit, fork_server
from bitnet.launch.resources import Capacity, capacity, leases_folder
from bitnet.launch.stalls import Stalls
from bitnet.runs import heartbeat
from bitnet.runs.record import RunLocked, RunRecord, lock_run, utc_now
from bitnet.runs.statuses import FAILED, OPEN, QUEUED, RUNNING
from bitnet.runs.trunk import trunk_folder, waits_for_trunk

MOST_DEATHS = 3  # of the process that runs are forked from, one after another without progress in between

_KILLED_SECONDS = 2.0  # within which runs that were killed are reported as ended, unless what reports it hangs as well


def run_all(
    folders: Sequence[Path], device: str, jobs: int | None, jobs_per_gpu: int, stalled_minutes: float | None = None
) -> dict[Path, int]:
    """Execute the runs in `folders`, each in its own process; returns their exit codes.

    Every run goes to its end, whatever becomes of the others. When it is asked to stop (see `common.stopping`), no new run
    starts and those at work save and end; asked again, it kills those that are still there after `GRACE_SECONDS`, and asked
    a third time at once. Should the process that runs are forked from die, it is started again, and runs that were at work are
    waited for, also when it was asked to stop; after `MOST_DEATHS` without progress what is left counts as ended with code 1.

    Args:
        device, jobs, jobs_per_gpu: see `resources.capacity`.
        stalled_minutes: after so long at work without a heartbeat a run is killed, and recorded as failed; None for never.
    Raises:
        KeyboardInterrupt: when it was asked to stop.
    """
    course = Course(list(folders), _trunks(folders))
    with live_display(course, folders) as redraw, fork_server() as forking, _stopped_by_signals(course):
        turns = _Turns(course, forking, stalled_minutes)
        where, deaths = None, _Deaths()
        while where is None or course.running or (course.waiting and not course.stopping):
            try:
                where = where or capacity(len(folders), device, jobs, jobs_per_gpu, forking.gpus)
                if not turns.take(where):
                    break
            except ForkServerDied as error:
                if not deaths.survived(error, course):
                    break
                forking.restart()
                course.waiting[:0], course.running = sorted(course.running), set()
            redraw()
        if course.stopping:
            turns.see_orphans_end(redraw)
    if course.stopping:
        raise KeyboardInterrupt
    return dict.fromkeys(folders, 1) | course.exits


def _trunks(folders: Sequence[Path]) -> dict[Path, Path]:
    trunks = {f: trunk_folder(RunRecord(f)) for f in folders}
    return {f: trunk for f, trunk in trunks.items() if trunk is not None}


class _Turns:
    """What is done again and again while runs are at work: start some, stop them when asked, hear how they end."""

    def __init__(self, course: Course, forking: ForkServer, stalled_minutes: float | None) -> None:
        self.course, self.forking, self.stalled_minutes = course, forking, stalled_minutes
        self.stalls = Stalls(60 * (stalled_minutes or 0))
        self.answered = 0  # requests to stop
        self.grace_ends: float | None = None
        self.killed_at: float | None = None

    def take(self, where: Capacity) -> bool:
        """One turn; False when nothing more can be waited for."""
        course = self.course
        while not course.stopping and len(course.running) < where.jobs and (ready := _ready(course)):
            _start(self.forking, course, where, ready)
        if course.stopping:
            self.stop()
        for folder, code in self.forking.ended(REDRAW_SECONDS):
            _end(course, folder, code)
        self._kill_stalled()
        if self.killed_at is None or time.monotonic() < self.killed_at + _KILLED_SECONDS:
            return True
        self.forking.close(force=True)  # it does not say that they have ended: it hangs as well
        for folder in sorted(course.running):
            _end(course, folder, -signal.SIGKILL)
        return False

    def stop(self) -> None:
        """Answer requests to stop, each with one line on what it does and what the next one would."""
        name, grace = self.course.asked.name, f"{GRACE_SECONDS:.0f} s"
        for time_asked in range(self.answered + 1, min(self.course.asked.times, 3) + 1):
            self.answered = time_asked
            if time_asked == 1:
                say(f"{name}: no run starts, those at work save and end; a second signal gives them {grace} for that")
                self.forking.stop()
            elif time_asked == 2:
                self.grace_ends = time.monotonic() + GRACE_SECONDS
                still = f"runs that are still at work in {grace} are killed, and their last checkpoints stand"
                say(f"{name}: {still}; a third signal kills them at once")
            else:
                self.grace_ends = time.monotonic()
                say(f"{name}: kills {counted(len(self.course.running), 'run')} at once; their last checkpoints stand")
        if self.killed_at is None and self.grace_ends is not None and time.monotonic() >= self.grace_ends:
            self.killed_at = time.monotonic()
            reason = "killed when asked to stop again; the same command resumes from the last checkpoint"
            self._kill(self.course.running, status=QUEUED, reason=reason)

    def see_orphans_end(self, redraw: Callable[[], None]) -> None:
        """Wait for runs that outlived the process they were forked from as for any other run that was asked to stop."""
        if not self.answered:  # asked while nothing else was left to wait for
            with contextlib.suppress(ForkServerDied):
                self.stop()
        self.course.running = self.forking.orphans()
        while self.course.running:
            at_work = self.forking.orphans()
            if self.killed_at is not None and time.monotonic() >= self.killed_at + _KILLED_SECONDS:
                at_work = set()  # what SIGKILL does not end, nothing does
            for folder in self.course.running - at_work:
                _end(self.course, folder, -signal.SIGKILL if folder in self.course.killed else INTERRUPTED)
            with contextlib.suppress(ForkServerDied):
                self.stop()
            redraw()
            time.sleep(REDRAW_SECONDS if self.course.running else 0)

    def _kill_stalled(self) -> None:
        if self.stalled_minutes is None:
            return
        for folder in self.stalls.look({f: self.forking.processes(f) for f in self.course.running - self.course.killed.keys()}):
            reason = f"stalled: no heartbeat for {self.stalled_minutes:g} minutes (launcher.stalled_minutes=null never ends one)"
            say(f"{folder.name}: {reason}; it is killed, the others go on")
            self._kill([folder], status=FAILED, reason=reason, finished=utc_now())

    def _kill(self, folders: Sequence[Path] | set[Path], **end: str) -> None:
        self.course.killed |= dict.fromkeys(folders, end)
        self.forking.kill(folders)


class _Deaths:
    """How often the process that runs are forked from has died in a row, without progress in between."""

    def __init__(self) -> None:
        self.in_a_row, self.reached = 0, -1

    def survived(self, error: ForkServerDied, course: Course) -> bool:
        """Say what becomes of the runs; whether it is to be started again."""
        at_work = f"{counted(len(course.running), 'run')} at work"
        if course.stopping:
            say(f"{error}; {at_work} save and end without it")
            return False
        reached = len(course.exits) + sum(_last_step(folder) for folder in course.running)
        self.in_a_row = self.in_a_row + 1 if reached == self.reached else 1
        self.reached = reached
        if self.in_a_row < MOST_DEATHS:
            say(f"{error}; it is started again, and {at_work} waited for")
            return True
        left = f"{at_work} may go on without it, {len(course.waiting)} not begun"
        say(f"{error}, {self.in_a_row} times in a row; {left}; the same command goes on")
        return False


def _last_step(folder: Path) -> int:
    return heartbeat.read(folder).get("step") or RunRecord(folder).read().get("step") or 0


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
    course.waiting.remove(folder)
    course.running.add(folder)
    course.begun = True
    forking.start(job | {"leases": str(leases_folder())})


def _end(course: Course, folder: Path, code: int) -> None:
    """Note a run's end; where it could not write its own, it is recorded here.

    A run that was stopped is in the queue. Any other that is not over has failed, whatever its process's exit code.
    """
    course.running.discard(folder)
    course.exits[folder] = code
    record = RunRecord(folder)
    unfinished = OPEN
    if code == INTERRUPTED:  # stopped before it went on, where a crash had left it as if it were at work
        unfinished, end = (RUNNING,), {"status": QUEUED, "reason": "stopped; the same command resumes"}
    elif folder in course.killed and code == -signal.SIGKILL:
        end = course.killed[folder]
    else:
        end = {"status": FAILED, "reason": f"its process {describe_exit(code)}", "finished": utc_now()}
    if record.read().get("status") not in unfinished:
        return
    course.exits[folder] = code or 1
    try:
        with lock_run(record):
            if record.read().get("status") in unfinished:
                record.update(**end)
                heartbeat.remove(folder)
    except RunLocked:
        say(f"{folder}: a process that waited for the run {describe_exit(code)}; another one is working on it")
    except UserError as error:
        say(f"{error}; its process {describe_exit(code)}, which can't be recorded")
    except OSError as error:  # the disk is full: the other runs go on
        say(f"{folder}: its process {describe_exit(code)}, which can't be recorded: {error.strerror}")


@contextlib.contextmanager
def _stopped_by_signals(course: Course) -> Iterator[None]:
    """Requests to stop, a terminal's Ctrl-C among them, are noted in the course; before the first run begins one interrupts."""

    def stop(number: int, frame: FrameType | None) -> None:
        course.asked.note(number)
        if not course.begun:
            raise KeyboardInterrupt

    with handled(stop):
        yield

"""How runs stand, wherever they were started: from their records, their signs of life, and a cluster's queue."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet.common.console import command_name
from bitnet.common.errors import UserError
from bitnet.common.text import format_duration
from bitnet.launch import slurm_queue
from bitnet.runs import heartbeat
from bitnet.runs.folders import find_runs
from bitnet.runs.reading import Unreadable, modified_at
from bitnet.runs.record import read_record
from bitnet.runs.statuses import DONE, FAILED, LISTED, OPEN, QUEUED, RUNNING, STALLED, UNREADABLE

_QUEUE_SECONDS = 30.0  # between two queries: the cluster's controller serves others too

_TAIL_BYTES = 4096

_STALLED_SECONDS = 60.0  # a run beats once a second, but a long step or a save lets it wait

_Record = Mapping[str, Any]


@dataclass(frozen=True)
class RunState:
    """How one run stands."""

    folder: Path
    status: str
    step: int | None
    steps: int | None
    detail: str
    command: str | None = None  # that started it
    job: str | None = None  # its name in the cluster's queue
    in_queue: bool | None = False  # whether that job is pending or running; None when the queue did not say


def _records(top: Path) -> dict[Path, _Record | Unreadable]:
    """The record of every run at or below `top`, or why it can't be read."""
    found: dict[Path, _Record | Unreadable] = {}
    for folder, problem in find_runs([top]):
        try:
            found[folder] = read_record(folder) if problem is None else Unreadable(problem)
        except Unreadable as error:
            found[folder] = error
    if not found:
        raise UserError(f"{top}: no runs in it; {command_name('train')} sweeps=quickstart makes some")
    return found


def _judged(records: Mapping[Path, _Record | Unreadable], now: float, queue: slurm_queue.Queue | None) -> list[RunState]:
    found = [
        RunState(folder, UNREADABLE, None, None, str(run)) if isinstance(run, Unreadable) else _state(folder, run, now, queue)
        for folder, run in records.items()
    ]
    return sorted(found, key=lambda s: (LISTED.index(s.status), s.folder))


def _open_jobs(records: Iterable[_Record | Unreadable]) -> set[str]:
    """The names of the jobs of all runs that are not over."""
    unfinished = [run for run in records if not isinstance(run, Unreadable) and run["status"] in OPEN]
    return {job for run in unfinished if (job := _job_name(run)) is not None}


def _job_name(run: _Record) -> str | None:
    slurm = run.get("slurm")
    job = slurm.get("job") if isinstance(slurm, dict) else None
    return str(job) if str(job)[:1].isdigit() else None


def _state(folder: Path, run: _Record, now: float, queue: slurm_queue.Queue | None) -> RunState:
    status, name = run["status"], _job_name(run)
    job = None if queue is None or name is None else queue.jobs.get(name)
    step, detail = run.get("step"), run.get("reason") or ""
    if status == RUNNING:
        status, step, detail = _of_running(folder, run, now, job)
    elif status == FAILED:
        detail = _join_details(detail, _last_line(folder))
    elif status == DONE and (final := run.get("final") or {}):
        detail = f"held-out loss {final.get('heldout_loss', float('nan')):.3f}" + (f"; {detail}" if detail else "")
    if status in (*OPEN, STALLED) and queue is not None and name is not None and queue.problem is None:
        detail = _join_details(detail, f"job {name} is no longer in the queue" if job is None else str(job))
    asked = name is None or (queue is not None and queue.problem is None)
    in_queue = (job is not None and not job.has_ended) if asked else None
    return RunState(folder, status, step, run.get("steps"), detail, run.get("command"), name, in_queue)


def _of_running(folder: Path, run: _Record, now: float, job: slurm_queue.Job | None) -> tuple[str, int | None, str]:
    """Status, step and detail of a run whose record says that it runs."""
    try:
        beat, odd = heartbeat.load(folder), ""
    except Unreadable as error:
        beat, odd = {}, str(error)
    if (ahead := beat.get("time", 0.0) - now) > _STALLED_SECONDS:
        odd = f"its clock is {ahead:,.0f} s ahead of this machine's"
    step, fresh = beat.get("step", run.get("step")), _last_sign(folder, beat, now)
    if fresh is None or now - fresh > _STALLED_SECONDS:
        if job is not None and job.waits:  # preempted or requeued: it comes back by itself
            return QUEUED, step, ""
        silent = "no heartbeat" if fresh is None else f"no heartbeat for {now - fresh:,.0f} s"
        return STALLED, step, _join_details(_join_details(silent, odd), _last_line(folder))
    loss, rate, left = (beat.get(key) for key in ("loss", "tokens_per_second", "left"))
    known = [] if loss is None else [f"loss {loss:.3f}"]
    if rate is not None and left is not None:
        known += [f"{rate:,.0f} tokens/s", f"{format_duration(left)} left"]
    return RUNNING, step, _join_details(", ".join(known), odd)


def _last_sign(folder: Path, beat: Mapping[str, Any], now: float) -> float | None:
    """When a run last wrote its heartbeat or its record, seconds since the epoch; None where nothing says so.

    A time that is further ahead than clocks differ says nothing, or a run would look alive until then. Where the heartbeat's
    is, the clock of its file system counts.
    """
    signs = [beat.get("time", 0.0), modified_at(folder / "run.json")]
    if signs[0] > now:
        signs.append(heartbeat.written_at(folder))
    known = [min(sign, now) for sign in signs if 0.0 < sign <= now + _STALLED_SECONDS]
    return max(known, default=None)


def _join_details(first: str, second: str) -> str:
    """Both, or one where the other adds nothing."""
    return second if first in second else f"{first}; {second}" if second else first


def _last_line(folder: Path) -> str:
    """The last line of the run's log."""
    try:
        with (folder / "log.txt").open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:200] if lines else ""


class Monitor:
    """Reads the runs at and below a folder at each call, those first that need a look; asks the queue only every half minute.

    A call raises UserError when there is no such folder, or no run in it.
    """

    def __init__(self, top: Path, clock: Callable[[], float] = time.time) -> None:
        self.top, self.clock = top, clock
        self.queue = slurm_queue.Queue()
        self._asked = -_QUEUE_SECONDS

    def __call__(self) -> list[RunState]:
        records = _records(self.top)
        jobs = _open_jobs(records.values())
        if jobs and time.monotonic() - self._asked >= _QUEUE_SECONDS:
            self.queue = slurm_queue.query(jobs)
            self._asked = time.monotonic()
        return _judged(records, self.clock(), self.queue if jobs else None)

    @property
    def remark(self) -> list[str]:
        """One line that says why the queue could not be asked; nothing when it answered."""
        return [] if self.queue.problem is None else [f"cluster queue: {self.queue.problem}; this is from disk alone"]

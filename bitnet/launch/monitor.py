"""`python -m bitnet.status`: how runs stand, wherever they were started, and what to type next.

It reads run folders, and asks a cluster's queue once where runs that are not over were given to it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet.common.console import command_name
from bitnet.common.errors import UserError
from bitnet.common.text import format_duration
from bitnet.launch import slurm_queue
from bitnet.runs import heartbeat

_QUEUE_SECONDS = 30.0  # between two questions to the cluster's controller, which serves others too

_TAIL_BYTES = 4096

_STALLED_SECONDS = 60.0  # a run beats once a second, but an evaluation or a save in between may take long

STATE_ORDER = ("running", "stalled", "failed", "diverged", "queued", "done", "unreadable")


@dataclass(frozen=True)
class RunState:
    """How one run stands."""

    folder: Path
    status: str
    step: int | None
    steps: int | None
    detail: str
    command: str | None = None  # what was typed to start it
    job: str | None = None  # its name in the cluster's queue
    in_queue: bool | None = False  # whether that job still waits or is at work; None when the queue did not say


def run_states(top: Path, now: float, queue: slurm_queue.Queue | None = None) -> list[RunState]:
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
        raise UserError(f"{top}: no run in it; {command_name('train')} sweeps=quickstart makes some")
    return found


def _judged(records: Mapping[Path, dict[str, Any]], now: float, queue: slurm_queue.Queue | None) -> list[RunState]:
    found = [_standing(folder, run, now, queue) for folder, run in records.items()]
    return sorted(found, key=lambda s: (STATE_ORDER.index(s.status), s.folder))


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


def _standing(folder: Path, run: dict[str, Any], now: float, queue: slurm_queue.Queue | None) -> RunState:
    status = run.get("status")
    if status not in STATE_ORDER:
        return RunState(folder, "unreadable", None, None, "run.json can't be read")
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
    return RunState(folder, status, step, run.get("steps"), detail, run.get("command"), name, in_queue)


def _of_running(folder: Path, run: dict[str, Any], now: float, job: slurm_queue.Job | None) -> tuple[str, int | None, str]:
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
        known += [f"{rate:,.0f} tokens/s", f"{format_duration(left)} left"]
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


# -------------------------------------------------------------------------------------------------------- command line
class Monitor:
    """Looks at the runs below a folder; asks the queue again only after a while."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.queue = slurm_queue.Queue()
        self._asked = -_QUEUE_SECONDS

    def __call__(self) -> list[RunState]:
        records = _records(self.top)
        jobs = _open_jobs(records)
        if jobs and time.monotonic() - self._asked >= _QUEUE_SECONDS:
            self.queue = slurm_queue.query(jobs)
            self._asked = time.monotonic()
        return _judged(records, time.time(), self.queue if jobs else None)

    @property
    def remark(self) -> list[str]:
        """That the queue could not be asked, in one line; nothing when it answered."""
        return [] if self.queue.problem is None else [f"cluster queue: {self.queue.problem}; this is from disk alone"]

"""What a SLURM cluster says of its jobs: one call of `squeue`, for whoever looks on.

Fields and states are those of squeue's manual page (`--Format`, "JOB STATE CODES").
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field

_FIELDS = "JobArrayID:64,JobID:24,State:24,RestartCnt:12,Reason:96"

_WAITING = {
    "PENDING", "CONFIGURING", "SUSPENDED", "STOPPED", "RESV_DEL_HOLD", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT",
}  # fmt: skip

_AT_WORK = {"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING"}


@dataclass(frozen=True)
class Job:
    """One job, or one task of an array."""

    name: str  # as 123 or 123_4
    state: str
    restarts: int
    reason: str

    @property
    def waits(self) -> bool:
        """Whether it will run later: pending, held, suspended, requeued."""
        return self.state in _WAITING

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state not in _WAITING | _AT_WORK

    def __str__(self) -> str:
        again = "" if self.restarts == 0 else f", requeued {self.restarts}x"
        why = f" ({self.reason})" if self.waits and self.reason not in {"", "None"} else ""
        return f"job {self.name} {self.state.lower()}{why}{again}"


@dataclass(frozen=True)
class Queue:
    """The jobs that squeue knew, by their names; `problem` is why it could not be asked, None when it answered."""

    jobs: dict[str, Job] = field(default_factory=dict)
    problem: str | None = None


def query(names: Iterable[str], timeout: float = 10.0) -> Queue:
    """What the queue says of jobs named as `123` or `123_4`: one call, none where there is no name.

    Jobs that are unknown, since they ended a while ago, are simply not in the answer.
    """
    ids = sorted({found.group() for name in names if (found := re.match(r"\d+", name))}, key=int)
    if not ids:
        return Queue()
    program = shutil.which("squeue")
    if program is None:
        return Queue(problem="squeue is not on PATH here")
    # whole arrays: a sweep has few of them, and thousands of tasks would not fit into a command line
    command = [program, "--array", "--noheader", "--states=all", f"--Format={_FIELDS}", f"--jobs={','.join(ids)}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout)
    except subprocess.TimeoutExpired:
        return Queue(problem=f"squeue did not answer within {timeout:g} s")
    except OSError as error:
        return Queue(problem=f"squeue can't be started ({error.strerror})")
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        # this is how it answers when every job that was asked for has left its memory
        return Queue() if "Invalid job id" in done.stderr else Queue(problem=said[-1])
    return Queue(_parsed(done.stdout))


def _parsed(text: str) -> dict[str, Job]:
    """Jobs by both of their names: a task of an array has a number of its own, too."""
    jobs = {}
    for line in text.splitlines():
        cells = line.split(maxsplit=4)
        if len(cells) < 4:
            continue
        name, number, state, restarts = cells[:4]
        job = Job(name, state, int(restarts) if restarts.isdigit() else 0, cells[4].strip() if len(cells) > 4 else "")
        jobs[name] = jobs[number] = job
    return jobs

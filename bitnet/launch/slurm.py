"""Runs as jobs of a SLURM cluster: submit those that are not in its queue, wait for them, and note how they ended.

A job knows nothing but the folder of its frozen run. What becomes of it is read from that folder, and from the queue whether
it still will: so the launching process may die at any moment, and another one goes on where it was.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from bitnet.common.console import say
from bitnet.common.errors import UserError
from bitnet.common.files import hold_lock
from bitnet.common.text import counted
from bitnet.launch import slurm_queue
from bitnet.launch.slurm_job import Task, python
from bitnet.runs.record import RunLocked, RunRecord, lock_run, utc_now
from bitnet.runs.statuses import FAILED, QUEUED, RUNNING

QUEUE_GRACE_SECONDS = 10.0  # for a network file system to show how a run ended whose job has left the queue

_POLL_SECONDS = (2.0, 30.0)  # shortest and longest time between two looks at the queue


def run_all(folders: Sequence[Path], parameters: Mapping[str, Any]) -> None:
    """Give each of the runs in `folders` a job, unless it has one, and wait until none is in the queue any more.

    Args:
        parameters: hydra-submitit-launcher's for SLURM, and `wait` and `max_array_size`.
    Raises:
        UserError: when the cluster refuses a job, or can't be asked.
        KeyboardInterrupt: while waiting; the jobs keep running without this process.
    """
    base = _submissions(parameters)
    base.mkdir(parents=True, exist_ok=True)
    finished = {f: RunRecord(f).read().get("finished") for f in folders}
    with hold_lock(base / ".lock", wait=True):  # two controllers at once would both find a run without a job
        missing = [f for f, known in zip(folders, _active_jobs(folders), strict=True) if known is None]
        waiting = [f for f in missing if RunRecord(f).read().get("finished") == finished[f]]  # others ended meanwhile
        if len(folders) > len(missing):
            say(f"slurm: {counted(len(folders) - len(missing), 'run')} in the queue already")
        jobs = _submit(waiting, parameters) if waiting else []
    if jobs:
        undo = f"cancel what has not finished: scancel {' '.join(jobs)}"
        say(f"slurm: {counted(len(waiting), 'run')} submitted as {_listed(jobs)}; {undo}")
    if not parameters["wait"]:
        return
    try:
        _wait(folders)
    except KeyboardInterrupt:
        say("slurm: the jobs keep running without this command")
        raise
    _settle(folders)


def _submissions(parameters: Mapping[str, Any]) -> Path:
    """Where submitit keeps its own files, below the place for each job."""
    folder = str(parameters["submitit_folder"])
    return Path(folder.split("%", 1)[0]).absolute()


def _listed(jobs: Sequence[str]) -> str:
    return f"job{'s' if len(jobs) > 1 else ''} {', '.join(jobs)}"


# ---------------------------------------------------------------------------------------------------------- submitting
def _submit(folders: Sequence[Path], parameters: Mapping[str, Any]) -> list[str]:
    """Submit a job for each run, as arrays of the size that the cluster takes; returns the job ids, one for each array."""
    size = parameters["max_array_size"] or _max_array_size()
    arrays = math.ceil(len(folders) / size)
    at_once = max(1, parameters["array_parallelism"] // arrays)
    ids = []
    for start in range(0, len(folders), size):
        ids += _submit_array(folders[start : start + size], dict(parameters) | {"array_parallelism": at_once})
    return ids


def _submit_array(folders: Sequence[Path], parameters: Mapping[str, Any]) -> list[str]:
    """One array, or a plain job for a single run.

    The array's name, which no other has, is noted before it is submitted and its id afterwards: whenever this process
    dies, the next one finds the jobs.
    """
    name = f"{folders[0].parent.name}-{uuid.uuid4().hex[:8]}"
    mine = [f for f in folders if _note(f, status=QUEUED, reason=None, slurm={"name": name, "job": None})]
    for folder in set(folders) - set(mine):
        say(f"slurm: {folder.name}: another process is working on this run; not submitted")
    if not mine:
        return []
    executor = _executor(dict(parameters) | {"name": name})
    from submitit.core.utils import FailedJobError

    try:
        with _outside_any_job():
            jobs = executor.map_array(Task(parameters["cpus_per_task"]), [str(f) for f in mine])
    except FailedJobError as error:
        lines = [line.strip() for line in str(error).splitlines() if "error:" in line]
        said = "; ".join(dict.fromkeys(re.sub(r"^.*?error: ", "", line) for line in lines)) or str(error).strip()
        raise UserError(f"launcher=slurm: sbatch refused {counted(len(mine), 'run')}: {said}") from None
    for folder, submitted in zip(mine, jobs, strict=True):
        _note(folder, slurm={"name": name, "job": submitted.job_id})
    return [jobs[0].job_id.partition("_")[0]]


@contextlib.contextmanager
def _outside_any_job() -> Iterator[None]:
    """Without what an interactive job around this process says of itself: sbatch would take it for options of the new job."""
    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    from submitit.helpers import clean_env

    where = {k: v for k, v in os.environ.items() if k == "SLURM_CONF"}
    with clean_env():
        os.environ.update(where)
        yield


def _note(folder: Path, **facts: Any) -> bool:
    """Write into a run's record, unless another process works on it: a job that has begun keeps its record itself."""
    record = RunRecord(folder)
    try:
        with lock_run(record):
            record.update(**facts)
    except RunLocked:
        return False
    return True


def _executor(parameters: Mapping[str, Any]) -> Any:
    """submitit's executor, set up as hydra-submitit-launcher does it."""
    import submitit
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

    everywhere = {f.name for f in fields(BaseQueueConf)}
    ours = {"submitit_folder", "max_num_timeout", "wait", "max_array_size"}
    folder = Path(parameters["submitit_folder"]).absolute()
    kept = {"slurm_max_num_timeout": parameters["max_num_timeout"], "slurm_python": python()}
    executor = submitit.AutoExecutor(folder=folder, cluster="slurm", **kept)
    named = {k if k in everywhere else f"slurm_{k}": v for k, v in parameters.items() if k not in ours and v is not None}
    if parameters["cpus_per_task"] is not None:
        # since 22.05 srun does not take this over from sbatch
        named["slurm_srun_args"] = [f"--cpus-per-task={parameters['cpus_per_task']}"]
    executor.update_parameters(**named)
    return executor


def _max_array_size() -> int:
    """The cluster's limit, 1 where it allows no arrays."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config"), re.MULTILINE)
    if found is None:
        raise UserError("launcher=slurm: scontrol names no MaxArraySize; set launcher.max_array_size")
    return max(1, int(found[1]))


def check_answers() -> None:
    """Ask the cluster for its settings, before anything is written that waits for it.

    Raises:
        UserError: when there is no cluster that answers.
    """
    _ask("scontrol", "show", "config")


def _ask(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip()
        raise UserError(f"launcher=slurm: {command[0]} does not answer: {'; '.join(said.splitlines())}") from None


# ------------------------------------------------------------------------------------------------------------- waiting
def _active_jobs(folders: Sequence[Path]) -> list[slurm_queue.Job | None]:
    """The job of each run that the queue has and that is not over.

    Raises:
        UserError: when the queue can't be asked.
    """
    known = [RunRecord(f).read().get("slurm") or {} for f in folders]
    unnumbered = {k["name"] for k in known if k.get("job") is None and k.get("name")}
    by_name = _unnumbered_jobs(unnumbered)
    names = [k.get("job") for k in known]
    queue = slurm_queue.query(n for n in names if n is not None)
    if queue.problem is not None:
        raise UserError(f"launcher=slurm: {queue.problem}")
    jobs = [by_name.get(k.get("name")) if n is None else queue.jobs.get(n) for n, k in zip(names, known, strict=True)]
    return [None if job is None or job.has_ended else job for job in jobs]


def _unnumbered_jobs(names: set[str]) -> dict[str, slurm_queue.Job]:
    """A job of each array whose submission was interrupted before its id could be noted: one that is not over, if there is one.

    Raises:
        UserError: when the queue can't be asked.
    """
    if not names:
        return {}
    ids = dict(line.split() for line in _ask("squeue", "-h", f"--name={','.join(names)}", "-o", "%j %F").splitlines())
    queue = slurm_queue.query(ids.values())
    if queue.problem is not None:
        raise UserError(f"launcher=slurm: {queue.problem}")
    jobs = sorted(queue.jobs.values(), key=lambda job: not job.has_ended)  # the last of an array's counts
    return {name: job for name, number in ids.items() for job in jobs if job.name.partition("_")[0] == number}


def _wait(folders: Sequence[Path]) -> None:
    """Return when no job of these runs is in the queue any more; a queue that does not answer is asked again."""
    began, told = time.monotonic(), ""
    while True:
        try:
            jobs = [job for job in _active_jobs(folders) if job is not None]
            over = len(folders) - len(jobs)
            states = Counter(job.state.lower() for job in jobs)
            line = ", ".join(
                [f"{over} of {counted(len(folders), 'run')} over", *(f"{n} {state}" for state, n in sorted(states.items()))]
            )
        except UserError as error:
            jobs, line = None, f"{error}; asking again"
        if line != told:
            say(f"slurm: {line}")
            told = line
        if jobs == []:
            return
        shortest, longest = _POLL_SECONDS
        time.sleep(min(longest, max(shortest, (time.monotonic() - began) / 10)))


def _settle(folders: Sequence[Path]) -> None:
    """Record as failed those runs whose job ended without a word."""
    deadline = time.monotonic() + QUEUE_GRACE_SECONDS
    while _silent(folders) and time.monotonic() < deadline:
        time.sleep(1.0)
    for folder, reason in _silent(folders):
        _note(folder, status=FAILED, reason=reason, finished=utc_now())


def _silent(folders: Sequence[Path]) -> list[tuple[Path, str]]:
    """Runs that neither ended nor were stopped, and what is to be said of them."""
    found = []
    for folder in folders:
        run = RunRecord(folder).read()
        job = (run.get("slurm") or {}).get("job")
        if run.get("status") == RUNNING:
            found.append((folder, f"its job {job} ended without recording a result: killed, or out of memory or time"))
        elif run.get("status") == QUEUED and run.get("reason") is None:
            found.append((folder, f"its job {job} ended before the run began: cancelled, or see its log in .submitit"))
    return found

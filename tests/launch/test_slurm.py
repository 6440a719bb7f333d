"""Runs as SLURM jobs, with stand-ins for SLURM's commands; tests/slurm does the same on a real one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small import NO_PROBES, TINY
from submitit.core.utils import DelayedSubmission

from bitnet import train
from bitnet.cli.overrides import readable_overrides
from bitnet.common.errors import UserError
from bitnet.common.paths import PACKAGE
from bitnet.config.run import load_config
from bitnet.launch import slurm, slurm_queue
from bitnet.launch.slurm_job import Task, python
from bitnet.runs.record import RunRecord, lock_run

# Answers as sbatch, squeue, scontrol and srun: jobs.json has [id, name, tasks or null, state] and, where the last task's state
# is another one, that; calls.txt what was asked for.
STAND_IN = """#!{python} -S
import json, os, re, sys
place, name, arguments = {place!r}, os.path.basename(sys.argv[0]), sys.argv[1:]
with open(place + "/calls.txt", "a") as file:
    print(name, *arguments, file=file)
jobs = json.load(open(place + "/jobs.json"))
if name == "sbatch":
    if os.path.exists(place + "/refuse"):
        sys.exit("sbatch: error: invalid partition specified: nope\\nsbatch: error: Batch job submission failed")
    text = open(arguments[0]).read() + "".join("inherited " + key for key in os.environ if key.startswith("SLURM_"))
    array = re.search(r"--array=0-(\\d+)%", text)
    jobs.append([len(jobs) + 1, re.search(r"--job-name=(\\S+)", text)[1], array and int(array[1]) + 1, "PENDING"])
    json.dump(jobs, open(place + "/jobs.json", "w"))
    open(place + "/script-%d" % len(jobs), "w").write(text)
    print("Submitted batch job", len(jobs))
elif name == "squeue" and "-o" in arguments:
    names = [a for a in arguments if a.startswith("--name=")][0][7:].split(",")
    print(*(f"{{j[1]}} {{j[0]}}" for j in jobs if j[1] in names), sep="\\n")
elif name == "squeue" and os.path.exists(place + "/silent"):
    sys.exit("slurm_load_jobs error: Unable to contact slurm controller")
elif name == "squeue":
    for number, _, tasks, state, *last in jobs:
        for task in [None] if tasks is None else range(tasks):
            if last and task == tasks - 1:
                state = last[0]
            print(number if task is None else f"{{number}}_{{task}}", number, state, 0, "Priority")
elif name == "scontrol" and arguments == ["show", "config"]:
    print("MaxArraySize            = 2")
"""
PARAMETERS = {"timeout_min": 60, "signal_delay_s": 120, "max_num_timeout": 100, "array_parallelism": 5, "cpus_per_task": 3}
PARAMETERS |= {"partition": "main", "mem_gb": 1.5, "gpus_per_node": None, "tasks_per_node": 1, "nodes": 1, "max_array_size": None}
SMALL = [*TINY, *NO_PROBES]


class Cluster:
    """The stand-ins' memory."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def calls(self, name: str) -> list[str]:
        lines = (self.place / "calls.txt").read_text().splitlines() if (self.place / "calls.txt").exists() else []
        return [line for line in lines if line.split()[0] == name]

    def jobs(self) -> list[list]:
        return json.loads((self.place / "jobs.json").read_text())

    def end(self, state: str = "COMPLETED") -> None:
        (self.place / "jobs.json").write_text(json.dumps([[*job[:3], state] for job in self.jobs()]))

    def end_last(self, state: str) -> None:
        """The last task of each array alone."""
        (self.place / "jobs.json").write_text(json.dumps([[*job[:4], state] for job in self.jobs()]))

    def script(self, number: int) -> str:
        return (self.place / f"script-{number}").read_text()


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Cluster:
    place = tmp_path / "bin"
    place.mkdir()
    (place / "jobs.json").write_text("[]")
    for name in ("sbatch", "squeue", "scontrol", "srun"):
        (place / name).write_text(STAND_IN.format(python=sys.executable, place=str(place)))
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm, "QUEUE_GRACE_SECONDS", 0.0)
    return Cluster(place)


def queued(tmp_path: Path, runs: int) -> list[Path]:
    folders = [tmp_path / "outputs" / "sweep" / f"run-{n}" for n in range(runs)]
    for folder in folders:
        RunRecord(folder).create({}, {})
    return folders


def submit(folders: list[Path], *, wait: bool = False, **parameters: object) -> None:
    place = str(folders[0].parents[1] / ".submitit" / "%j")
    slurm.run_all(folders, PARAMETERS | {"submitit_folder": place, "wait": wait} | parameters)


def jobs_of(folders: list[Path]) -> list[str | None]:
    return [(RunRecord(f).read().get("slurm") or {}).get("job") for f in folders]


def test_a_sweep_becomes_arrays_of_the_size_that_the_cluster_takes(cluster, tmp_path, capsys):
    folders = queued(tmp_path, 5)
    submit(folders)
    assert [job[2] for job in cluster.jobs()] == [2, 2, None]  # a single run is no array
    assert jobs_of(folders) == ["1_0", "1_1", "2_0", "2_1", "3"]
    assert "5 runs submitted as jobs 1, 2, 3" in capsys.readouterr().err
    assert "--array=0-1%1" in cluster.script(1)  # 5 at once, over all three of them
    for line in ("partition=main", "mem=1536MB", "time=60", "cpus-per-task=3", "signal=USR2@120"):
        assert f"#SBATCH --{line}\n" in cluster.script(2)
    assert re.search(r"srun .*--cpus-per-task=3", cluster.script(2))
    submit(queued(tmp_path / "more", 5), max_array_size=4)
    assert [job[2] for job in cluster.jobs()][3:] == [4, None]


def test_submitted_from_inside_a_job_it_inherits_nothing_but_where_the_cluster_is(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "64")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/slurm.conf")
    submit(queued(tmp_path, 1))
    assert re.findall(r"inherited (\w+)", cluster.script(1)) == ["SLURM_CONF"]
    assert os.environ["SLURM_CPUS_PER_TASK"] == "64"


def test_a_run_in_the_queue_is_not_submitted_twice_and_one_whose_job_is_gone_is(cluster, tmp_path, capsys):
    folders = queued(tmp_path, 2)
    submit(folders)
    submit(folders)
    assert len(cluster.jobs()) == 1 and "2 runs in the queue already" in capsys.readouterr().err
    cluster.end("NODE_FAIL")
    submit(folders)
    assert len(cluster.jobs()) == 2 and jobs_of(folders) == ["2_0", "2_1"]


@pytest.mark.parametrize("status", ["done", "failed"])
def test_a_run_that_ends_while_the_queue_is_asked_is_not_submitted_again(cluster, tmp_path, monkeypatch, status):
    folders = queued(tmp_path, 2)
    asked = slurm_queue.query

    def query(names):
        RunRecord(folders[0]).update(status=status, finished="2026-01-31T00:00:00+00:00")
        return asked(names)

    monkeypatch.setattr(slurm_queue, "query", query)
    submit(folders)
    assert jobs_of(folders) == [None, "1"]
    assert RunRecord(folders[0]).read()["status"] == status


def test_a_run_that_failed_before_is_submitted_again(cluster, tmp_path):
    folders = queued(tmp_path, 1)
    RunRecord(folders[0]).update(status="failed", finished="2026-01-31T00:00:00+00:00")
    submit(folders)
    assert jobs_of(folders) == ["1"]


def lose_the_numbers(folders: list[Path]) -> None:
    """As if the launching process had died right after sbatch took the array."""
    for folder in folders:
        RunRecord(folder).update(slurm=RunRecord(folder).read()["slurm"] | {"job": None})


def test_jobs_whose_numbers_were_never_noted_are_found_by_name(cluster, tmp_path):
    folders = queued(tmp_path, 2)
    submit(folders)
    lose_the_numbers(folders)
    submit(folders)
    assert len(cluster.jobs()) == 1


def test_an_array_whose_last_task_is_over_already_is_found_by_name_too(cluster, tmp_path):
    folders = queued(tmp_path, 2)
    submit(folders)
    lose_the_numbers(folders)
    cluster.end_last("COMPLETED")
    submit(folders)
    assert len(cluster.jobs()) == 1


def test_nothing_is_submitted_while_the_queue_does_not_say_whether_an_array_is_there(cluster, tmp_path):
    folders = queued(tmp_path, 2)
    submit(folders)
    lose_the_numbers(folders)
    (cluster.place / "silent").touch()
    with pytest.raises(UserError, match="Unable to contact slurm controller"):
        submit(folders)
    assert len(cluster.jobs()) == 1


def test_a_run_that_another_process_works_on_is_left_to_it(cluster, tmp_path, capsys):
    folders = queued(tmp_path, 2)
    with lock_run(RunRecord(folders[0])):
        submit(folders)
    assert jobs_of(folders) == [None, "1"]
    assert "run-0: another process is working on this run" in capsys.readouterr().err


def test_what_sbatch_refuses_is_one_sentence(cluster, tmp_path):
    (cluster.place / "refuse").touch()
    with pytest.raises(UserError, match="sbatch refused 2 runs: invalid partition specified: nope; Batch job"):
        submit(queued(tmp_path, 2))


def test_runs_whose_jobs_ended_without_a_word_are_failed_others_stay_as_they_are(cluster, tmp_path, monkeypatch):
    folders = queued(tmp_path, 4)
    states = [
        {"status": "running"},
        {"status": "done"},
        {"status": "queued", "reason": "stopped by SIGTERM at step 3; launch again to go on"},
        {"status": "queued"},
    ]

    def runs_end(seconds: float) -> None:
        for folder, state in zip(folders, states, strict=True):
            RunRecord(folder).update(**state)
        cluster.end()

    monkeypatch.setattr(slurm.time, "sleep", runs_end)
    submit(folders, wait=True)
    records = [RunRecord(f).read() for f in folders]
    assert [r["status"] for r in records] == ["failed", "done", "queued", "failed"]
    assert "job 1_0 ended without recording a result" in records[0]["reason"] and "before the run began" in records[3]["reason"]


def test_a_queue_that_does_not_answer_is_asked_again(cluster, tmp_path, monkeypatch, capsys):
    folders = queued(tmp_path, 1)
    submit(folders)
    asked, squeue, down = slurm_queue.query, cluster.place / "squeue", []
    working = squeue.read_text()
    broken = "#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2\nexit 1\n"

    def query(names):
        """Up for the launch, down when it begins to wait, and up again."""
        down.append(len(down) == 1)
        squeue.write_text(broken if down[-1] else working)
        return asked(names)

    monkeypatch.setattr(slurm_queue, "query", query)
    monkeypatch.setattr(slurm.time, "sleep", lambda seconds: cluster.end())
    submit(folders, wait=True)
    assert down == [False, True, False]
    assert "Unable to contact slurm controller; asking again" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- on the command line
def test_its_knobs_reach_the_job_and_no_name(values):
    launcher = load_config(values("launcher=slurm", "launcher.partition=gpu", "+launcher.extra.nodelist=node7")).launcher
    assert launcher.partition == "gpu" and launcher.extra == {"nodelist": "node7"}
    typed = ["launcher=slurm", "launcher.cpus=2", "+launcher.extra.hold=true", "steps=5"]
    assert readable_overrides(typed, seed=True) == ["steps=5"]
    with pytest.raises(UserError, match="signal_seconds=60 is not shorter than"):
        load_config(values("launcher=slurm", "launcher.time_minutes=1", "launcher.signal_seconds=60"))


def test_a_sweep_that_is_not_waited_for_returns_at_once(cluster, capfd):
    sweep = ["-m", "steps=20,21,22", *SMALL, "launcher=slurm", "launcher.wait=false", "launcher.qos=low"]
    assert train.main(sweep) == 0
    said = capfd.readouterr().err
    assert "3 runs submitted as jobs 1, 2" in said and "bitnet.status" in said
    assert "#SBATCH --qos=low\n" in cluster.script(1)
    assert train.main(sweep) == 0 and len(cluster.jobs()) == 2
    assert "3 runs in the queue already" in capfd.readouterr().err


def test_what_it_cannot_do_is_said_before_any_work(cluster, monkeypatch, capfd):
    with pytest.raises(SystemExit, match="2"):
        train.main([*SMALL, "launcher=slurm"])
    assert "add -m to submit it" in capfd.readouterr().err
    (cluster.place / "sbatch").unlink()
    if not any((Path(p) / "sbatch").exists() for p in os.environ["PATH"].split(os.pathsep)):
        assert train.main(["-m", "steps=20,21", *SMALL, "launcher=slurm"]) == 2
        assert "sbatch and squeue are not on PATH" in capfd.readouterr().err
    assert not list(Path("outputs").glob("*/*/run.json"))


def test_a_cluster_that_does_not_answer_is_one_line_and_leaves_nothing(cluster, capfd):
    broken = cluster.place / "scontrol"
    broken.write_text("#!/bin/sh\necho 'scontrol: error: no controller' >&2\necho 'a second line' >&2\nexit 1\n")
    assert train.main(["-m", "steps=20,21", *SMALL, "launcher=slurm"]) == 2
    (said,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "scontrol does not answer: scontrol: error: no controller" in said and "second line" in said
    assert not list(Path("outputs").glob("*/*/run.json"))


# ------------------------------------------------------------------------------------------- a job, as submitit runs it
def job(folder: Path, place: Path, minutes: int = 60, requeues: int = 100) -> subprocess.Popen:
    """The process that SLURM would start for a run."""
    submission = DelayedSubmission(Task(threads=1), str(folder))
    submission.set_timeout(minutes, requeues)
    place.mkdir(exist_ok=True)
    submission.dump(place / "7_3_submitted.pkl")
    ids = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_NAME": "sweep-abc"}
    path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | ids | {"SUBMITIT_EXECUTOR": "slurm", "PYTHONPATH": path}
    command = f"exec {python()} -m submitit.core._submit {place}"
    return subprocess.Popen(command, shell=True, env=environment, stderr=subprocess.PIPE)


def until(condition) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def requeued(cluster: Cluster) -> list[str]:
    return [call for call in cluster.calls("scontrol") if "requeue" in call]


def at_work(folder: Path) -> bool:
    """Whether it has been evaluated beyond its first step."""
    return (folder / "metrics.csv").exists() and len((folder / "metrics.csv").read_text().splitlines()) > 2


@pytest.fixture
def folder(cluster) -> Path:
    """The folder of a run whose job is in the queue."""
    assert train.main(["-m", "steps=120", "eval_every=5", *SMALL, "launcher=slurm", "launcher.wait=false"]) == 0
    (record,) = Path("outputs").absolute().glob("*/*/run.json")
    return record.parent


def test_warned_it_saves_is_requeued_and_goes_on(cluster, folder, tmp_path):
    first = job(folder, tmp_path / "job")
    until(lambda: at_work(folder))
    first.send_signal(signal.SIGUSR2)
    first.send_signal(signal.SIGUSR2)
    first.communicate(timeout=180)
    stopped = RunRecord(folder).read()
    assert requeued(cluster) == ["scontrol requeue 7_3"] and first.returncode == 255
    assert stopped["status"] == "queued" and 0 < stopped["step"] < 120 and stopped["reason"].startswith("stopped by SIGUSR2")
    assert stopped["slurm"] == {"name": "sweep-abc", "job": "7_3"}
    second = job(folder, tmp_path / "job")
    second.communicate(timeout=180)
    finished = RunRecord(folder).read()
    assert second.returncode == 0 and finished["status"] == "done"
    assert [s["after_step"] for s in finished["sessions"]] == [0, stopped["step"]]
    assert len(requeued(cluster)) == 1  # it ended by itself


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_warning_in_its_first_second_is_held_back_until_it_can_be_answered(cluster, folder, tmp_path):
    first = job(folder, tmp_path / "job")
    until(lambda: "SigBlk:\t0000000000000800\n" in Path(f"/proc/{first.pid}/status").read_text())
    first.send_signal(signal.SIGUSR2)
    first.communicate(timeout=180)
    assert requeued(cluster) == ["scontrol requeue 7_3"] and RunRecord(folder).read()["step"] == 0


def test_out_of_requeues_it_saves_and_says_what_to_do(cluster, folder, tmp_path):
    last = job(folder, tmp_path / "job", minutes=1, requeues=0)
    until(lambda: at_work(folder))
    last.send_signal(signal.SIGUSR2)
    last.communicate(timeout=180)
    stopped = RunRecord(folder).read()
    assert last.returncode == 1 and requeued(cluster) == []
    assert stopped["status"] == "queued" and stopped["step"] > 0 and "the same command resumes" in stopped["reason"]
    assert "timed-out too many times" in (folder / "log.txt").read_text()

"""Runs side by side: one's end leaves the others alone, GPUs are leased, and what is missing runs the next time."""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from small import TINY

from bitnet import report
from bitnet.cli.overrides import starts_local_runs
from bitnet.common.errors import UserError
from bitnet.common.paths import PACKAGE
from bitnet.config.run import load_config
from bitnet.launch import display, fork_client, local, resources
from bitnet.launch.resources import lease
from bitnet.runs.record import RunRecord, lock_run

# Loaded by every Python process of a test, by the name that Python looks for at its start: breaks runs by their clip norm.
FAULTS = """
import os, resource, signal, sys
from bitnet.training.loop import Trainer
real = Trainer.update
def update(self, step):
    fault = self.clip.max_norm if step == 3 else None
    if fault == 0.5:
        raise RuntimeError("broken on purpose")
    if fault == 0.6:
        sys.exit(3)
    if fault == 0.7:
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == 0.8:
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        hoard = [bytearray(1 << 28) for _ in range(1000)]
    if fault == 1.1:
        os._exit(0)
    if fault == 1.2:
        os.kill(os.getppid(), signal.SIGKILL)
    if fault == 1.3:
        os.kill(os.getpid(), signal.SIGSTOP)
    return real(self, step)
Trainer.update = update
"""


# Likewise: removes the folder of the run of seed 1.
REMOVING = {
    "before": """
import shutil
from bitnet.launch import fork_client
real = fork_client.ForkServer.start
def start(self, job):
    if "seed=1" in job["folder"]:
        shutil.rmtree(job["folder"])
    real(self, job)
fork_client.ForkServer.start = start
""",
    "at_work": """
import shutil
from bitnet.runs.metrics_file import MetricsFile
real = MetricsFile.append
def append(self, values):
    if "seed=1" in self.path.parent.name and values["Step"] == 4:
        shutil.rmtree(self.path.parent)
    real(self, values)
MetricsFile.append = append
""",
}


def command(*arguments: str, faults: Path | None = None, nohup: bool = False) -> subprocess.Popen:
    places = [str(PACKAGE.parent), *([str(faults)] if faults else []), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-m", "bitnet.train", *arguments, *TINY],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(places)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL),
    )


def records() -> dict[str, dict]:
    """run.json of each run, by the override that tells it from the others."""
    found = [json.loads(p.read_text()) for p in Path("outputs").glob("*/*/run.json")]
    return {next(o for o in r["overrides"] if o.startswith(("clip.", "seed="))): r for r in found}


def column(table: str, name: str) -> dict[str, str]:
    """One column of a table that the report left, by arm."""
    with Path("outputs", "tables", f"{table}.csv").open(newline="") as file:
        return {row["arm"]: row[name] for row in csv.DictReader(file)}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_arms_end_leaves_the_others_alone_and_the_next_launch_runs_just_those(folder):
    sweep = ["-m", "steps=20", "clip.max_norm=0.4,0.5,0.6,0.7,0.8,0.9,1.1"]
    broken = command(*sweep, faults=faults(folder))
    said = broken.communicate(timeout=120)[1]
    statuses = {name: r["status"] for name, r in records().items()}
    norms = {n: f"clip.max_norm={n}" for n in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.1)}
    assert broken.returncode == 1, said
    assert {n for n, name in norms.items() if statuses[name] == "done"} == {0.4, 0.9}
    reasons = {n: records()[norms[n]]["reason"] for n in (0.5, 0.6, 0.7, 0.8, 1.1)}
    assert reasons[0.5] == "RuntimeError: broken on purpose"
    assert "exited with code" in reasons[0.6]
    assert "killed by SIGKILL" in reasons[0.7]
    assert "memory" in reasons[0.8].lower()
    assert reasons[1.1] == "its process exited with code 0"
    assert "5 failed" in said and "2 done" in said
    assert report.main(["outputs"]) == 0
    assert {arm for arm, loss in column("learning", "heldout_loss").items() if loss} == {norms[0.4], norms[0.9]}
    assert set(column("not_done", "status")) == {norms[n] for n in (0.5, 0.6, 0.7, 0.8, 1.1)}

    untouched = {n: records()[norms[n]]["finished"] for n in (0.4, 0.9)}
    again = command(*sweep)
    said = again.communicate(timeout=120)[1]
    assert again.returncode == 0, said
    assert "7 runs, 2 of them finished before" in said
    assert {r["status"] for r in records().values()} == {"done"}
    assert {n: records()[norms[n]]["finished"] for n in (0.4, 0.9)} == untouched


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere runs are not forked")
def test_when_the_process_that_forks_the_runs_is_killed_no_run_is_lost_and_one_line_says_so(folder):
    sweep = ["-m", "steps=20", "clip.max_norm=1.2,0.9", "launcher.jobs=1"]
    broken = command(*sweep, faults=faults(folder))
    said = broken.communicate(timeout=120)[1]
    assert broken.returncode == 0 and "Traceback" not in said, said
    (line,) = [line for line in said.splitlines() if "forked from" in line]
    assert line.endswith("was killed by SIGKILL (out of memory?); it is started again, and 1 run at work waited for")
    assert {(r["status"], r["step"], len(r["sessions"])) for r in records().values()} == {("done", 20, 1)}  # it had gone on


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere runs are not forked")
def test_runs_that_outlived_the_process_they_were_forked_from_are_asked_to_stop_too(folder):
    sweep = ["-m", "steps=1000000", "data.at_end=repeat", "clip.max_norm=1.2,0.9"]
    broken = command(*sweep, faults=faults(folder))
    until_said(broken, "started again")
    broken.send_signal(signal.SIGTERM)
    assert broken.wait(timeout=60) == 130
    assert {r["status"] for r in records().values()} == {"queued"}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere runs are not forked")
@pytest.mark.parametrize("when", ["before it was asked", "when it was asked"])
def test_runs_that_outlived_the_process_they_were_forked_from_are_waited_for_and_killed_like_any_other(when, folder):
    hung = sweep_with_a_hung_run(folder)
    (server,) = Path(f"/proc/{hung.pid}/task/{hung.pid}/children").read_text().split()
    if when == "before it was asked":
        os.kill(int(server), signal.SIGKILL)
        until_said(hung, "started again")
    hung.send_signal(signal.SIGTERM)
    time.sleep(1.0)
    if when == "when it was asked":
        os.kill(int(server), signal.SIGKILL)
    time.sleep(4.0)
    assert hung.poll() is None and records()["clip.max_norm=1.3"]["status"] == "running", "not waited for"
    for _ in range(2):
        hung.send_signal(signal.SIGTERM)
        time.sleep(1.0)
    said = hung.communicate(timeout=60)[1]
    assert hung.returncode == 130 and "kills 1 run at once" in said and "Traceback" not in said, said
    run = records()["clip.max_norm=1.3"]
    assert run["status"] == "queued" and run["reason"].startswith("killed when asked to stop again")
    goes_on_afterwards()


def test_a_process_to_fork_runs_from_that_dies_at_every_start_is_given_up(folder, monkeypatch, capfd):
    monkeypatch.setattr(fork_client, "COMMAND", (sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
    record = RunRecord(folder / "run")
    record.create({}, {})
    assert local.run_all([record.folder], "cpu", 1, 1) == {record.folder: 1}
    said = capfd.readouterr().err.splitlines()
    assert len(said) == local.MOST_DEATHS and "3 times in a row; 0 runs at work may go on without it, 1 not begun" in said[-1]
    assert record.read()["status"] == "queued"


# --------------------------------------------------------------------------------------------------------- runs that hang
def sweep_with_a_hung_run(folder: Path, *more: str) -> subprocess.Popen:
    """A sweep of which one run is done, and the other has been stopped in the middle of a step."""
    process = command("-m", "steps=20", "checkpoint.every=1", "clip.max_norm=1.3,0.9", *more, faults=faults(folder))
    wait_for(lambda: {(r["status"], r["step"]) for r in records().values()} == {("done", 20), ("running", 2)})
    return process


def goes_on_afterwards() -> None:
    again = command("-m", "steps=20", "checkpoint.every=1", "clip.max_norm=1.3,0.9")
    said = again.communicate(timeout=120)[1]
    assert again.returncode == 0, said
    assert {(r["status"], r["step"]) for r in records().values()} == {("done", 20)}
    assert records()["clip.max_norm=1.3"]["sessions"][-1]["after_step"] == 2


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere runs are not forked")
@pytest.mark.parametrize("times", [2, 3])
def test_a_hung_run_is_killed_some_seconds_after_the_second_request_and_at_once_on_the_third(times, folder):
    hung = sweep_with_a_hung_run(folder)
    for time_asked in range(times):
        assert hung.poll() is None, f"ended after {time_asked} requests"
        hung.send_signal(signal.SIGINT)
        time.sleep(1.0)
    said = hung.communicate(timeout=60)[1]
    lines = [line for line in said.splitlines() if line.startswith("SIGINT: ")]
    assert hung.returncode == 130 and "Traceback" not in said, said
    assert "those at work save and end; a second signal gives them 5 s" in lines[0]
    assert "still at work in 5 s are killed" in lines[1] and "a third signal kills them at once" in lines[1]
    assert len(lines) == times and (times < 3 or "kills 1 run at once" in lines[2])
    run = records()["clip.max_norm=1.3"]
    assert run["status"] == "queued" and run["reason"].startswith("killed when asked to stop again")
    goes_on_afterwards()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_when_the_process_that_forks_the_runs_hangs_as_well_the_third_request_ends_all(folder):
    hung = sweep_with_a_hung_run(folder)
    (server,) = Path(f"/proc/{hung.pid}/task/{hung.pid}/children").read_text().split()
    os.kill(int(server), signal.SIGSTOP)
    for _ in range(3):
        hung.send_signal(signal.SIGTERM)
        time.sleep(1.0)
    assert hung.wait(timeout=60) == 130
    assert records()["clip.max_norm=1.3"]["status"] == "queued"
    goes_on_afterwards()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere runs are not forked")
def test_a_run_without_a_heartbeat_has_failed_and_the_others_go_on(folder):
    hung = sweep_with_a_hung_run(folder, "launcher.stalled_minutes=0.1")
    said = hung.communicate(timeout=60)[1]
    assert hung.returncode == 1, said
    run = records()["clip.max_norm=1.3"]
    assert (run["status"], run["reason"]) == (
        "failed",
        "stalled: no heartbeat for 0.1 minutes (launcher.stalled_minutes=null never ends one)",
    )
    assert said.count("it is killed, the others go on") == 1
    goes_on_afterwards()


def test_failed_runs_are_left_alone_when_asked(folder):
    command("-m", "steps=20", "clip.max_norm=0.4,0.5", faults=faults(folder)).communicate(timeout=120)
    again = command("-m", "steps=20", "clip.max_norm=0.4,0.5", "launcher.retry=0")
    again.communicate(timeout=120)
    assert records()["clip.max_norm=0.5"]["status"] == "failed" and again.returncode == 1


def faults(folder: Path) -> Path:
    """A folder that makes every Python process with it on its path break runs as FAULTS says."""
    (folder / "faults").mkdir()
    (folder / "faults" / "sitecustomize.py").write_text(FAULTS)
    return folder / "faults"


def until_said(process: subprocess.Popen, words: str) -> None:
    while words not in (line := process.stderr.readline()):
        assert line, f"it ended without saying {words!r}"


def wait_for(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def evaluations() -> list[int]:
    return [len(p.read_text().splitlines()) for p in Path("outputs").glob("*/*/metrics.csv")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_it_saves_every_run_and_goes_on_later(number):
    sweep = ["-m", "steps=2000", "eval_every=50", "seed=0,1,2"]
    first = command(*sweep)
    wait_for(lambda: sum(evaluations()) > 4)
    os.kill(first.pid, number)
    said = first.communicate(timeout=60)[1]
    assert first.returncode == 130, said
    assert {r["status"] for r in records().values()} == {"queued"}
    assert all("stopped" in r["reason"] for r in records().values() if r["step"])
    again = command(*sweep)
    assert again.wait(timeout=120) == 0
    assert {(r["status"], r["step"]) for r in records().values()} == {("done", 156)}


def test_under_nohup_a_hangup_stops_neither_the_sweep_nor_a_run(folder):
    process = command("-m", "steps=150", "eval_every=10", "seed=0,1", nohup=True)
    wait_for(lambda: sum(evaluations()) > 4)
    os.killpg(process.pid, signal.SIGHUP)
    assert process.wait(timeout=120) == 0
    assert {(r["status"], r["step"], len(r["sessions"])) for r in records().values()} == {("done", 150, 1)}


SLOW_START = """
import time
from bitnet.training import execute as run
real = run.build
def build(*arguments):
    open("building", "w").close()
    time.sleep(1)
    return real(*arguments)
run.build = build
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_stopped_while_runs_are_starting_it_stops_them_too(number, folder):
    """They have no pid on record yet, and nothing to save."""
    (folder / "faults").mkdir()
    (folder / "faults" / "sitecustomize.py").write_text(SLOW_START)
    first = command("-m", "steps=100000", "data.at_end=repeat", "seed=0,1", faults=folder / "faults")
    wait_for((folder / "building").exists)
    os.kill(first.pid, number)
    said = first.communicate(timeout=60)[1]
    assert first.returncode == 130, said
    assert {(r["status"], r["step"]) for r in records().values()} == {("queued", 0)}


def test_a_killed_controller_loses_nothing():
    sweep = ["-m", "steps=150", "eval_every=10", "seed=0,1,2,3"]
    first = command(*sweep)
    wait_for(lambda: sum(evaluations()) > 2)
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = command(*sweep)
    said = second.communicate(timeout=120)[1]
    assert second.returncode == 0, said
    assert {(r["status"], r["step"]) for r in records().values()} == {("done", 150)}
    for metrics in Path("outputs").glob("*/*/metrics.csv"):
        steps = [line.split(",")[0] for line in metrics.read_text().splitlines()[1:]]
        assert steps == ["1", *(str(s) for s in range(10, 151, 10))]


def test_two_controllers_run_each_arm_once():
    sweep = ["-m", "steps=100", "eval_every=10", "seed=0,1,2,3"]
    both = [command(*sweep), command(*sweep)]
    said = [p.communicate(timeout=120)[1] for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    assert {r["status"] for r in records().values()} == {"done"}
    logs = [p.read_text() for p in Path("outputs").glob("*/*/log.txt")]
    assert sum(log.count("step 100/100") for log in logs) == 4


# ---------------------------------------------------------------------------------------- the process that forks the runs
def test_launches_of_one_command_share_the_server_which_ends_with_the_command():
    with fork_client.prestarted(True):
        with fork_client.fork_server() as first:
            assert first.gpus >= 0
        with fork_client.fork_server() as second:
            assert second is first and first.process.poll() is None
    assert first.process.poll() is not None


def test_a_server_that_is_not_kept_ends_with_its_launch():
    with fork_client.prestarted(False), fork_client.fork_server() as own:
        assert own.process.poll() is None
    assert own.process.poll() is not None


def test_a_server_that_died_is_an_error_and_no_endless_wait():
    with pytest.raises(fork_client.ForkServerDied, match="was killed by SIGKILL"), fork_client.fork_server() as own:
        own.process.kill()
        own.ended(60)
    with pytest.raises(fork_client.ForkServerDied, match="was killed by SIGKILL"), fork_client.fork_server() as own:
        own.process.kill()
        own.process.wait()
        own.start({})


def test_a_server_that_died_is_not_kept_for_the_next_launch():
    with fork_client.prestarted(True):
        with fork_client.fork_server() as first:
            first.process.kill()
            first.process.wait()
        with fork_client.fork_server() as second:
            assert second.process.poll() is None


class Ended:
    """In place of a server: its runs end as soon as they are started, with these exit codes."""

    gpus = 0

    def __init__(self, codes: dict[Path, int]) -> None:
        self.codes, self.started = codes, []

    def start(self, job: dict[str, Any]) -> None:
        self.started.append(Path(job["folder"]))

    def ended(self, seconds: float) -> list[tuple[Path, int]]:
        over, self.started = self.started, []
        return [(folder, self.codes[folder]) for folder in over]


@pytest.mark.parametrize(
    ("status", "code", "then"),
    [
        ("running", 0, "failed"),
        ("queued", 0, "failed"),
        ("running", -9, "failed"),
        ("running", 130, "queued"),
        ("queued", 130, "queued"),
        ("done", 0, "done"),
        ("diverged", 1, "diverged"),
    ],
)
def test_no_run_stays_at_work_whose_process_has_ended(status, code, then, folder, monkeypatch):
    record = RunRecord(folder / "run")
    record.create({}, {})
    record.update(status=status)
    monkeypatch.setattr(local, "fork_server", lambda: contextlib.nullcontext(Ended({record.folder: code})))
    codes = local.run_all([record.folder], "cpu", 1, 1)
    assert record.read()["status"] == then
    assert codes == {record.folder: code or (1 if then == "failed" else 0)}


def test_a_run_that_another_process_works_on_has_not_failed_with_one_that_waited_for_it(folder, monkeypatch, capfd):
    record = RunRecord(folder / "run")
    record.create({}, {})
    record.update(status="running")
    monkeypatch.setattr(local, "fork_server", lambda: contextlib.nullcontext(Ended({record.folder: -9})))
    with lock_run(record):
        local.run_all([record.folder], "cpu", 1, 1)
    assert record.read()["status"] == "running"
    assert "another one is working on it" in capfd.readouterr().err


# ------------------------------------------------------------------------- where a fresh interpreter is started for a run
SPAWNING = (sys.executable, "-c", "from bitnet.launch import fork_server as worker; worker._fork = worker._spawn; worker.serve()")


def job(folder: Path, devices: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"folder": str(folder), "threads": 1, "devices": devices, "slots": 1, "leases": str(folder.parent / "leases")}


@contextlib.contextmanager
def ready() -> Iterator[fork_client.ForkServer]:
    """A server that has imported what it needs."""
    with fork_client.fork_server() as own:
        assert own.gpus >= 0
        yield own


def exits(of: fork_client.ForkServer, count: int) -> dict[str, int]:
    """The exit codes of so many runs, by the names of their folders."""
    found: dict[str, int] = {}
    deadline = time.monotonic() + 60
    while len(found) < count and time.monotonic() < deadline:
        found |= {folder.name: code for folder, code in of.ended(1.0)}
    return found


def test_a_spawned_run_heeds_a_stop_that_comes_while_it_imports(folder, monkeypatch):
    monkeypatch.setattr(fork_client, "COMMAND", SPAWNING)
    (folder / "run").mkdir()
    with ready() as own:
        own.start(job(folder / "run"))
        wait_for((folder / "run" / "log.txt").exists)  # opened before anything is imported
        own.stop()
        assert exits(own, 1) == {"run": 130}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_starting_a_spawned_run_loses_no_end_of_another(folder, monkeypatch):
    monkeypatch.setattr(fork_client, "COMMAND", SPAWNING)
    for name in ("first", "second"):
        (folder / name).mkdir()  # no run's: each ends with code 1
    with ready() as own:
        pid = own.process.pid
        own.start(job(folder / "first"))
        wait_for((folder / "first" / "log.txt").exists)
        own.process.send_signal(signal.SIGSTOP)
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        wait_for(lambda: Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
        own.start(job(folder / "second"))
        own.process.send_signal(signal.SIGCONT)
        assert exits(own, 2) == {"first": 1, "second": 1}


@pytest.mark.parametrize(
    ("overrides", "flags", "wanted"),
    [
        (["seed=0,1"], ["-m"], True),
        (["sweeps=quickstart"], [], True),
        (["seed=0"], [], False),
        (["seed=0,1", "launcher=serial"], ["-m"], False),
        (["seed=0,1", "hydra/launcher=basic"], ["-m"], False),
        (["seed=0,1"], ["-m", "--cfg", "job"], False),
    ],
)
def test_only_a_command_that_needs_it_starts_it_early(overrides, flags, wanted):
    assert starts_local_runs(overrides, flags) == wanted


# -------------------------------------------------------------------------------------------------------------- leases
def _hold(number: int, devices: list[str], slots: int, leases: str, told: Any) -> None:
    with lease(devices, slots, Path(leases)) as device:
        told.send((number, device))
        time.sleep(600)


@pytest.mark.parametrize(("slots", "holders"), [(1, 2), (2, 4)])
def test_no_two_runs_share_a_gpu_unasked(slots, holders, tmp_path):
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in range(holders + 1)]
    leases = str(tmp_path / "leases")
    processes = [context.Process(target=_hold, args=(n, ["0", "1"], slots, leases, pipes[n][1])) for n in range(holders + 1)]
    for process in processes:
        process.start()
    readers = [reader for reader, _ in pipes]
    held: dict[int, str] = {}
    while len(held) < holders:
        held |= dict(reader.recv() for reader in wait(readers, timeout=60))
    assert sorted(held.values()) == sorted(["0", "1"] * slots)
    assert not wait([readers[n] for n in range(holders + 1) if n not in held], timeout=0.5)  # the last one waits

    crashed = next(iter(held))
    processes[crashed].kill()
    (waiting,) = set(range(holders + 1)) - set(held)
    assert readers[waiting].poll(60) and readers[waiting].recv() == (waiting, held[crashed])
    for process in processes:
        process.kill()


# Tells of a process of a run that it waits: for the run's lock, or for a GPU.
WAITING = """
import sys, time
if "bitnet.launch.fork_server" in sys.orig_argv:
    real = time.sleep
    def sleep(seconds):
        open("waiting", "w").close()
        real(seconds)
    time.sleep = sleep
"""


@pytest.fixture
def frozen(folder, monkeypatch, values) -> RunRecord:
    """A run, whose process writes the file `waiting` when it waits."""
    (folder / "sitecustomize.py").write_text(WAITING)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{PACKAGE.parent}")
    (folder / "leases").mkdir()
    record = RunRecord(folder / "run")
    record.create(load_config(values(*TINY)).model_dump(mode="json"), {})
    return record


def test_a_run_that_another_controller_works_on_holds_no_gpu(folder, frozen):
    with ready() as own, lock_run(frozen):
        own.start(job(frozen.folder, devices=("0",)))
        wait_for((folder / "waiting").exists)
        with FileLock(folder / "leases" / "gpu-0-0.lock", timeout=0):
            pass
        own.stop()
        assert exits(own, 1) == {"run": 130}


def test_a_run_that_is_finished_waits_for_no_gpu(folder, frozen):
    frozen.update(status="done")
    with ready() as own, FileLock(folder / "leases" / "gpu-0-0.lock"):
        own.start(job(frozen.folder, devices=("0",)))
        assert exits(own, 1) == {"run": 0}


def test_a_run_that_is_stopped_while_it_waits_for_a_gpu_stays_in_the_queue(folder, frozen):
    """Even one that a crash had left as if it were at work."""
    frozen.update(status="running", step=7)
    with ready() as own, FileLock(folder / "leases" / "gpu-0-0.lock"):
        own.start(job(frozen.folder, devices=("0",)))
        wait_for((folder / "waiting").exists)
        own.stop()
        assert exits(own, 1) == {"run": 130}
    assert frozen.read()["status"] == "queued" and "stopped by SIGTERM at step 7" in frozen.read()["reason"]


def test_a_lease_that_the_file_system_refuses_is_told_in_one_line(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(UserError, match=r"gpu-0-0\.lock: can't be locked \(No locks available\), .*TMPDIR"),
        lease("0", 1, tmp_path),
    ):
        pass


@pytest.mark.parametrize("when", ["before", "at_work"])
def test_a_run_folder_that_is_removed_ends_that_run_alone(folder, when):
    """By another process, before the run begins or at its third step."""
    (folder / "sitecustomize.py").write_text(REMOVING[when])
    running = command("-m", "seed=0,1,2", "steps=6", "eval_every=2", "launcher.jobs=1", faults=folder)
    err = running.communicate(timeout=120)[1]
    assert running.returncode == 1 and "Traceback" not in err
    assert {name: r["status"] for name, r in records().items()} == {"seed=0": "done", "seed=2": "done"}
    said = [line for line in err.splitlines() if "seed=1" in line]
    assert any(line.startswith("[") and line.endswith("unreadable: no run.json") for line in said)
    assert any(line.startswith("unreadable: ") and line.endswith("no run.json") for line in said)
    assert "2 done, 1 unreadable" in err


def test_the_machine_is_divided_among_runs(monkeypatch):
    monkeypatch.setenv(resources.SIMULATED_GPUS, "4")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    assert resources.capacity(10, "auto", None, 1) == resources.Capacity(4, 4, ("0", "1", "2", "3"), 1)
    assert resources.capacity(10, "auto", None, 2).jobs == 8
    assert resources.capacity(2, "auto", None, 1) == resources.Capacity(2, 8, ("0", "1", "2", "3"), 1)
    assert resources.capacity(10, "cuda:2", None, 1).devices == ("2",)
    assert resources.capacity(10, "cuda:3,cuda:1", None, 2) == resources.Capacity(4, 4, ("3", "1"), 2)
    assert resources.capacity(10, "cpu", None, 1) == resources.Capacity(10, 1, (), 1)
    assert resources.capacity(100, "cpu", None, 1).jobs == 16
    assert resources.capacity(100, "cpu", 3, 1) == resources.Capacity(3, 5, (), 1)


def test_what_one_watches_names_runs_by_what_differs_among_them(tmp_path):
    folders = []
    for wd in ("paper", "wd005"):
        folders.append(tmp_path / f"scale=ci,model=32,wd={wd}-0123456789")
        folders[-1].mkdir()
        given = ["scale=ci", "model=32", f"wd={wd}", "seed=0"]
        (folders[-1] / "run.json").write_text(json.dumps({"status": "running", "overrides": given, "steps": 20}))
    assert list(display.run_names(folders).values()) == ["wd=paper", "wd=wd005"]
    assert list(display.run_names(folders[:1]).values()) == ["scale=ci model=32 wd=paper seed=0"]

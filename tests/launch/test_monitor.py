"""How runs stand, from disk and from a cluster's queue, and what to type next."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from bitnet import status
from bitnet.launch import monitor, slurm_queue, status_view
from bitnet.runs.record import SCHEMA

NOW = time.time()
HOUR_AGO = NOW - 3600


def run(top: Path, name: str, state: str, *, beat: float | None = None, log: str = "", **facts: object) -> Path:
    """A run folder as training leaves it, an hour ago."""
    folder = top / "sweep" / name
    folder.mkdir(parents=True)
    record = folder / "run.json"
    record.write_text(json.dumps({"schema": SCHEMA, "status": state, "step": 10, "steps": 100, "reason": None} | facts))
    os.utime(record, (HOUR_AGO, HOUR_AGO))
    (folder / "log.txt").write_text(log)
    if beat is not None:
        values = {"time": beat, "step": 42, "loss": 3.5, "tokens_per_second": 1000, "left": 90}
        (folder / ".progress.json").write_text(json.dumps(values))
    return folder


def by_name(top: Path) -> dict[str, monitor.RunState]:
    return {s.folder.name: s for s in monitor.Monitor(top)()}


def test_a_run_without_heartbeat_is_stalled_and_shows_what_it_said_last(tmp_path):
    run(tmp_path, "alive", "running", beat=time.time())
    run(tmp_path, "lost", "running", beat=HOUR_AGO, log="first\nlast words\n")
    run(tmp_path, "never-beat", "running")
    found = by_name(tmp_path)
    assert {n: s.status for n, s in found.items()} == {"alive": "running", "lost": "stalled", "never-beat": "stalled"}
    assert found["alive"].step == 42 and found["alive"].detail == "loss 3.500, 1,000 tokens/s, 01:30 left"
    assert "last words" in found["lost"].detail


def test_a_run_in_its_first_step_has_no_speed_yet(tmp_path):
    folder = run(tmp_path, "new", "running")
    beat = {"time": time.time(), "step": 1, "loss": None, "unique": None, "tokens_per_second": None, "left": None}
    (folder / ".progress.json").write_text(json.dumps(beat))
    assert by_name(tmp_path)["new"].detail == ""


@pytest.mark.parametrize(
    ("ahead", "written", "state", "said"),
    [
        (30, HOUR_AGO, "running", "loss 3.500, 1,000 tokens/s, 01:30 left"),  # clocks of two machines differ a little
        (86_400, HOUR_AGO, "stalled", "no heartbeat for 3,600 s; its clock is 86,400 s ahead of this machine's"),
        (86_400, NOW, "running", "loss 3.500, 1,000 tokens/s, 01:30 left; its clock is 86,400 s ahead of this machine's"),
        (86_400, NOW + 86_400, "stalled", "no heartbeat for 3,600 s; its clock is 86,400 s ahead of this machine's"),
    ],
    ids=["a little", "long ago", "file system", "file system too"],
)
def test_a_heartbeat_of_the_future_keeps_no_run_alive(tmp_path, ahead, written, state, said):
    folder = run(tmp_path, "one", "running", beat=NOW + ahead)
    os.utime(folder / ".progress.json", (written, written))
    (found,) = monitor.Monitor(tmp_path, lambda: NOW)()
    assert (found.status, found.detail) == (state, said)


def test_a_record_of_the_future_keeps_no_run_alive(tmp_path):
    folder = run(tmp_path, "one", "running")
    os.utime(folder / "run.json", (NOW + 86_400, NOW + 86_400))
    (found,) = monitor.Monitor(tmp_path, lambda: NOW)()
    assert (found.status, found.detail) == ("stalled", "no heartbeat")


@pytest.mark.parametrize("beat", [{"step": [5]}, {"time": "now"}, {"time": None}, {"left": float("inf")}, {"loss": "low"}])
def test_a_damaged_heartbeat_is_none_and_is_told(tmp_path, beat, capsys):
    run(tmp_path, "whole", "running", beat=NOW)
    values = {"time": NOW, "step": 42, "loss": 3.5, "tokens_per_second": 1000, "left": 90}
    folder = run(tmp_path, "one", "running")
    (folder / ".progress.json").write_text(json.dumps(values | beat))
    found = {s.folder.name: s for s in monitor.Monitor(tmp_path, lambda: NOW)()}
    assert (found["whole"].status, found["one"].status, found["one"].step) == ("running", "stalled", 10)
    (key,) = beat
    assert found["one"].detail.startswith(f"no heartbeat for 3,600 s; .progress.json: {key}=")
    assert len([line for line in shown(tmp_path, capsys) if line.count("\t") == 3]) == 2


def test_a_reason_of_many_lines_is_one_line(tmp_path, capsys):
    run(tmp_path, "one", "failed", reason="first\nsecond\tthird \x1b[31m")
    assert shown(tmp_path, capsys)[0].split("\t")[3] == "first second third \\x1b[31m"


def test_a_record_of_wrong_types_is_one_line_and_hides_no_other_run(tmp_path, capsys):
    run(tmp_path, "whole", "done")
    run(tmp_path, "one", "done", final={"heldout_loss": "low"})
    run(tmp_path, "two", "running", threads=100_000)
    found = by_name(tmp_path)
    assert {name: s.status for name, s in found.items()} == {"whole": "done", "one": "unreadable", "two": "unreadable"}
    assert found["two"].detail == "run.json: threads=100000: input should be less than or equal to 1024"
    assert "inspect an unreadable run: cat" in "\n".join(shown(tmp_path, capsys))


def test_failures_come_first_and_keep_their_reason(tmp_path):
    run(tmp_path, "a-done", "done", final={"heldout_loss": 2.5})
    run(tmp_path, "b-failed", "failed", reason="RuntimeError: broken")
    run(tmp_path, "c-queued", "queued", reason="stopped by SIGINT at step 10; launch again to go on")
    (tmp_path / "sweep" / "d-torn").mkdir()
    (tmp_path / "sweep" / "d-torn" / "run.json").write_text('{"status": "do')
    found = monitor.Monitor(tmp_path)()
    assert [s.folder.name for s in found] == ["b-failed", "c-queued", "a-done", "d-torn"]
    assert found[0].detail == "RuntimeError: broken" and "2.500" in found[2].detail
    assert found[3].status == "unreadable" and found[3].step is None


@pytest.mark.parametrize(
    ("states", "advised"),
    [(["running", "failed"], "--watch"), (["done", "failed"], "resume="), (["done", "diverged"], "bitnet.report")],
)
def test_it_says_what_to_type_next(tmp_path, states, advised, capsys):
    for number, state in enumerate(states):
        run(tmp_path, f"run-{number}", state, beat=time.time())
    assert status.main([str(tmp_path)]) == 0
    assert advised in capsys.readouterr().out


def shown(top: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert status.main([str(top)]) == 0
    return capsys.readouterr().out.splitlines()


COMMAND = "python -m bitnet.train -m wd=paper,wd005 'data.paths=[a b]'"


def test_what_is_left_goes_on_by_the_command_that_started_it(tmp_path, capsys):
    run(tmp_path, "one", "failed", command=COMMAND)
    run(tmp_path, "two", "queued", command=COMMAND)
    run(tmp_path, "three", "done", command=COMMAND)
    assert f"resume 2 runs (1 failed, 1 queued): {COMMAND}" in shown(tmp_path, capsys)


def test_going_on_repeats_nothing_and_leaves_no_failure_alone(tmp_path, capsys):
    run(tmp_path, "one", "failed", command=f"{COMMAND} overwrite=true launcher.retry=0 steps=20")
    assert f"resume 1 failed run: {COMMAND} steps=20" in shown(tmp_path, capsys)


def test_queued_runs_may_still_wait_for_their_launcher(tmp_path, capsys):
    run(tmp_path, "one", "queued", command=COMMAND)
    assert f"resume 1 queued run, once no process is working on it: {COMMAND}" in shown(tmp_path, capsys)


def test_a_failure_shows_its_reason_its_last_words_and_where_to_read_on(tmp_path, capsys):
    folder = run(tmp_path, "one", "failed", reason="out of memory", log="step 9\nlast words\n")
    same = run(tmp_path, "two", "failed", reason="broken", log="Traceback\nRuntimeError: broken\n")
    lines = shown(tmp_path, capsys)
    assert by_name(tmp_path)["one"].detail == "out of memory; last words"
    assert by_name(tmp_path)["two"].detail == "RuntimeError: broken"
    assert f"see why a run failed: tail -n 30 {folder}/log.txt" in lines
    (folder / "error.txt").write_text("Traceback")
    assert f"see why a run failed: tail -n 30 {folder}/error.txt" in shown(tmp_path, capsys)
    assert same.is_dir()


def test_a_broken_record_is_pointed_out(tmp_path, capsys):
    record = run(tmp_path, "one", "done") / "run.json"
    record.write_text("{")
    assert any(str(record) in line for line in shown(tmp_path, capsys)[1:])


@pytest.mark.parametrize(("program", "typed"), [("bitnet-status", "bitnet-report"), ("status.py", "python -m bitnet.report")])
def test_advice_and_help_are_spelt_as_the_command_was(tmp_path, monkeypatch, capsys, program, typed):
    run(tmp_path, "one", "done")
    monkeypatch.setattr("sys.argv", [f"/somewhere/{program}"])
    assert f"tables: {typed} {tmp_path}" in shown(tmp_path, capsys)
    with pytest.raises(SystemExit):
        status.main(["--help"])
    assert f"usage: {typed.replace('report', 'status')} " in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------------------- queue
@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A squeue on PATH: called with what it prints and how it exits. It notes its arguments, a line a call."""
    programs = tmp_path / "bin"
    programs.mkdir()

    def make(answer: str = "", code: int = 0, error: str = "", wait: float = 0) -> Path:
        (programs / "answer").write_text(answer)
        script = f"#!/bin/sh\necho \"$@\" >> {programs}/calls\ncat {programs}/answer\necho '{error}' >&2\n"
        (programs / "squeue").write_text(f"{script}{f'exec sleep {wait}' if wait else ''}\nexit {code}\n")
        (programs / "squeue").chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
        return programs / "calls"

    return make


def queue_line(job: str, number: int, state: str, restarts: int = 0, reason: str = "None") -> str:
    """A line as `squeue --Format` prints it: columns of fixed width."""
    return f"{job:<64}{number:<24}{state:<24}{restarts:<12}{reason:<96}\n"


def test_the_queue_tells_what_the_disk_cannot(tmp_path, cluster, capsys):
    top = tmp_path / "runs"
    for number, state in enumerate(["queued", "running", "running", "running", "running", "queued"]):
        run(top, f"run{number}", state, slurm={"job": f"12_{number}"}, command=COMMAND)
    calls = cluster(
        queue_line("12_0", 100, "PENDING", 0, "Resources")
        + queue_line("12_1", 101, "PENDING", 2, "BeginTime")
        + queue_line("12_2", 102, "RUNNING")
        + queue_line("12_3", 103, "OUT_OF_MEMORY")
    )
    lines = shown(top, capsys)
    rows = {Path(row[2]).name: (row[0], row[3]) for row in (line.split("\t") for line in lines) if len(row) == 4}
    assert rows["run0"] == ("queued", "job 12_0 pending (Resources)")
    assert rows["run1"] == ("queued", "job 12_1 pending (BeginTime), requeued 2x")
    assert rows["run2"][0] == "stalled" and rows["run2"][1].endswith("job 12_2 running")
    assert rows["run3"][0] == "stalled" and rows["run3"][1].endswith("job 12_3 out_of_memory")
    assert rows["run4"][0] == "stalled" and rows["run4"][1].endswith("job 12_4 is no longer in the queue")
    assert rows["run5"] == ("queued", "job 12_5 is no longer in the queue")
    assert "see how a stalled run's job ended: sacct -j 12_3" in lines
    assert "cancel a job that is still running without a heartbeat: scancel 12_2" in lines
    assert "see when 2 runs in the cluster's queue may start: squeue --start --jobs=12" in lines
    assert f"resume 3 runs (2 stalled, 1 queued): {COMMAND}" in lines, "what the queue holds is left to it"
    (call,) = calls.read_text().splitlines()
    assert "--jobs=12" in call.split()


def test_a_task_is_known_by_its_own_number_too(cluster):
    cluster(queue_line("12_1", 101, "RUNNING"))
    assert slurm_queue.query(["101"]).jobs["101"].name == "12_1"


def test_a_beating_run_runs_and_shows_its_job(tmp_path, cluster):
    run(tmp_path / "runs", "one", "running", beat=time.time(), slurm={"job": 7})
    cluster(queue_line("7", 7, "RUNNING", 1))
    (found,) = monitor.Monitor(tmp_path / "runs")()
    assert found.status == "running" and found.detail.endswith("left; job 7 running, requeued 1x")


@pytest.mark.parametrize(
    ("answer", "said"),
    [({"code": 1, "error": "slurm_load_jobs error: Unable to contact"}, "Unable to contact"), ({"code": 3}, "exit code 3")],
)
def test_a_queue_that_cannot_be_asked_is_one_line(tmp_path, cluster, capsys, answer, said):
    run(tmp_path / "runs", "one", "queued", slurm={"job": "12_0"}, command=COMMAND)
    run(tmp_path / "runs", "two", "running", slurm={"job": "12_1"}, command=COMMAND)
    cluster(**answer)
    lines = shown(tmp_path / "runs", capsys)
    assert [said in line for line in lines if line.startswith("cluster queue:")] == [True]
    assert f"resume 2 runs (1 stalled, 1 queued), once no process is working on them: {COMMAND}" in lines
    assert not any("no longer" in line or "sacct" in line for line in lines)


def test_a_queue_that_hangs_is_left(cluster):
    cluster(wait=30)
    assert "did not answer" in slurm_queue.query(["12_0"], timeout=0.3).problem


def test_jobs_that_the_queue_forgot_are_no_problem(cluster):
    cluster(code=1, error="slurm_load_jobs error: Invalid job id specified")
    assert slurm_queue.query(["12_0"]) == slurm_queue.Queue()


def test_without_squeue_it_says_so_and_goes_on(tmp_path, monkeypatch, capsys):
    run(tmp_path, "one", "queued", slurm={"job": "12_0"})
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "cluster queue: squeue is not on PATH here; this is from disk alone" in shown(tmp_path, capsys)


@pytest.mark.parametrize("slurm", [None, {}, {"job": None}, {"job": "none"}, "12"])
def test_local_runs_and_finished_ones_ask_no_queue(tmp_path, cluster, slurm):
    calls = cluster()
    run(tmp_path / "runs", "local", "queued", slurm=slurm)
    run(tmp_path / "runs", "over", "done", slurm={"job": "12_0"})
    assert status.main([str(tmp_path / "runs")]) == 0
    assert not calls.exists()


def test_hidden_folders_are_not_runs(tmp_path):
    run(tmp_path, "one", "done")
    (tmp_path / ".data" / "x").mkdir(parents=True)
    (tmp_path / ".data" / "x" / "run.json").write_text("{}")
    assert list(by_name(tmp_path)) == ["one"]


def test_markup_in_a_name_stays_text(tmp_path):
    run(tmp_path, "label=[red]x", "failed", reason="[bold]no[/bold]")
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(status_view.table(monitor.Monitor(tmp_path)(), tmp_path, 9))
    shown = console.export_text()
    assert "[red]x" in shown and "[bold]no[/bold]" in shown


def test_a_pipe_gets_a_line_for_each_run(tmp_path, capsys):
    folder = run(tmp_path, "one", "failed", reason="broken")
    assert status.main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("\t") == ["failed", "10/100", str(folder), "broken"]
    assert lines[1] == f"{tmp_path}: 1 run: failed"


def test_a_reader_that_stops_early_is_no_error(tmp_path):
    for number in range(2000):
        run(tmp_path, f"a-run-with-a-long-name-{number}", "done")
    command = f"{sys.executable} -m bitnet.status {tmp_path} | head -n 1"
    ended = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("argument", ["nowhere", "."])
def test_nothing_to_show_is_one_line_and_exit_code_2(tmp_path, monkeypatch, argument, capsys):
    monkeypatch.chdir(tmp_path)
    assert status.main([argument]) == 2
    assert capsys.readouterr().err.startswith("error: ")

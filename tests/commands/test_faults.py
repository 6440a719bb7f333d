"""Whatever interrupts a run, its end is the same to the bit: requests to stop, full disks, damage. And nothing leaves `out`.

Each moment is hit on purpose here; tests/drills hits them at random, with real kills and real disks.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from real_runs import exit_code, record, the_run, undisturbed
from run_folders import evaluations, make_run
from small import TINY

from bitnet import prepare, train
from bitnet.data import prepared as prepared_data
from bitnet.evaluation.probe import Probe
from bitnet.reporting import report
from bitnet.runs import metrics_file
from bitnet.runs import record as record_module
from bitnet.runs.columns import COLUMNS
from bitnet.training import checkpoint

EVAL_EVERY, STEPS = 4, 22
SMALL = [*TINY, "optimizer=adamw", "regularizer=coverage", "probe.redraw=true"]
SMALL += [f"steps={STEPS}", f"eval_every={EVAL_EVERY}", "checkpoint.every=5", "launcher=serial"]
REAL_SAVE, REAL_MEASURE = checkpoint.save_file, Probe.measure


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(sys, "argv", ["bitnet-train"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def broken() -> Iterator[pytest.MonkeyPatch]:
    """Patches that a test takes back on its own."""
    with pytest.MonkeyPatch.context() as patches:
        yield patches


def command(*arguments: str) -> int:
    """Exit code of the training command."""
    return exit_code(train.main, *SMALL, *arguments)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    return undisturbed(tmp_path_factory, *SMALL)


def same_as_undisturbed(run: Path, calm: Path) -> None:
    """The rows are whole, each once and none missing; they and the last checkpoint are those of an undisturbed run."""
    assert (record(run)["status"], record(run)["step"]) == ("done", STEPS)
    text = (run / "metrics.csv").read_text()
    steps = [line.split(",")[0] for line in text.splitlines()]
    assert steps == ["Step", *(str(s) for s in [1, *range(EVAL_EVERY, STEPS, EVAL_EVERY), STEPS])]
    assert {line.count(",") for line in text.splitlines()} == {len(COLUMNS) - 1} and text.endswith("\n")
    assert text == (calm / "metrics.csv").read_text()
    assert saved(run)[-1] == saved(calm)[-1]  # weights, optimizer, generators: the name carries their hash
    assert sorted(p.name for p in run.iterdir()) == sorted(p.name for p in calm.iterdir())


def saved(run: Path) -> list[str]:
    return sorted(p.name for p in (run / "checkpoints").iterdir())


# ------------------------------------------------------------------------------------------------- requests to stop
def on_call(number: int, act: Callable[[], None], real: Callable) -> Callable:
    """`real`, with `act` in front of its call of that number."""
    calls = []

    def called(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) == number:
            act()
        return real(*args, **kwargs)

    return called


def ask(number: signal.Signals, times: int) -> Callable[[], None]:
    def act() -> None:
        for _ in range(times):
            os.kill(os.getpid(), number)

    return act


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
@pytest.mark.parametrize("moment", ["evaluation", "save"])
def test_a_stop_during_an_evaluation_or_a_save_ends_resumable(moment, number, times, broken, calm):
    if moment == "save":
        broken.setattr(checkpoint, "save_file", on_call(2, ask(number, times), REAL_SAVE))
    else:
        broken.setattr(Probe, "measure", on_call(3, ask(number, times), REAL_MEASURE))
    assert command() == 130
    run = record(the_run())
    assert run["status"] == "queued" and number.name in run["reason"]
    assert run["step"] == {"save": 11, "evaluation": 9}[moment]  # what was under way went to its end, and one step followed
    broken.undo()
    assert command() == 0
    same_as_undisturbed(the_run(), calm)


def test_a_stop_at_the_very_end_is_no_stop(broken, calm):
    broken.setattr(checkpoint, "save_file", on_call(5, ask(signal.SIGTERM, 2), REAL_SAVE))
    assert command() == 0
    same_as_undisturbed(the_run(), calm)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
@pytest.mark.parametrize("who", ["run", "sweep", "prepare"])
def test_a_stop_while_data_is_prepared_leaves_nothing_half_done(who, number, broken, folder):
    prepared = [a for a in SMALL if a.startswith("data")]
    commands = {
        "run": command,
        "sweep": lambda: command("-m", "seed=0,1"),
        "prepare": lambda: prepare.main(prepared),
    }
    broken.setattr(prepared_data, "sha256", on_call(1, ask(number, 1), prepared_data.sha256))
    assert commands[who]() == 130
    assert [p for p in folder.glob("outputs/.data/*") if p.is_dir()] == []
    assert commands[who]() == 0
    assert len([p for p in folder.glob("outputs/.data/*") if p.is_dir()]) == 1


def test_what_to_type_next_is_spelt_as_the_command_was(monkeypatch, capfd):
    assert command() == 0
    assert f"tables: bitnet-report {the_run().absolute()}" in capfd.readouterr().err
    monkeypatch.setattr(sys, "argv", ["/somewhere/bitnet/train.py"])
    assert command("seed=1") == 0
    assert "tables: python -m bitnet.report " in capfd.readouterr().err


# ------------------------------------------------------------------------------------------------------- full disks
def refuse(code: int) -> Callable[[], None]:
    def act() -> None:
        raise OSError(code, os.strerror(code))

    return act


def torn_row(self: metrics_file.MetricsFile, values: Any) -> None:
    with self.path.open("a") as file:
        file.write("8,1.2345,3")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("where", ["checkpoint", "row", "record"])
def test_a_disk_that_fails_ends_the_run_with_one_line_and_it_goes_on_once_there_is_room(where, code, broken, capfd, calm):
    match where:
        case "checkpoint":
            broken.setattr(checkpoint, "save_file", on_call(3, refuse(code), REAL_SAVE))
        case "row":
            broken.setattr(metrics_file.MetricsFile, "append", on_call(3, refuse(code), metrics_file.MetricsFile.append))
        case "record":
            broken.setattr(record_module, "write_atomically", on_call(9, refuse(code), record_module.write_atomically))
    assert command() == 1
    said = capfd.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert os.strerror(code) in line and "it resumes from the last checkpoint" in line and "Traceback" not in said
    run = the_run()
    assert record(run)["status"] == "failed" and os.strerror(code) in record(run)["reason"]
    before = saved(run)
    assert before and all(checkpoint.read(run / "checkpoints" / name) is not None for name in before)
    broken.undo()
    assert command() == 0
    same_as_undisturbed(run, calm)


def test_a_row_that_a_full_disk_cut_off_is_made_again(broken, folder, calm):
    real, calls = metrics_file.MetricsFile.append, []

    def append(self: metrics_file.MetricsFile, values: Any) -> None:
        calls.append(None)
        (torn_row if len(calls) == 4 else real)(self, values)

    broken.setattr(metrics_file.MetricsFile, "append", append)
    assert command() == 1
    assert (the_run() / "metrics.csv").read_text().endswith("8,1.2345,3")
    broken.undo()
    assert command() == 0
    same_as_undisturbed(the_run(), calm)


def test_a_disk_that_takes_no_record_of_the_failure_is_said_to(broken, capfd, folder, calm):
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fills_up() -> None:
        broken.setattr(record_module, "write_atomically", full)
        full()

    broken.setattr(checkpoint, "save_file", on_call(2, fills_up, REAL_SAVE))
    assert command() == 1
    said = capfd.readouterr().err
    assert "run.json can't say that the run failed" in said and "Traceback" not in said
    assert record(the_run())["status"] == "running"
    broken.undo()
    assert command() == 0
    same_as_undisturbed(the_run(), calm)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_while_data_is_prepared_is_one_line(code, broken, capfd, folder):
    broken.setattr(prepared_data, "write_durably", on_call(2, refuse(code), prepared_data.write_durably))
    assert command() == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("data: ")]
    assert len(errors) == 1 and "data.cache=" in errors[0] and os.strerror(code) in errors[0]
    assert [p for p in folder.glob("outputs/.data/*") if p.is_dir()] == []
    assert command() == 0


# ----------------------------------------------------------------------------------------------------------- damage
def test_a_real_checkpoint_cut_off_at_any_kilobyte_or_with_any_bit_flipped_falls_back(folder):
    assert command("checkpoint.every=11") == 0
    before, newest = (the_run() / "checkpoints" / name for name in saved(the_run()))
    whole, luck = newest.read_bytes(), random.Random(0)

    def flipped(bit: int) -> bytes:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        return bytes(damaged)

    lengths = range(0, len(whole), 1024)
    assert len(lengths) > 300
    for content in [*(whole[:n] for n in lengths), *(flipped(luck.randrange(8 * len(whole))) for _ in range(100))]:
        newest.write_bytes(content)
        said: list[str] = []
        found = checkpoint.newest(newest.parent, said.append)
        assert found is not None and found.path == before and len(said) == 1 and newest.name in said[0]
        newest.with_name(newest.name + ".damaged").unlink()


DAMAGE = {"threads": 100_000, "step": [5], "branch_at": "x", "timing": {"train_seconds": "long"}, "sessions": [1], "final": 3}


def stopped_run(broken: pytest.MonkeyPatch) -> Path:
    """A run that was asked to stop at its third evaluation."""
    broken.setattr(Probe, "measure", on_call(3, ask(signal.SIGTERM, 1), REAL_MEASURE))
    assert command() == 130
    broken.undo()
    return the_run()


@pytest.mark.parametrize("key", DAMAGE)
def test_a_record_of_wrong_types_is_set_aside_and_its_run_goes_on(key, broken, capfd, calm):
    """100,000 threads would end in a crash of the process."""
    run = stopped_run(broken)
    run.joinpath("run.json").write_text(json.dumps(record(run) | {key: DAMAGE[key]}))
    capfd.readouterr()
    assert command(f"resume={run}") == 2
    said = capfd.readouterr().err
    assert said.startswith(f"error: resume={run.absolute()}: run.json: {key}") and said.count("\n") == 1
    assert command() == 0
    said = capfd.readouterr().err
    assert f"note: {run.name}: run.json: {key}" in said and "resuming after step 9" in said
    run.joinpath("run.json.damaged").unlink()
    same_as_undisturbed(run, calm)


def test_more_threads_than_this_machine_takes_are_refused_before_any_work(broken, capfd, folder):
    broken.setattr(os, "cpu_count", lambda: 2)
    for threads, said in (65, "this machine has 2 cores and takes at most 64"), (100_000, "input should be less than or equal"):
        for more in ((), ("-m",)):
            assert command(f"threads={threads}", *more) == 2
            assert capfd.readouterr().err.splitlines()[-1].startswith(f"error: threads={threads}: {said}")
    assert not list(folder.rglob("run.json"))


def test_a_run_of_a_larger_machine_is_told_and_not_begun_with_other_threads(broken, capfd):
    run = stopped_run(broken)
    run.joinpath("run.json").write_text(json.dumps(record(run) | {"threads": 512}))
    broken.setattr(os, "cpu_count", lambda: 2)
    capfd.readouterr()
    assert command(f"resume={run}") == 2
    assert "error: threads=512: this machine has 2 cores" in capfd.readouterr().err
    assert record(run)["threads"] == 512


def test_a_file_system_that_refuses_locks_is_one_line_before_any_run(broken, capfd, folder):
    real = fcntl.flock

    def refuse(handle: int, operation: int) -> None:
        if os.readlink(f"/proc/self/fd/{handle}").endswith("/.lock"):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        real(handle, operation)

    broken.setattr(fcntl, "flock", refuse)
    for more in ((), ("-m",)):
        assert command(*more) == 2
        errors = [line for line in capfd.readouterr().err.splitlines() if not line.startswith(("data: ", "note: -m"))]
        assert len(errors) == 1 and "can't be locked (No locks available)" in errors[0]


# ---------------------------------------------------------------------------------------------------- untrusted input
def everything_outside(folder: Path) -> set[Path]:
    inside = {folder / "outputs", folder / "elsewhere"}
    return {p for p in folder.parent.rglob("*") if not any(i == p or i in p.parents for i in inside)}


LONG = "é" * 300
NAMES = ["../../x", "/x", "..", "a/b/../../../x", "a=b,c", LONG]  # tests/runs/test_record.py has more


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_no_name_of_a_sweep_writes_outside_out(name, folder):
    before = everything_outside(folder)
    assert command("sweeps=baseline_1k", "seed=0", "model=tiny", "steps=1", "eval_every=1", f"sweep.name='{name}'") in (0, 2)
    assert everything_outside(folder) == before
    for found in (folder / "outputs").rglob("run.json"):
        assert found.resolve().parents[2] == folder / "outputs"


@pytest.mark.parametrize("link", ["run", "checkpoints", "error.txt", ".lock"])
def test_no_link_leads_a_run_out_of_out(link, folder, capfd):
    assert command() == 0
    run, elsewhere = the_run(), folder / "elsewhere"
    run.joinpath("run.json").write_text(run.joinpath("run.json").read_text().replace('"done"', '"failed"'))
    if link == "run":
        run.rename(elsewhere)
        run.symlink_to(elsewhere)
    else:
        elsewhere.mkdir()
        target = elsewhere / "kept"
        target.mkdir() if link == "checkpoints" else target.write_text("mine")
        if (run / link).is_dir():
            (run / link).rename(folder / "moved")
        (run / link).unlink(missing_ok=True)
        (run / link).symlink_to(target)
    before = {p: p.read_bytes() for p in elsewhere.rglob("*") if p.is_file()}
    commands = [(), ("overwrite=true",), ("-m",)]
    for arguments in commands if link == "run" else [*commands, (f"resume={run}",)]:
        assert command(*arguments) == 2
        assert "a symbolic link that leads outside" in capfd.readouterr().err
    assert {p: p.read_bytes() for p in elsewhere.rglob("*") if p.is_file()} == before


def test_html_in_what_a_report_prints_stays_text(folder):
    script = "<script>alert('1')</script> | <b>&amp;"
    names = {"label": script, "arm": script, "sweep": script, "reason": script, "overrides": [script]}
    for seed, status in enumerate(("done", "failed")):
        make_run(folder / "runs", seed=seed, status=status, rows=evaluations([1, 5000, 10_000], [9, 2, 8]))
    for path in (folder / "runs").glob("*/run.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | names))
    text = report.report([folder / "runs"], style="md")
    assert "&lt;script&gt;" in text and "<script" not in text and "<b>" not in text
    assert "<script>" in report.report([folder / "runs"], style="plain").replace("\n", "")

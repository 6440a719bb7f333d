"""Run folders: names that stay where they belong, files that a crash can't tear, rows in the study's format."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import sys
from pathlib import Path

import pytest

from bitnet.common.errors import UserError
from bitnet.common.files import write_atomically
from bitnet.runs import folders, provenance
from bitnet.runs.columns import COLUMNS
from bitnet.runs.folders import folder_label, run_folder
from bitnet.runs.metrics_file import MetricsFile
from bitnet.runs.record import SCHEMA, RunLocked, RunRecord, lock_run

ID = "0123456789"


# ----------------------------------------------------------------------------------------------------------------- names
AWKWARD = {
    "plain": ["optimizer=adamw", "wd=paper"],
    "a path": ["data.paths=[/etc/passwd,../../x]"],
    "climbing": ["../../../../tmp/x"],
    "dots": ["..", ".", "..."],
    "quotes": ["tokenizer.path='my \"folder\"'", "x=$(rm -rf /)", "a=`b`"],
    "unicode": ["data.paths=[Übungen/日本語/🙂]", "a=\u202e"],
    "long": [f"model.knob{i}={'x' * 20}" for i in range(300)],
    "long unicode": ["é" * 300],
    "control characters": ["a=\n\t\0b"],
    "windows": ["C:\\x", "a|b<c>d:e*f?"],
    "none": [],
    "empty": [""],
    "leading dash": ["-rf"],
}


@pytest.mark.parametrize("overrides", AWKWARD.values(), ids=AWKWARD.keys())
@pytest.mark.parametrize("group", [None, "sweep"])
def test_a_run_folder_stays_inside_out(overrides, group, tmp_path):
    out = tmp_path / "out"
    folder = run_folder(out, group, f"{folder_label(overrides)}-{ID}")
    assert folder.resolve().parent.parent == out.resolve()
    assert folder.name.endswith(f"-{ID}") and len(folder.name.encode()) <= 120
    assert folder.name.isascii() and folder.name.isprintable() and not set(folder.name) & set("/\\ '\"$`*?<>|:;&()[]{}")
    folder.mkdir(parents=True)


@pytest.mark.parametrize("group", ["../..", "/etc", "..", ".", "", "a/b", "x" * 400])
def test_a_sweeps_name_stays_inside_out(group, tmp_path):
    folder = run_folder(tmp_path / "out", group, f"a=1-{ID}")
    assert folder.resolve().parent.parent == (tmp_path / "out").resolve()
    folder.mkdir(parents=True)


def test_readable_reads_like_the_command():
    assert folder_label(["optimizer=adamw", "wd=paper"]) == "optimizer=adamw,wd=paper"
    assert folder_label(["model='256'"]) == "model=256"
    assert folder_label(["lr.peak=1.5e-3"]) == "lr.peak=1.5e-3"
    assert folder_label([]) == "defaults"
    paths = ["data.paths=[/home/me/texts/a.txt,b.txt]", "tokenizer.path=models/gpt2", "seed=1"]
    assert folder_label(paths) == "data.paths=_a.txt,b.txt_,tokenizer.path=gpt2,seed=1"


# ---------------------------------------------------------------------------------------------------------------- places
def begun(folder: Path) -> Path:
    RunRecord(folder).create({"steps": 1}, {"id": ID})
    return folder


def test_a_run_without_a_sweep_lies_below_its_date(tmp_path):
    folder = run_folder(tmp_path, None, f"a=1-{ID}")
    assert folder.parent.parent == tmp_path
    assert [len(part) for part in folder.parent.name.split("-")] == [4, 2, 2]


def test_a_run_that_an_earlier_day_began_is_found_by_its_id(tmp_path):
    old = begun(tmp_path / "2001-02-03" / f"steps=5-{ID}")
    assert run_folder(tmp_path, None, f"a=1-{ID}") == old
    assert run_folder(tmp_path, None, f"called,differently-{ID}") == old
    assert run_folder(tmp_path, None, "a=1-9876543210") != old


def test_of_two_earlier_days_the_later_one_counts(tmp_path):
    begun(tmp_path / "2001-02-03" / f"a-{ID}")
    later = begun(tmp_path / "2001-11-01" / f"a-{ID}")
    assert run_folder(tmp_path, None, f"a-{ID}") == later


def test_a_sweeps_runs_are_not_found_for_a_single_run(tmp_path):
    in_sweep = begun(tmp_path / "quickstart" / f"a-{ID}")
    assert run_folder(tmp_path, None, f"a-{ID}") != in_sweep
    begun(tmp_path / "2001-02-03" / f"a-{ID}")
    assert run_folder(tmp_path, "quickstart", f"a-{ID}") == in_sweep


def test_a_folder_without_its_record_is_no_earlier_run(tmp_path):
    (tmp_path / "2001-02-03" / f"a-{ID}").mkdir(parents=True)
    assert run_folder(tmp_path, None, f"a-{ID}").parent.name != "2001-02-03"


def test_an_out_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"^out=.*file.*can't be written .*out=FOLDER$"):
            folders.check_writable(out)
    folders.check_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []


# ---------------------------------------------------------------------------------------------------------- atomic writes
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_part(where, tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_atomically(path, "old")

    def refuse(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, where, refuse)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_atomically(path, "old")
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_records_are_as_readable_as_any_new_file(tmp_path):
    """Runs on a shared machine are for the group to read, as far as its umask goes."""
    write_atomically(tmp_path / "run.json", "x")
    (tmp_path / "plain").write_text("x")
    assert stat.S_IMODE((tmp_path / "run.json").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_write_that_grows_or_shrinks_replaces_the_whole(tmp_path):
    for text in ("short", "x" * 100_000, "ü\n", ""):
        write_atomically(tmp_path / "f", text)
        assert (tmp_path / "f").read_text(encoding="utf-8") == text


# --------------------------------------------------------------------------------------------------------------- run.json
def test_a_record_keeps_what_an_update_does_not_name(tmp_path):
    record = RunRecord(tmp_path / "run")
    record.create({"steps": 10, "lr": {"peak": 1.5e-05}}, {"id": ID, "seed": 0})
    assert record.update(step=3, status="running") == record.read()
    read = json.loads((record.folder / "run.json").read_text())
    assert (read["id"], read["seed"], read["step"], read["status"], read["schema"]) == (ID, 0, 3, "running", SCHEMA)
    assert record.config() == {"steps": 10, "lr": {"peak": 1.5e-05}}


@pytest.mark.parametrize("text", [None, "", "{", "[1]", "null", "\xff\xfe"])
def test_a_record_that_cannot_be_read_is_empty(text, tmp_path):
    if text is not None:
        (tmp_path / "run.json").write_text(text, encoding="latin-1")
    assert RunRecord(tmp_path).read() == {}


@pytest.mark.parametrize("text", [None, "", "- a list", "a: [", "\xff: \x00"])
def test_a_folder_without_a_configuration_cannot_be_resumed(text, tmp_path):
    if text is not None:
        (tmp_path / "config.yaml").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"^resume=.*no readable config\.yaml there"):
        RunRecord(tmp_path).config()


def test_a_record_that_cannot_be_read_is_set_aside_and_told(tmp_path):
    record = RunRecord(tmp_path)
    assert record.set_aside() is None
    record.create({"steps": 1}, {"id": ID})
    assert record.set_aside() is None
    record.update(threads="many")
    assert record.set_aside().startswith(f"{tmp_path.name}: run.json: threads='many': ")
    assert json.loads((tmp_path / "run.json.damaged").read_text())["threads"] == "many" and not (tmp_path / "run.json").exists()
    with pytest.raises(UserError, match=r"^resume=.*: no run\.json; repeat the command"):
        record.frozen()


# ------------------------------------------------------------------------------------------------------------------ locks
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
@pytest.mark.parametrize("wait", [False, True])
def test_a_file_system_without_locks_is_told_in_one_line(tmp_path, monkeypatch, code, wait):
    """NFS without its lock service: not taken for a lock that another process holds."""

    def refuse(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    said = rf"^{tmp_path}/\.lock: can't be locked \({os.strerror(code)}\), .*out=FOLDER$"
    with pytest.raises(UserError, match=said) as told, lock_run(RunRecord(tmp_path), wait=wait):
        pass
    assert not isinstance(told.value, RunLocked)


def test_a_full_disk_is_no_lack_of_locks(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fcntl, "flock", full)
    with pytest.raises(OSError, match="No space left"), lock_run(RunRecord(tmp_path)):
        pass


def test_what_fails_under_the_lock_is_not_taken_for_the_lock(tmp_path):
    with pytest.raises(OSError, match="mine"), lock_run(RunRecord(tmp_path)):
        raise OSError(errno.ENOLCK, "mine")
    with lock_run(RunRecord(tmp_path)), pytest.raises(RunLocked, match="another process"), lock_run(RunRecord(tmp_path)):
        pass


def test_a_lock_does_not_bring_a_folder_back_that_is_gone(tmp_path):
    with pytest.raises(UserError, match="gone"), lock_run(RunRecord(tmp_path / "run")):
        pass
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------------------ metrics.csv
def row(step: int, **more: float) -> dict[str, float]:
    return {"Step": step, "Loss": 9.87654321, "UniquePredictions": 3, "LR": 0.0014321, "WD": 0.1} | more


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_rows_have_the_studys_formats(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.csv", 0)
    metrics.append(row(1000, WD=0.05, tokens=128_000.0, heldout_uniq=7.0, heldout_loss=0.1 + 0.2, flip_rate=None))
    header, line = lines(tmp_path / "metrics.csv")
    assert header.startswith("Step,Loss,UniquePredictions,LR,WD,") and header.split(",") == list(COLUMNS)
    assert line.startswith("1000,9.8765,3,0.001432,0.05,128000,")
    cells = dict(zip(header.split(","), line.split(","), strict=True))
    assert cells["heldout_uniq"] == "7" and cells["heldout_loss"] == "0.30000000000000004"
    assert cells["flip_rate"] == cells["ternary_neg"] == ""


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [("LR", 4e-6, "0.000004"), ("LR", 0.0, "0.000000"), ("WD", 0, "0.00"), ("Loss", 11.08354, "11.0835"), ("Step", 1, "1")],
)
def test_the_studys_cells(column, value, text, tmp_path):
    MetricsFile(tmp_path / "m.csv", 0).append(row(1) | {column: value})
    header, line = lines(tmp_path / "m.csv")
    assert line.split(",")[header.split(",").index(column)] == text


def test_an_undeclared_column_is_refused_and_nothing_written(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.csv", 0)
    with pytest.raises(KeyError, match=r"loss_of_sleep.*columns\.py"):
        metrics.append(row(1, loss_of_sleep=1.0))
    assert len(lines(tmp_path / "metrics.csv")) == 1


def written(path: Path, *steps: int) -> list[str]:
    metrics = MetricsFile(path, 0)
    for step in steps:
        metrics.append(row(step))
    return lines(path)


def test_resuming_drops_the_rows_of_later_steps(tmp_path):
    path = tmp_path / "metrics.csv"
    whole = written(path, 1, 10, 20, 30)
    metrics = MetricsFile(path, 20)
    assert lines(path) == whole[:4]
    metrics.append(row(30))
    assert lines(path) == whole


def test_starting_again_drops_every_row(tmp_path):
    written(tmp_path / "metrics.csv", 1, 10)
    MetricsFile(tmp_path / "metrics.csv", 0)
    assert lines(tmp_path / "metrics.csv") == [",".join(COLUMNS)]


def test_a_torn_last_row_is_dropped_wherever_it_is_torn(tmp_path):
    path = tmp_path / "metrics.csv"
    whole = written(path, 1, 10, 20)
    text = path.read_text()
    for length in range(len(text) - len(whole[3]) - 1, len(text)):
        path.write_text(text[:length])
        MetricsFile(path, 1000)
        assert lines(path) == whole[:3], length


@pytest.mark.parametrize("text", ["", "Step,Lo", "Step,Loss\n1,2\n", "\n\n\n"])
def test_a_file_without_whole_rows_starts_anew(text, tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    MetricsFile(path, 1000).append(row(1))
    assert lines(path)[0] == ",".join(COLUMNS) and len(lines(path)) == 2


def test_provenance_names_what_made_the_run(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["/bin/python", "-m", "bitnet.train", "out=a b"])
    made = provenance.provenance.__wrapped__()  # found out once a process
    assert {"python", "torch", "numpy", "hydra-core"} <= made["versions"].keys()
    assert made["git"] is None or len(made["git"]["commit"]) == 40
    assert made["command"] == "/bin/python -m bitnet.train 'out=a b'"


def test_an_update_keeps_what_another_value_made_unreadable(tmp_path):
    """One value of a wrong type hides a record from readers; what it held must not be written over."""
    run = RunRecord(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"schema": 1, "id": "abc", "status": "running", "threads": "many"}))
    run.update(step=5)
    assert json.loads((tmp_path / "run.json").read_text()) == {
        "schema": 1, "id": "abc", "status": "running", "threads": "many", "step": 5,
    }  # fmt: skip

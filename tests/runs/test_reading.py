"""One walker of run folders, one reader of their files, one vocabulary of statuses: what `status`, `report` and `plan` share."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from run_folders import evaluations, make_run

from bitnet import diagnose, report, status
from bitnet.analysis import frames
from bitnet.common.errors import UserError
from bitnet.common.text import counted
from bitnet.launch import monitor
from bitnet.runs import heartbeat, statuses
from bitnet.runs.folders import find_runs
from bitnet.runs.reading import Unreadable, read_json_mapping, read_json_or_empty, read_yaml_mapping
from bitnet.runs.record import RunRecord, declare_sweep
from bitnet.verdicts.declaration import declared_versions

ROWS = evaluations([500, 1000], [3, 4])

DAMAGE = {  # what run.json holds (None: there is none), and what is said of it
    "torn": ('{"schema": 1, "status": "do', "run.json: Unterminated string"),
    "list": ("[]", "run.json: a mapping is needed, this is list"),
    "status": ('{"schema": 1, "status": "lost"}', "run.json: status='lost' is none of done, diverged, running, failed, queued"),
    "schema": ('{"schema": 2, "status": "done"}', "run.json: schema=2, this version reads 1"),
    "none": (None, "no run.json"),
    "deep": ("[" * 200_000, "run.json: maximum recursion depth exceeded"),
}


def damaged(top: Path, how: str) -> Path:
    """A run that can't be read, beside one that can."""
    make_run(top, seed=0, rows=ROWS)
    folder = make_run(top, seed=1, rows=ROWS)
    text = DAMAGE[how][0]
    (folder / "run.json").unlink() if text is None else (folder / "run.json").write_text(text)
    return folder


# ------------------------------------------------------------------------------------------------------------- agreement
@pytest.mark.parametrize("how", DAMAGE)
def test_status_report_and_diagnose_say_the_same_of_a_run_that_cannot_be_read(tmp_path, how, capsys):
    folder = damaged(tmp_path, how)
    ((place, why),) = frames.read_runs([tmp_path]).unreadable.to_numpy().tolist()
    (seen,) = [s for s in monitor.Monitor(tmp_path)() if s.folder == folder]
    assert (place, seen.status, seen.detail) == (str(folder), "unreadable", why)
    assert why.startswith(DAMAGE[how][1])
    assert diagnose.main([str(tmp_path)]) == 0
    assert f"{folder}: can't be read as a run, skipped ({why})" in capsys.readouterr().err


def test_a_link_that_leads_back_is_not_followed(tmp_path, capsys):
    run = make_run(tmp_path / "sweep", rows=ROWS)
    os.symlink(".", tmp_path / "sweep" / "loop")
    os.symlink(run, tmp_path / "again")
    assert status.main([str(tmp_path)]) == 0
    assert f"{tmp_path}: 1 run: done" in capsys.readouterr().out
    assert frames.read_runs([tmp_path]).runs["folder"].tolist() == [str(run)]


def test_a_folder_that_cannot_be_listed_is_reported_by_both(tmp_path, monkeypatch):
    make_run(tmp_path / "sweep", rows=ROWS)
    closed = tmp_path / "closed"
    closed.mkdir()
    listed = os.scandir

    def refuse(path):  # root may list anything
        if os.fspath(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(closed))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    expected = [[str(closed), "can't be listed: Permission denied"]]
    assert frames.read_runs([tmp_path]).unreadable.to_numpy().tolist() == expected
    found = [[str(s.folder), s.detail] for s in monitor.Monitor(tmp_path)() if s.status == "unreadable"]
    assert found == expected


def test_a_folder_whose_name_is_no_text_is_listed_and_hides_no_other(tmp_path, capsys):
    make_run(tmp_path / "sweep", rows=ROWS)
    os.rename(make_run(tmp_path / "sweep", seed=1, rows=ROWS), os.path.join(os.fsencode(tmp_path), b"sweep", b"\xff"))
    place, why = f"{tmp_path}/sweep/\ufffd", "its path is no UTF-8 text; rename it"
    assert frames.read_runs([tmp_path]).unreadable.to_numpy().tolist() == [[place, why]]
    for command in (status.main, diagnose.main, report.main):
        assert command([str(tmp_path)]) == 0
        found = capsys.readouterr()
        assert "rename" in found.out + found.err


def test_what_shows_an_unreadable_run_is_there(tmp_path, capsys):
    folder = damaged(tmp_path, "none")
    status.main([str(tmp_path)])
    assert f"inspect an unreadable run: ls -la {folder}" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------------- walker
def test_runs_are_found_once_in_order_and_nothing_inside_them(tmp_path):
    for place in ("b/run-2", "b/run-10", "a/run-1", "a/run-1/inner", ".hidden/run", "c/empty"):
        (tmp_path / place).mkdir(parents=True)
        if not place.endswith("empty"):
            (tmp_path / place / "run.json").write_text("{}")
    found = list(find_runs([tmp_path, tmp_path / "b"]))
    assert found == [(tmp_path / place, None) for place in ("a/run-1", "b/run-10", "b/run-2")]
    assert list(find_runs([tmp_path / "a/run-1"])) == [(tmp_path / "a/run-1", None)]
    with pytest.raises(UserError, match="no such folder"):
        list(find_runs([tmp_path / "nowhere"]))


# ---------------------------------------------------------------------------------------------------------------- reader
@pytest.mark.parametrize("text", [None, "", "{", "[1]", "\udcff", "[" * 200_000])
def test_what_is_no_mapping_is_unreadable_with_its_file_in_the_reason(tmp_path, text):
    for name, read in {"a.json": read_json_mapping, "a.yaml": read_yaml_mapping}.items():
        path = tmp_path / name
        if text is not None:
            path.write_text(text, encoding="utf-8", errors="surrogateescape")
        if name.endswith("yaml") and len(text or "") > 1000:
            continue  # libyaml has a limit of its own
        with pytest.raises(Unreadable, match=name):
            read(path)
    assert read_json_or_empty(tmp_path / "a.json") == {}


@pytest.mark.parametrize("text", ["{", "[]", "1", "[" * 200_000])
def test_a_record_that_cannot_be_read_is_empty_for_who_writes_it(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    (tmp_path / ".progress.json").write_text(text)
    assert RunRecord(tmp_path).read() == {} == heartbeat.read(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"declared": {"a": 1}}', '{"declared": [1]}', '{"declared": [{"sweep": 1}]}'])
def test_a_torn_declaration_is_said_and_written_anew(tmp_path, text):
    (tmp_path / "sweep.json").write_text(text)
    versions, problem = declared_versions(tmp_path)
    assert versions == [] and problem.startswith("sweep.json")
    if "sweep" in text:  # a version, though not one to judge by: kept
        return
    declare_sweep(tmp_path, {"sweep": {"name": "x"}})
    assert len(json.loads((tmp_path / "sweep.json").read_text())["declared"]) == 1


# -------------------------------------------------------------------------------------------------------------- statuses
def test_every_status_has_its_place_in_lists():
    assert set(statuses.LISTED) == {*statuses.STORED, statuses.MISSING, statuses.STALLED, statuses.UNREADABLE}
    assert set(statuses.FINAL).isdisjoint(statuses.UNFINISHED)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (["done"], "1 run: done"),
        (["done"] * 1200, "1,200 runs, all done"),
        (["done", "odd", "failed", "done"], "4 runs: 1 failed, 2 done, 1 odd"),
    ],
)
def test_counts_read_as_a_person_would_say_them(found, told):
    assert statuses.describe(found) == told


def test_one_is_singular():
    assert [counted(n, "run") for n in (0, 1, 2, 1000)] == ["0 runs", "1 run", "2 runs", "1,000 runs"]

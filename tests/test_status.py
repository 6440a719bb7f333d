"""How runs stand, from disk alone."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from bitnet import status

HOUR_AGO = time.time() - 3600


def run(top: Path, name: str, state: str, *, beat: float | None = None, log: str = "", **facts: object) -> Path:
    """A run folder as training leaves it, an hour ago."""
    folder = top / "sweep" / name
    folder.mkdir(parents=True)
    record = folder / "run.json"
    record.write_text(json.dumps({"status": state, "step": 10, "steps": 100, "reason": None} | facts))
    os.utime(record, (HOUR_AGO, HOUR_AGO))
    (folder / "log.txt").write_text(log)
    if beat is not None:
        values = {"time": beat, "step": 42, "loss": 3.5, "tokens_per_second": 1000, "left": 90}
        (folder / ".progress.json").write_text(json.dumps(values))
    return folder


def by_name(top: Path) -> dict[str, status.Standing]:
    return {s.folder.name: s for s in status.standings(top, time.time())}


def test_a_run_without_heartbeat_is_stalled_and_shows_what_it_said_last(tmp_path):
    run(tmp_path, "alive", "running", beat=time.time())
    run(tmp_path, "lost", "running", beat=HOUR_AGO, log="first\nlast words\n")
    run(tmp_path, "never-beat", "running")
    found = by_name(tmp_path)
    assert {n: s.status for n, s in found.items()} == {"alive": "running", "lost": "stalled", "never-beat": "stalled"}
    assert found["alive"].step == 42 and "loss 3.500" in found["alive"].detail
    assert "last words" in found["lost"].detail


def test_failures_come_first_and_keep_their_reason(tmp_path):
    run(tmp_path, "a-done", "done", final={"heldout_loss": 2.5})
    run(tmp_path, "b-failed", "failed", reason="RuntimeError: broken")
    run(tmp_path, "c-queued", "queued", reason="stopped by SIGINT at step 10; launch again to go on")
    (tmp_path / "sweep" / "d-torn").mkdir()
    (tmp_path / "sweep" / "d-torn" / "run.json").write_text('{"status": "do')
    found = status.standings(tmp_path, time.time())
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


def test_hidden_folders_are_not_runs(tmp_path):
    run(tmp_path, "one", "done")
    (tmp_path / ".data" / "x").mkdir(parents=True)
    (tmp_path / ".data" / "x" / "run.json").write_text("{}")
    assert list(by_name(tmp_path)) == ["one"]


def test_markup_in_a_name_stays_text(tmp_path):
    run(tmp_path, "label=[red]x", "failed", reason="[bold]no[/bold]")
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(status.table(status.standings(tmp_path, time.time()), tmp_path, 9))
    shown = console.export_text()
    assert "[red]x" in shown and "[bold]no[/bold]" in shown


def test_a_pipe_gets_a_line_for_each_run(tmp_path, capsys):
    folder = run(tmp_path, "one", "failed", reason="broken")
    assert status.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[0].split("\t") == ["failed", "10/100", str(folder), "broken"]


@pytest.mark.parametrize("argument", ["nowhere", "."])
def test_nothing_to_show_is_one_line_and_exit_code_2(tmp_path, monkeypatch, argument, capsys):
    monkeypatch.chdir(tmp_path)
    assert status.main([argument]) == 2
    assert capsys.readouterr().err.startswith("error: ")

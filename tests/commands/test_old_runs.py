"""Run folders of version 0.1.0 before the package had folders: they report, are skipped when finished, and resume.

`tests/fixtures/runs_before_packages` was written by that code; `/FIXTURE` stands in it for the folder that it lay in.
`report.json` holds what that code's report said.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from real_runs import the_run

from bitnet import diagnose, report, status, train

FIXTURE = Path(__file__).parents[1] / "fixtures" / "runs_before_packages"
SMALL = ["data.tokens=20000", "data.heldout_tokens=2000", "data.vocab_size=64", "probe.heldout_sequences=4", "launcher=serial"]
RUN = ["data=synthetic", *SMALL, "model=tiny", "steps=60", "eval_every=5", "checkpoint.every=10", "threads=1", "device=cpu"]
RUN += ["probe.many_contexts=20", "probe.prompts=2", "probe.new_tokens=8", "wd=wd01"]
SWEEP = ["scale=ci", *SMALL]


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the fixture, as if it had been written there."""
    monkeypatch.setattr(sys, "argv", ["bitnet-train"])
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "old"
    shutil.copytree(FIXTURE, copy)
    for path in copy.rglob("*"):
        if path.suffix in {".json", ".yaml"}:
            path.write_text(path.read_text(encoding="utf-8").replace("/FIXTURE", str(copy)), encoding="utf-8")
    return copy


def rows(folder: Path) -> list[list[str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.reader(file))


def check_report(old: Path, tables: Path) -> None:
    """The report has one experiment, which says what that code's report said, and nothing of claims that came late."""
    assert report.main([str(old / "outputs" / "p1_weight_bounds"), "--tables", str(tables)]) == 0
    then = json.loads((FIXTURE / "report.json").read_text())
    for name, of in (("claims", then["claims"]), ("learning", then["heldout_loss"])):
        now = pd.read_csv(tables / f"{name}.csv")
        assert now["experiment"].nunique() == 1
        found = now[list(of[0])]
        pd.testing.assert_frame_equal(found, pd.DataFrame(of).astype(found.dtypes.to_dict()), rtol=1e-9)
    assert not pd.read_csv(tables / "claims.csv")["warnings"].str.contains("declared or changed").any()


def test_the_report_says_what_it_said_then(old, tmp_path):
    check_report(old, tmp_path / "tables")


def test_status_and_diagnose_know_them(old, capsys):
    assert status.main([str(old)]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in listed if "\t" in line].count("done") == 5
    assert sum(line.startswith("queued\t") for line in listed) == 1
    assert diagnose.main([str(the_run(old / "outputs"))]) == 0
    assert "60 steps" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["p1_weight_bounds", "priority1_weight_bounds"])
def test_finished_runs_are_skipped(name, old, capfd, tmp_path):
    """Under the sweep's former name, which their folder has, and under the one of today; the report stays as it was."""
    before = (the_run(old / "outputs") / "metrics.csv").read_bytes()
    declared = old / "outputs" / "p1_weight_bounds" / "sweep.json"
    declared.write_text(declared.read_text().replace("have come back inside by the end", "are inside at the end"))
    assert train.main([*RUN, f"out={old / 'outputs'}"]) == 0
    assert train.main([f"sweeps={name}", *SWEEP, f"out={old / 'outputs'}"]) == 0
    assert ("is now called sweeps=priority1_weight_bounds" in capfd.readouterr().err) == name.startswith("p1_")
    assert (the_run(old / "outputs") / "metrics.csv").read_bytes() == before
    assert len(list(old.glob("outputs/*/*/run.json"))) == 5, "no run has a second folder"
    assert len(json.loads(declared.read_text())["declared"]) == 2, "in other words"
    check_report(old, tmp_path / "tables")


def test_a_missing_run_lands_beside_the_others_under_the_name_of_today(old):
    sweep = old / "outputs" / "p1_weight_bounds"
    before = {p.parent.name for p in sweep.glob("*/run.json")}
    for name in before:
        if "seed=1" in name:
            shutil.rmtree(sweep / name)
    assert train.main(["sweeps=priority1_weight_bounds", *SWEEP, f"out={old / 'outputs'}"]) == 0
    assert {p.parent.name for p in sweep.glob("*/run.json")} == before
    assert not (old / "outputs" / "priority1_weight_bounds").exists()


def test_a_stopped_one_goes_on_to_the_same_end(old, tmp_path):
    """To the same bits, on a machine that gives those of the fixture at all."""
    assert train.main([*RUN, f"out={tmp_path / 'fresh'}"]) == 0
    assert train.main([*RUN, f"out={old / 'stopped'}"]) == 0
    record = json.loads((the_run(old / "stopped") / "run.json").read_text())
    assert (record["status"], record["step"], len(record["sessions"])) == ("done", 60, 2)
    whole, resumed, fresh = (rows(the_run(out)) for out in (old / "outputs", old / "stopped", tmp_path / "fresh"))
    if fresh == whole:
        assert resumed == whole
    assert [row[0] for row in resumed] == [row[0] for row in whole]
    losses = [[float(row[whole[0].index("heldout_loss")]) for row in table[1:]] for table in (resumed, whole)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)

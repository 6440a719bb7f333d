"""Runs of a sweep that begin alike: which share what, and that sharing changes no bit of any of them."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from real_runs import record
from small import FEW_PROBES, TINY

from bitnet import plan, train
from bitnet.config.run import load_config
from bitnet.launch import local
from bitnet.runs.record import RunRecord
from bitnet.runs.trunk import keep_for_branches, remove_branch_checkpoints, waits_for_trunk
from bitnet.sweep import branching
from bitnet.training import branches

SMALL = [*TINY, *FEW_PROBES, "steps=20", "eval_every=4", "checkpoint.every=50"]
ARMS = ["-m", "wd=paper,wd005,wd01", *SMALL]


@pytest.fixture(autouse=True)
def command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["bitnet-train"])
    monkeypatch.chdir(tmp_path)


def runs(out: str) -> dict[str, Path]:
    """Run folders by what tells their arms apart."""
    found = [p.parent for p in Path(out).glob("*/*/run.json")]
    return {RunRecord(f).config()["wd"]["stage2"]: f for f in found}


def planned(values, *arms: str) -> list[tuple[int, int] | None]:
    configs = [load_config(values(*SMALL, *arm.split())) for arm in arms]
    found = branches.plan_branches([branches.Candidate(c, "data", c.steps) for c in configs])
    return [None if b is None else (b.trunk, b.step) for b in found]


# ------------------------------------------------------------------------------------------------------ which share what
def test_schedules_part_at_the_boundary_and_everything_else_at_once(values):
    assert planned(values, "wd=paper", "wd=wd005") == [None, (0, 10)]  # the update of step 11 is the first that differs
    assert planned(values, "wd=paper schedule_lag=0", "wd=wd005 schedule_lag=0") == [None, (0, 9)]
    for other in ("seed=1", "clip=norm01", "optimizer=adamw", "lr=reduced", "steps=24", "eval_every=5", "wd.stage1=0.2"):
        assert planned(values, "wd=paper", f"wd=wd005 {other}") == [None, None]


def test_a_run_begins_as_the_one_that_it_shares_most_with(values):
    arms = ["wd=paper", "wd=paper wd.boundary=0.8", "wd=wd005 wd.boundary=0.8", "wd=wd01"]
    assert planned(values, *arms) == [None, (0, 10), (1, 16), (1, 16)]


def test_an_optimizer_that_forgets_parts_there(values):
    assert planned(values, "wd=wd01", "wd=wd01 optimizer.reset_at=0.4") == [None, (0, 8)]


def test_too_little_in_common_or_switched_off_is_trained_alone(values):
    assert planned(values, "wd=paper wd.boundary=0.05", "wd=wd005 wd.boundary=0.05") == [None, None]
    assert planned(values, "wd=paper", "wd=wd005 checkpoint.branch=false") == [None, None]


def test_nothing_is_shared_past_the_end_of_the_data_or_with_a_run_that_kept_nothing(values):
    paper, wd005, wd01 = (load_config(values(*SMALL, f"wd={wd}")) for wd in ("paper", "wd005", "wd01"))
    short = [branches.Candidate(c, "data", 10) for c in (paper, wd005)]
    assert branches.plan_branches(short) == [None, None]
    over = branches.Candidate(paper, "data", 20, can_be_trunk=lambda step: False)
    others = [branches.Candidate(c, "data", 20) for c in (wd005, wd01)]
    assert branches.plan_branches([over, *others]) == [None, None, branches.Branch(1, 10)]


# ------------------------------------------------------------------------------------------------------ the same results
@pytest.mark.parametrize("launcher", ["serial", "local"])
def test_a_branch_ends_with_the_bits_of_a_run_alone(launcher):
    assert train.main([*ARMS, f"launcher={launcher}", "out=shared"]) == 0
    assert train.main([*ARMS, f"launcher={launcher}", "out=alone", "checkpoint.branch=false"]) == 0
    shared, alone = runs("shared"), runs("alone")
    for arm, folder in shared.items():
        assert (folder / "metrics.csv").read_bytes() == (alone[arm] / "metrics.csv").read_bytes()
        last = [max(p.name for p in f.glob("checkpoints/step*")) for f in (folder, alone[arm])]  # a name holds the hash
        assert last[0] == last[1]
        assert (folder / "samples.json").read_bytes() == (alone[arm] / "samples.json").read_bytes()
    trunk = record(shared[0.0])
    assert trunk["began_as"] is None
    for arm in (0.05, 0.1):
        run, name = record(shared[arm]), f"{shared[0.0].parent.name}/{shared[0.0].name}"
        assert run["began_as"] == {"from": name, "id": trunk["id"], "step": 10}
        assert [(s.get("of"), s["after_step"]) for s in run["sessions"]] == [(trunk["id"], 0), (None, 10)]
        assert run["timing"]["steps_timed"] == 10
    assert not list(Path("shared").glob("*/*/branches"))  # all are over


def test_a_branch_that_is_stopped_goes_on_from_its_own_checkpoint(values):
    assert train.main([*ARMS, "launcher=serial", "out=whole", "checkpoint.every=3", "checkpoint.keep=9"]) == 0
    branch = runs("whole")[0.05]
    before = (branch / "metrics.csv").read_bytes()
    for path in sorted(branch.glob("checkpoints/step*"))[1:]:
        path.unlink()
    RunRecord(branch).update(status="queued")
    assert train.main([f"resume={branch}"]) == 0
    assert (branch / "metrics.csv").read_bytes() == before
    assert record(branch)["began_as"]["step"] == 10


@pytest.mark.parametrize("launcher", ["serial", "local"])
def test_a_trunk_that_stopped_where_another_begins_gives_it_its_newest_checkpoint(launcher):
    """Added to the sweep later, the other arm trains none of the steps that the trunk has saved already."""
    command = ["-m", *SMALL, "checkpoint.every=10", f"launcher={launcher}", "out=late"]
    assert train.main([*command, "wd=paper"]) == 0
    trunk = runs("late")[0.0]
    (last,) = trunk.glob("checkpoints/step-00000020-*")
    last.unlink()
    RunRecord(trunk).update(status="queued", step=10)
    assert train.main([*command, "wd=paper,wd005"]) == 0
    assert [record(folder)["status"] for folder in runs("late").values()] == ["done"] * 2
    assert record(runs("late")[0.05])["began_as"]["step"] == 10


def test_what_is_kept_for_branches_stays_until_the_last_of_them_is_over(tmp_path):
    trunk, one, two = (RunRecord(tmp_path / name) for name in ("trunk", "one", "two"))
    branch = {"from": f"{tmp_path.name}/trunk", "id": "x", "step": 10}
    for run, facts in ((trunk, {"branch": None}), (one, {"branch": branch}), (two, {"branch": branch})):
        run.create({}, facts)
    trunk.branches.mkdir()
    one.update(status="done")
    remove_branch_checkpoints([trunk.folder, one.folder])
    assert trunk.branches.exists()  # another command's run needs it
    two.update(status="diverged")
    remove_branch_checkpoints([trunk.folder, one.folder])
    assert not trunk.branches.exists()


def test_the_plan_says_which_runs_go_on_from_another(capsys):
    assert plan.main([*ARMS, "--no-measure", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    of_the_first = (10, "shares the first 10 steps of run 1")
    assert [(r["done"], r["state"].partition(", ")[2]) for r in runs] == [(0, ""), of_the_first, of_the_first]


def _without_its_rows(trunk: Path, kept: Path) -> None:
    lines = (trunk / "metrics.csv").read_text().splitlines(keepends=True)
    (trunk / "metrics.csv").write_text("".join(lines[:3]))  # until step 4


SPOILT = {
    "nothing": lambda trunk, kept: None,
    "file gone": lambda trunk, kept: kept.unlink(),
    "file damaged": lambda trunk, kept: kept.write_bytes(b"not what its name says"),
    "trunk gone": lambda trunk, kept: shutil.rmtree(trunk),
    "rows missing": _without_its_rows,
    "another device": lambda trunk, kept: RunRecord(trunk).update(device="another"),
    "more threads": lambda trunk, kept: RunRecord(trunk).update(threads=2),
    "another run": lambda trunk, kept: RunRecord(trunk).update(id="another"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_branch_that_can_not_begin_as_its_trunk_trains_alone(what, tmp_path_factory):
    whole = tmp_path_factory.getbasetemp() / "whole"
    if not whole.exists():
        assert train.main([*ARMS, "launcher=serial", f"out={whole}"]) == 0
    shutil.copytree(whole, "again")
    trunk, branch = runs("again")[0.0], runs("again")[0.05]
    reference = (branch / "metrics.csv").read_bytes()
    (saved,) = trunk.glob("checkpoints/step-00000010-*")
    keep_for_branches(saved, RunRecord(trunk), print)
    shutil.rmtree(branch / "checkpoints")
    (branch / "metrics.csv").unlink()
    RunRecord(branch).update(status="queued", began_as=None)
    SPOILT[what](trunk, trunk / "branches" / saved.name)
    assert train.main([f"resume={branch.resolve()}"]) == 0
    assert (branch / "metrics.csv").read_bytes() == reference
    assert (record(branch)["began_as"] is None) == (what != "nothing")


def test_a_run_waits_only_for_what_is_still_to_come(tmp_path):
    trunk, branch = (RunRecord(tmp_path / "s" / name) for name in ("trunk", "branch"))
    trunk.create({}, {"id": "x"})
    branch.create({}, {"branch": {"from": "s/trunk", "id": "x", "step": 10}})
    assert waits_for_trunk(branch) and not waits_for_trunk(trunk)
    trunk.update(step=12)  # resumed past the step, by a command that knew of no branches
    assert not waits_for_trunk(branch)
    trunk.update(step=10)  # stopped there, and about to keep its checkpoint
    assert waits_for_trunk(branch)
    trunk.update(step=8)
    branch.checkpoints.mkdir()
    (branch.checkpoints / "step-00000004-0123456789abcdef.safetensors").touch()
    assert not waits_for_trunk(branch)


class OneByOne:
    """In place of a server: what was started together ends together."""

    gpus = 0

    def __init__(self) -> None:
        self.waves: list[list[Path]] = [[]]

    def start(self, job: dict[str, Any]) -> None:
        self.waves[-1].append(Path(job["folder"]))

    def ended(self, seconds: float) -> list[tuple[Path, int]]:
        over = self.waves[-1]
        RunRecord(over[0]).update(status="done")
        if len(self.waves) == 1:
            self.waves.append([])
        return [(folder, 0) for folder in over]


def test_runs_whose_records_name_each_other_still_begin(tmp_path, monkeypatch):
    one, two = (RunRecord(tmp_path / "s" / name) for name in ("one", "two"))
    for run, other in ((one, "two"), (two, "one")):
        run.create({}, {"branch": {"from": f"s/{other}", "id": "x", "step": 10}})
    folders = [one.folder, two.folder]
    server = OneByOne()
    monkeypatch.setattr(local, "fork_server", lambda: contextlib.nullcontext(server))
    local.run_all(folders, "cpu", 2, 1)
    assert server.waves == [[one.folder], [two.folder]]  # the second waits for the first


def test_a_promise_outlives_a_command_with_fewer_runs(tmp_path):
    trunk, branch = (RunRecord(tmp_path / "s" / name) for name in ("trunk", "branch"))
    for run in (trunk, branch):
        run.create({}, {"id": run.folder.name})
    branching.record_branches([None, branches.Branch(0, 10)], [trunk, branch])
    branching.record_branches([None], [trunk])
    assert trunk.read()["branch_at"] == [10]
    assert branch.read()["branch"] == {"from": "s/trunk", "id": "trunk", "step": 10}


def test_what_can_not_be_kept_is_said_and_stops_nothing(tmp_path, capsys):
    run = RunRecord(tmp_path / "s" / "run")
    run.create({}, {})
    keep_for_branches(tmp_path / "nowhere", run, print)
    assert "share these steps (No such file or directory); each will train them itself" in capsys.readouterr().out
    assert list(run.branches.iterdir()) == []

"""Runs of a sweep that begin alike: which share what, and that sharing changes no bit of any of them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from bitnet import branches, plan, train
from bitnet.config import load
from bitnet.records import RunRecord

SMALL = ["data=synthetic", "data.tokens=20000", "data.heldout_tokens=2000", "data.vocab_size=64"]
SMALL += ["probe.heldout_sequences=4", "probe.many_contexts=20", "probe.prompts=4", "probe.new_tokens=8"]
SMALL += ["threads=1", "model=tiny", "steps=20", "eval_every=4", "checkpoint.every=50"]
ARMS = ["-m", "wd=paper,wd005,wd01", *SMALL]


@pytest.fixture(autouse=True)
def command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["bitnet-train"])
    monkeypatch.chdir(tmp_path)


def runs(out: str) -> dict[str, Path]:
    """Run folders by what tells their arms apart."""
    found = [p.parent for p in Path(out).glob("*/*/run.json")]
    return {RunRecord(f).config()["wd"]["stage2"]: f for f in found}


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def planned(values, *arms: str) -> list[tuple[int, int] | None]:
    found = branches.plan([(load(values(*SMALL, *arm.split())), "data") for arm in arms])
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
    assert record(shared[0.0])["began_as"] is None
    for arm in (0.05, 0.1):
        assert record(shared[arm])["began_as"] == {"from": shared[0.0].name, "id": record(shared[0.0])["id"], "step": 10}
        assert record(shared[arm])["timing"]["steps_timed"] == 10
    assert not list(Path("shared").glob("*/*/branches"))  # all are over


def test_a_branch_whose_trunk_is_gone_damaged_or_of_another_machine_trains_alone(capfd):
    command = [*ARMS, "launcher=serial", "wd=paper,wd005"]
    assert train.main([*command, "out=whole"]) == 0
    reference = (runs("whole")[0.05] / "metrics.csv").read_bytes()

    def again(change) -> Path:
        assert train.main([*command, "out=again", "wd=paper,wd005", "overwrite=true"]) == 0
        trunk, branch = runs("again")[0.0], runs("again")[0.05]
        shutil.rmtree(branch / "checkpoints")
        (branch / "metrics.csv").unlink()
        RunRecord(branch).update(status="queued", began_as=None)
        trunk_saved = trunk / "branches" / "step-00000010-0123456789abcdef.safetensors"
        trunk_saved.parent.mkdir()
        trunk_saved.write_bytes(b"not what its name says")
        change(trunk)
        capfd.readouterr()
        assert train.main([f"resume={branch}"]) == 0
        assert "of wd=paper" not in capfd.readouterr().err
        assert (branch / "metrics.csv").read_bytes() == reference
        return branch

    assert record(again(lambda trunk: None))["began_as"] is None
    again(lambda trunk: shutil.rmtree(trunk))
    again(lambda trunk: RunRecord(trunk).update(device="another"))


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


def test_what_is_kept_for_branches_stays_until_the_last_of_them_is_over(tmp_path):
    trunk, one, two = (RunRecord(tmp_path / name) for name in ("trunk", "one", "two"))
    branch = {"from": "trunk", "id": "x", "step": 10}
    for run, facts in ((trunk, {"branch": None}), (one, {"branch": branch}), (two, {"branch": branch})):
        run.create({}, facts)
    trunk.branches.mkdir()
    folders = [r.folder for r in (trunk, one, two)]
    one.update(status="done")
    branches.tidy(folders)
    assert trunk.branches.exists()
    two.update(status="diverged")
    branches.tidy(folders)
    assert not trunk.branches.exists()


def test_the_plan_says_which_runs_go_on_from_another(capsys):
    assert plan.main([*ARMS, "--no-measure", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    of_the_first = (10, "after step 10 of 1")
    assert [(r["done"], r["state"].partition(", ")[2]) for r in runs] == [(0, ""), of_the_first, of_the_first]

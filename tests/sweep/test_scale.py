"""One knob sizes a sweep: lengths, model sizes and seeds, and nothing that is typed beside it."""

from __future__ import annotations

import json

import pytest

from bitnet import plan, train
from bitnet.config.sweep import ScaleConfig
from bitnet.sweep.scale import base_overrides, scaled_arm, without_keys

LAPTOP = ScaleConfig(name="laptop", steps=0.4, sizes={"256": "64", "512": "128"}, seeds=[0])


def test_an_arm_is_scaled_where_the_scale_speaks_of_it():
    arm = ("model='512'", "steps=20000", "eval_every=1", "wd=paper", "lr.peak=0.001", "seed=3")
    assert scaled_arm(LAPTOP, arm) == ("model='128'", "steps=8000", "eval_every=1", "wd=paper", "lr.peak=0.001", "seed=3")
    assert scaled_arm(LAPTOP, ("model='1024'", "model=tiny")) == ("model='1024'", "model=tiny")


def test_the_width_that_a_peak_is_scaled_from_is_scaled_too():
    assert scaled_arm(LAPTOP, ("lr.reference_hidden_size=256",)) == ("lr.reference_hidden_size=64",)


def test_what_is_typed_is_not_scaled():
    class Base:
        steps, eval_every = 10_000, 500

    chosen = {"model": "256"}
    assert base_overrides(LAPTOP, Base, chosen, set()) == ["model='64'", "steps=4000", "eval_every=200"]
    assert base_overrides(LAPTOP, Base, chosen, {"steps", "model"}) == ["eval_every=200"]
    assert base_overrides(ScaleConfig(name="full"), Base, chosen, set()) == []


def test_an_arm_keeps_its_own_size():
    assert without_keys(["model='64'", "steps=4000"], ["model='128'", "wd=paper"]) == ["steps=4000"]


@pytest.fixture
def records(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read(sweep: str) -> list[dict]:
        return [json.loads(p.read_text()) for p in sorted(tmp_path.glob(f"outputs/{sweep}/*/run.json"))]

    return read


def test_a_scaled_sweep_keeps_the_names_of_its_file(records):
    """So that a claim about model=1024 is judged at every scale."""
    assert train.main(["sweeps=phase5_scaling", "scale=ci", "steps=2", "seed=0", "launcher=serial"]) == 0
    runs = records("phase5_scaling")
    assert {r["written"]["model"]: r["choices"]["model"] for r in runs} == {
        "256": "32", "512": "64", "768": "96", "1024": "128"
    }  # fmt: skip
    assert {r["steps"] for r in runs} == {2} and {r["arm"] for r in runs} == {"weight decay off in stage 2"}


def test_a_sweep_of_sweeps_runs_them_in_order_and_trains_a_shared_run_once(records, tmp_path, capfd, monkeypatch):
    (tmp_path / "own" / "sweeps").mkdir(parents=True)
    (tmp_path / "own" / "sweeps" / "both.yaml").write_text(
        "# @package _global_\n"
        "sweep: {name: both, question: Do they work, includes: [phase4_grad_clip, phase4_label_smoothing]}\n"
        "hydra: {mode: MULTIRUN}\n"
    )
    arguments = ["--config-dir", "own", "sweeps=both", "scale=ci", "seed=0", "launcher=serial"]
    monkeypatch.setattr("sys.orig_argv", [__import__("sys").executable, "-m", "bitnet.train", *arguments])
    assert train.main(arguments) == 0
    said = capfd.readouterr().err
    assert said.index("[1 of 2] phase4_grad_clip") < said.index("[2 of 2] phase4_label_smoothing")
    clip, smoothing = records("phase4_grad_clip"), records("phase4_label_smoothing")
    assert [r["status"] for r in clip + smoothing] == ["done"] * 4
    (shared,) = {r["id"] for r in clip} & {r["id"] for r in smoothing}
    (taken,) = [r for r in smoothing if r["id"] == shared]
    (trained,) = [r for r in clip if r["id"] == shared]
    assert taken["taken_from"].startswith("phase4_grad_clip/") and taken["final"] == trained["final"]
    assert (taken["arm"], taken["sweep"]) == ("control", "phase4_label_smoothing")
    rows = [p.read_text() for p in tmp_path.glob(f"outputs/*/*-{shared}/metrics.csv")]
    assert len(rows) == 2 and rows[0] == rows[1]


def own_sweep(tmp_path, name: str) -> None:
    (tmp_path / "own" / "sweeps").mkdir(parents=True, exist_ok=True)
    text = f"# @package _global_\nsweep: {{name: {name}, question: Mine, arms: {{a: wd=paper}}}}\nhydra: {{mode: MULTIRUN}}\n"
    (tmp_path / "own" / "sweeps" / f"{name}.yaml").write_text(text)


def include(tmp_path, *names: str) -> list[str]:
    (tmp_path / "own" / "sweeps").mkdir(parents=True, exist_ok=True)
    (tmp_path / "own" / "sweeps" / "both.yaml").write_text(
        f"# @package _global_\nsweep: {{name: another, question: x, includes: [{', '.join(names)}]}}\nhydra: {{mode: MULTIRUN}}\n"
    )
    return ["--config-dir", "own", "sweeps=both", "scale=ci", "launcher=serial"]


def test_a_mistake_in_a_later_sweep_is_said_before_the_first_starts(tmp_path, records, capfd):
    arguments = [*include(tmp_path, "phase4_grad_clip", "priority6_transition_branch"), "lr=faq"]
    assert train.main(arguments) == 2
    assert "sweeps=priority6_transition_branch, which another includes: " in capfd.readouterr().err
    assert not (tmp_path / "outputs").exists()


def test_a_sweep_that_includes_itself_is_refused(tmp_path, records, capfd):
    arguments = include(tmp_path, "phase4_grad_clip", "both")
    for main in (train.main, plan.main):
        assert main(arguments) == 2
        assert "sweeps=both, which another includes: it is made of sweeps itself" in capfd.readouterr().err


def test_a_sweep_of_sweeps_is_planned_as_it_is_trained_whatever_its_file_is_called(tmp_path, records, capfd):
    arguments = [*include(tmp_path, "phase4_grad_clip", "phase4_label_smoothing"), "seed=0", "--no-measure", "--json"]
    assert plan.main(arguments) == 0
    assert len(json.loads(capfd.readouterr().out)["runs"]) == 3  # two each, and one of them is the same


def test_a_sweep_of_the_user_s_own_keeps_a_name_that_another_one_had(tmp_path, records, capfd):
    own_sweep(tmp_path, "verify_p1")
    tiny = ["--config-dir", "own", "model=tiny", "steps=1", "data=synthetic", "launcher=serial"]
    assert train.main([*tiny, "sweeps=verify_p1"]) == 0
    assert [r["sweep"] for r in records("verify_p1")] == ["verify_p1"]
    for sweep in ("sweeps=verify_p1", include(tmp_path, "verify_p1")[2]):
        assert plan.main([*tiny, sweep, "--no-measure", "--json"]) == 0
        said = capfd.readouterr()
        assert len(json.loads(said.out)["runs"]) == 1 and "is now called" not in said.err


def test_a_copied_file_that_keeps_the_other_sweeps_name_is_refused(records, tmp_path, capfd):
    (tmp_path / "own" / "sweeps").mkdir(parents=True)
    text = "# @package _global_\nsweep: {name: quickstart, question: x, arms: {a: wd=paper}}\nhydra: {mode: MULTIRUN}\n"
    (tmp_path / "own" / "sweeps" / "mine.yaml").write_text(text)
    assert train.main(["--config-dir", "own", "sweeps=mine", "scale=ci", "launcher=serial"]) == 2
    assert "sweeps=mine: its file says sweep.name=quickstart, another sweep's folder; write name: mine" in capfd.readouterr().err
    assert not (tmp_path / "outputs").exists()
    (tmp_path / "own" / "sweeps" / "mine.yaml").write_text(text.replace("quickstart", "mine"))
    tiny = ["--config-dir", "own", "scale=ci", "model=tiny", "steps=1", "launcher=serial"]
    assert train.main([*tiny, "sweeps=mine.yaml"]) == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sweep: {name: mine, question: x}\n", "sweeps=mine: its file does not begin with the line '# @package _global_'"),
        (
            "# @package _global_\ndefaults: [override /model: 128]\nsweep: {name: mine, question: x}\n",
            'a defaults list names an option that YAML reads as a number; quote it, as in override /model: "256"',
        ),
        (
            "defaults: [override /model: '128']\nsweep: {name: mine, question: x}\n",
            "sweeps=mine: its file does not begin with the line '# @package _global_'",
        ),
        ("# @package _global_\nsweeps: mine\nsweep: {name: mine, question: x}\n", "sweeps='mine': no such key"),
    ],
)
def test_what_is_forgotten_in_a_sweeps_file_is_said(text, said, records, tmp_path, capfd):
    (tmp_path / "own" / "sweeps").mkdir(parents=True)
    (tmp_path / "own" / "sweeps" / "mine.yaml").write_text(text)
    assert train.main(["--config-dir", "own", "sweeps=mine"]) == 2
    assert said in capfd.readouterr().err
    assert not (tmp_path / "outputs").exists()


def test_a_renamed_arm_is_found_under_its_new_name(records, tmp_path):
    (tmp_path / "own" / "sweeps").mkdir(parents=True)
    file = tmp_path / "own" / "sweeps" / "mine.yaml"
    text = "# @package _global_\nsweep: {name: mine, question: x, arms: {old: wd=paper}, seeds: [0]}\nhydra: {mode: MULTIRUN}\n"
    for now in (text, text.replace("old", "new")):
        file.write_text(now)
        assert train.main(["--config-dir", "own", "sweeps=mine", "scale=ci", "launcher=serial"]) == 0
    (run, _) = records("mine")
    assert run["arm"] == "new" and len(run["sessions"]) == 1


def test_what_a_sweep_claims_is_written_down_before_it_runs_and_kept_when_it_changes(records, tmp_path):
    (tmp_path / "own" / "sweeps").mkdir(parents=True)
    file = tmp_path / "own" / "sweeps" / "mine.yaml"
    text = (
        "# @package _global_\nsweep:\n  name: mine\n  question: Does it?\n  arms: {one: wd=paper}\n  seeds: [0]\n"
        "  claims:\n    low: {kind: bound, says: low, metric: heldout_loss, arm: one, expected: at_most, bound: 9, margin: 1}\n"
        "hydra: {mode: MULTIRUN}\n"
    )
    command = ["--config-dir", "own", "sweeps=mine", "model=tiny", "data=synthetic", "steps=1", "launcher=serial"]
    for claimed in (text, text, text.replace("bound: 9", "bound: 8")):
        file.write_text(claimed)
        assert train.main(command) == 0
    declared = json.loads((tmp_path / "outputs" / "mine" / "sweep.json").read_text())["declared"]
    assert [d["sweep"]["claims"]["low"]["bound"] for d in declared] == [9, 8]
    (run,) = records("mine")
    assert declared[0]["at"] <= run["created"] <= declared[1]["at"]

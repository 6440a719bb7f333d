"""What a sweep costs: one small sweep really run, and the commands of `bench scale`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small import DATA, NO_PROBES

from bitnet import bench
from bitnet.benchmark.sweeps import SweepCost, measure_sweep, named_sweep, scale_commands
from bitnet.common.errors import UserError
from bitnet.planning.request import requested_runs


def test_a_sweep_is_measured_and_leaves_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "aside"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "aside").mkdir()
    overrides = [*DATA, *NO_PROBES, "model=tiny", "threads=1", "probe.heldout_sequences=4", "steps=10", "seed=0,1"]
    assert bench.main(["sweep", *overrides, "--json", "cost.json"]) == 0
    (entry,) = json.loads(Path("cost.json").read_text())["cases"]
    cost = SweepCost(**entry["cost"])
    assert (cost.runs, cost.steps) == (2, 20)
    assert 0 < cost.training < cost.at_once * cost.wall
    assert 0 < cost.training_processor < cost.processor
    assert 0 < cost.orchestration < 1 and 0 < cost.orchestration_processor < 1
    assert 0 < cost.first_step < cost.wall
    table = capsys.readouterr().out
    assert all(heading in table for heading in ("wall", "training", "orchestration", "by processor", "first step"))
    assert "seed=0,1" in table
    assert not list((tmp_path / "aside").glob("bitnet-bench-*")) and not (tmp_path / "outputs").exists()


def test_shares_by_hand():
    cost = SweepCost(4, 80, at_once=2, data=1, wall=10, training=15, processor=30, training_processor=24, first_step=0.5)
    assert cost.orchestration == 0.25
    assert cost.orchestration_processor == pytest.approx(0.2)


def test_a_sweep_may_be_named_alone():
    assert named_sweep([]) == ["sweeps=quickstart"]
    assert named_sweep(["rootcause", "scale=ci"]) == ["sweeps=rootcause", "scale=ci"]


def test_a_sweep_that_is_none_is_refused_before_it_starts():
    with pytest.raises(UserError, match="quickstrat"):
        measure_sweep(["sweeps=quickstrat"])


def test_scale_varies_arms_steps_and_runs():
    commands = scale_commands(quick=False)
    counts = {name: len(requested_runs(c, True, None)[0]) for name, c in commands.items() if "arm" in name or "50 seeds" in name}
    assert list(counts.values()) == [1, 2, 4, 8, 16, 32, 50]
    assert {o for c in commands.values() for o in c if o.startswith("steps=")} == {
        "steps=20",
        "steps=80",
        "steps=320",
        "steps=1280",
    }
    assert set(scale_commands(quick=True)) < set(commands) | {"8 seeds of 20 steps"}

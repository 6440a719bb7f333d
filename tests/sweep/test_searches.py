"""Hydra's other sweepers: each trial is a run like any other, and what it returns is its held-out loss."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import yaml
from small import TINY

from bitnet import train

SMALL = [*TINY, "steps=3"]
with_optuna = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="needs the extra `search`")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def losses() -> dict[float, float | None]:
    """Held-out loss by peak learning rate, from the runs' records."""
    found = [p.parent for p in Path("outputs").glob("*/*/run.json")]
    peaks = [yaml.safe_load((f / "config.yaml").read_text())["lr"]["peak"] for f in found]
    finals = [json.loads((f / "run.json").read_text())["final"] for f in found]
    return {p: final.get("heldout_loss") for p, final in zip(peaks, finals, strict=True)}


def search(*arguments: str) -> dict:
    """Run optuna's sweeper with a fixed seed; what it found best."""
    assert train.main(["-m", "hydra/sweeper=optuna", "hydra.sweeper.sampler.seed=1", *arguments, *SMALL]) == 0
    return yaml.safe_load(Path("outputs/optimization_results.yaml").read_text())


@pytest.mark.parametrize("launcher", ["local", "serial"])
def test_hydras_own_sweeper_runs_every_combination(launcher):
    assert train.main(["-m", "hydra/sweeper=basic", f"launcher={launcher}", "lr.peak=0.001,0.01", *SMALL]) == 0
    assert losses().keys() == {0.001, 0.01} and None not in losses().values()


@with_optuna
def test_a_search_finds_the_run_with_the_lowest_heldout_loss():
    found = search("lr.peak=tag(log, interval(1e-4, 1e-2))", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2")
    assert len(losses()) == 4
    best = min(losses(), key=losses().get)
    assert found["best_params"] == {"lr.peak": best} and found["best_value"] == losses()[best]


@with_optuna
def test_a_diverged_trial_is_no_number_and_one_that_comes_again_is_no_new_run():
    several = ["hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=3"]
    found = search("lr.peak=choice(0.01, 1e38)", "hydra.sweeper.max_failure_rate=1", *several)
    assert losses()[1e38] is None and len(losses()) == 2
    assert found["best_params"] == {"lr.peak": 0.01} and found["best_value"] == losses()[0.01]

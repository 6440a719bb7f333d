"""What people type by the names of other tools, and what they are told."""

from __future__ import annotations

import sys

import pytest

from bitnet import train
from bitnet.cli.compose import compose_config, run_config
from bitnet.cli.overrides import config_dir, normalise, note_repeated_keys, with_current_names, with_multirun
from bitnet.common.errors import UserError

_WD = "no such key; use the group wd (wd=paper, wd=none, ...), or its values wd.stage1 and wd.stage2"
_DROPOUT = "no such key; there is no dropout; regularisation is set by wd=, smoothing= and regularizer="
MEANT = {
    "sweep=quickstart": "sweep=quickstart: a named sweep is asked for by sweeps=quickstart",
    "sweep=quickstrat": "sweep=quickstrat: a named sweep is asked for by sweeps=NAME; did you mean 'quickstart'?",
    "weight_decay=0.1": f"weight_decay: {_WD}",
    "optimizer.weight_decay=0.1": f"optimizer.weight_decay: {_WD}",
    "dropout=0.1": f"dropout: {_DROPOUT}",
    "model.dropout=0.1": f"model.dropout: {_DROPOUT}",
}


@pytest.mark.parametrize("typed", MEANT)
def test_names_of_other_tools_lead_to_those_of_this_one(typed, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["bitnet-train"])
    monkeypatch.chdir(tmp_path)
    assert train.main([typed]) == 2
    assert capsys.readouterr().err == f"error: {MEANT[typed]}\n"


def test_a_sweeper_that_is_not_installed_is_named_with_its_package(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["bitnet-train"])
    monkeypatch.chdir(tmp_path)
    assert train.main(["-m", "hydra/sweeper=nope"]) == 2
    assert "pip install 'bitnet-ablation[search]' installs optuna" in capsys.readouterr().err


def test_a_key_that_is_typed_again_with_another_value_is_said(capsys):
    note_repeated_keys(["wd=paper", "seed=1", "+wd=wd005", "seed=1", "hydra.mode=RUN", "hydra.mode=MULTIRUN"])
    assert capsys.readouterr().err == "note: wd is given 2 times; the last, wd=wd005, counts\n"


def test_no_sweep_can_be_said_by_either_key():
    assert normalise("sweep=null") == "sweep=null"
    assert normalise("sweeps=null") == "~sweeps"


@pytest.mark.parametrize(
    ("overrides", "added"),
    [
        (["sweeps=quickstart"], True),
        (["sweeps=null", "seed=1"], False),
        (["seed=1"], False),
        (["sweeps=quickstart", "hydra.mode=RUN"], False),
    ],
)
def test_a_named_sweep_is_several_runs_whatever_its_file_says(overrides, added):
    assert with_multirun(overrides) == overrides + ["hydra.mode=MULTIRUN"] * added


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("layout.norm_placement=bitlinear", "the group layout fills model: write model.norm_placement="),
        ("stream.order=random", "the group stream fills data: write data.order="),
        ("layout.norm_placment=block", "which has no such key either; did you mean 'model.norm_placement'?"),
    ],
)
def test_a_key_below_a_group_that_fills_another_part_says_where_it_lives(typed, said):
    with pytest.raises(UserError) as error:
        compose_config([typed])
    assert str(error.value).startswith(typed.partition("=")[0]) and said in str(error.value)


def test_a_former_name_of_a_sweep_still_works_and_says_the_new_one(capsys):
    assert with_current_names(["sweeps=p2_stage2_wd", "steps=3"]) == ["sweeps=priority2_stage2_wd", "steps=3"]
    assert "sweeps=p2_stage2_wd is now called sweeps=priority2_stage2_wd" in capsys.readouterr().err
    assert with_current_names(["sweeps=rootcause", "-m"]) == ["sweeps=rootcause", "-m"] and not capsys.readouterr().err


@pytest.mark.parametrize("typed", ["p1_weight_bounds", "'p1_weight_bounds'", "p1_weight_bounds.yaml"])
def test_every_command_knows_former_names_however_they_are_written(typed, capsys):
    with pytest.raises(UserError, match="no such option"):
        compose_config([f"sweeps={typed.replace('p1', 'p0')}"])
    assert not capsys.readouterr().err
    assert compose_config([f"sweeps={typed}"]).sweep.name == "priority1_weight_bounds"
    assert "is now called sweeps=priority1_weight_bounds" in capsys.readouterr().err


def test_a_sweep_in_the_user_s_own_folder_keeps_its_name(tmp_path, capsys):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "verify_p1.yaml").touch()
    assert config_dir(["-m", "--config-dir", str(tmp_path)]) == config_dir([f"--config-dir={tmp_path}"]) == tmp_path
    assert with_current_names(["sweeps=verify_p1", "sweeps=verify_p2"], tmp_path) == ["sweeps=verify_p1", "sweeps=verification2"]
    assert capsys.readouterr().err.count("is now called") == 1


def test_a_claim_that_is_written_once_for_several_levels_is_overridden_as_it_is_written():
    with pytest.raises(UserError) as error:
        compose_config(["sweeps=phase5_scaling", "sweep.claims.flat_at_the_boundary_256.bound=0.5"])
    assert str(error.value) == (
        "sweep.claims.flat_at_the_boundary_256: no such key; flat_at_the_boundary is written once for several levels (each); "
        "sweep.claims.flat_at_the_boundary.KEY=VALUE changes it at all of them"
    )
    composed = run_config(compose_config(["sweeps=phase5_scaling", "sweep.claims.flat_at_the_boundary.bound=0.5"]))
    bounds = {name: claim.bound for name, claim in composed.sweep.claims.items() if name.startswith("flat_at_the_boundary_")}
    assert len(bounds) == 4 and set(bounds.values()) == {0.5}

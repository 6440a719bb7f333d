"""Composing arms from a shared composition gives what Hydra gives."""

from __future__ import annotations

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from bitnet.cli.compose import Composer, group_choices, register_plugins, search_path, without_hydra
from bitnet.common.errors import UserError
from bitnet.common.paths import share

ARMS = [
    [],
    ["seed=3"],
    ["seed=4"],
    ["wd=none", "seed=3"],
    ["seed=5", "wd=wd005", "wd.stage2=0.07", "model='64'"],
    ["recipe=faq", "lr.peak=0.01", "out='a=b'"],
    ["sweeps=phase3_reduced_lr", "steps=9"],
    ["data=synthetic", "data.branching=2"],
]


@pytest.fixture
def composer():
    register_plugins()
    with initialize_config_dir(str(share() / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        yield Composer(loader, loader.load_configuration("config", search_path([]), run_mode=RunMode.MULTIRUN))


def test_an_arm_is_what_hydra_composes(composer):
    for overrides in ARMS:
        whole = composer.loader.load_sweep_config(composer.master, overrides)
        expected = OmegaConf.to_container(without_hydra(whole), resolve=True)
        values, options = composer.arm(overrides)
        assert values == expected
        assert options == group_choices(whole.hydra)


def test_arms_that_differ_in_values_share_a_composition_and_nothing_else(composer):
    first, second = (composer.arm([f"seed={n}"])[0] for n in (3, 4))
    assert (first["seed"], second["seed"], len(composer.composed)) == (3, 4, 1)


def test_an_arm_leaves_no_value_behind(composer):
    plain = composer.arm([])[0]
    composer.arm(["out=elsewhere", "lr.peak=7", "probe={contexts: 3}", "sweep={name: x, question: y}"])
    with pytest.raises(UserError):
        composer.arm(["seed=7", "data.cache=${no.such.key}"])
    assert composer.arm([])[0] == plain


def test_an_unknown_value_is_refused_as_hydra_refuses_it(composer):
    with pytest.raises(HydraException, match="stepz"):
        composer.arm(["stepz=3"])

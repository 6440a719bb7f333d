"""The one expansion of a multirun: arms x grid x seeds of a named sweep, at a scale, times what the command line sweeps over.

`train`, `plan` and a sweep of sweeps all get their runs from `expand`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bitnet.cli.compose import Composer, group_choices, run_config
from bitnet.cli.hydra_errors import explain
from bitnet.cli.hydra_internals import grid
from bitnet.cli.overrides import normalise
from bitnet.common.console import say
from bitnet.common.errors import UserError
from bitnet.config.run import RunConfig, load_config
from bitnet.config.sweep import SweepConfig
from bitnet.sweep.arms import Arm, check_axes, concerns, expand_sweep
from bitnet.sweep.scale import base_overrides, scaled_arm, without_keys


@dataclass(frozen=True)
class ComposedArm:
    """An arm with the plain values that its overrides compose to, and which option each group has."""

    arm: Arm
    values: dict[str, Any]
    choices: dict[str, str]

    @functools.cached_property
    def config(self) -> RunConfig:
        """The typed configuration.

        Raises:
            UserError: when a value can't be used.
        """
        try:
            return load_config(self.values)
        except UserError as error:
            raise _named_after(self.arm, error) from None


def expand(loader: ConfigLoader, master: DictConfig, arguments: list[str]) -> tuple[RunConfig, list[ComposedArm]]:
    """Every run of the multirun that `master` is composed for, and the configuration of the sweep without its arms.

    Args:
        arguments: overrides of the command line, sweeps among them.
    Raises:
        UserError: when an arm can't be composed.
    """
    config = run_config(master)
    if config.resume is not None:
        raise UserError(f"resume={config.resume}: one run goes on, and this is a sweep; leave it out")
    composer = Composer(loader, master)
    params = master.hydra.sweeper.params or {}
    arms = expand_arms(composer.parser, config, group_choices(master.hydra), params, arguments)
    return config, [_composed(composer, arm) for arm in arms]


def _composed(composer: Composer, arm: Arm) -> ComposedArm:
    try:
        return ComposedArm(arm, *composer.arm(arm.overrides))
    except (UserError, HydraException, OmegaConfBaseException) as error:
        raise _named_after(arm, error) from error


def _named_after(arm: Arm, error: Exception) -> UserError:
    """What is wrong, with the arm of the sweep's file where it is that one's own override."""
    said = explain(error)
    return UserError(f"sweep.arms.{arm.name}: {said}") if arm.name and concerns(arm, str(said)) else said


def expand_arms(
    parser: OverridesParser, config: RunConfig, options: Mapping[str, str], params: Mapping[str, str], arguments: list[str]
) -> list[Arm]:
    """Every arm of a multirun: what the command line asks for times what the named sweep does, at the scale that is asked for.

    Args:
        parser: of Hydra's grammar, with its groups.
        config, options: of the sweep without its arms: its values, and what each group chose.
        params: Hydra's `sweeper.params`; axes like those of the command line.
        arguments: overrides of the command line, sweeps among them.
    Raises:
        UserError: when the sweep's file has another sweep's name.
    """
    written = [normalise(f"{k}={v}") for k, v in params.items()] + [normalise(a) for a in arguments]
    parsed = parser.parse_overrides(written)
    check_axes(parsed)
    product = grid(parsed)
    typed_keys = {o.get_key_element().lstrip("+~") for o in parsed}
    named, scale = config.sweep, config.scale
    if named is not None and "sweep.name" not in typed_keys and named.name != (file := _file_name(options, named)):
        raise UserError(f"sweeps={file}: its file says sweep.name={named.name}, another sweep's folder; write name: {file}")
    if named is None and len(product) == 1:
        say("note: -m, but nothing to sweep over: this is one run; KEY=A,B makes one of each value, sweeps=NAME those of a file")
    if scale is None:
        return [
            replace(a, overrides=(*fixed, *a.overrides)) for a in expand_sweep(named, typed_keys, parser) for fixed in product
        ]
    if named is not None and scale.seeds:
        named = named.model_copy(update={"seeds": scale.seeds})
    base = base_overrides(scale, config, options, typed_keys)
    scaled = [replace(a, overrides=scaled_arm(scale, a.overrides)) for a in expand_sweep(named, typed_keys, parser)]
    return [replace(a, overrides=(*fixed, *without_keys(base, a.overrides), *a.overrides)) for a in scaled for fixed in product]


def _file_name(options: Mapping[str, str], named: SweepConfig) -> str:
    """What the sweep's file is called; its name, where no file was chosen."""
    return PurePosixPath(options.get("sweeps", named.name)).name.removesuffix(".yaml")

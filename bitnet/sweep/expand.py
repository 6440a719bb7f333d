"""The one expansion of a multirun: arms x grid x seeds of a named sweep, at a scale, times what the command line sweeps over.

`train`, `plan` and a sweep of sweeps all get their runs from `expand`.
"""

from __future__ import annotations

import functools
import itertools
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from bitnet.cli.compose import Composer, group_choices, run_config
from bitnet.cli.hydra_internals import grid
from bitnet.cli.overrides import key_of, normalise
from bitnet.common.errors import UserError
from bitnet.config.run import RunConfig, load_config
from bitnet.config.sweep import SweepConfig
from bitnet.sweep.scale import base_overrides, scaled_arm, without_keys


@dataclass(frozen=True)
class Arm:
    """One run of a sweep: what to override, and the arm of the sweep file that it came from.

    `written`: the sweep file's own overrides, before any scale. Its claims name runs by them.
    """

    name: str | None
    overrides: tuple[str, ...]
    written: tuple[str, ...] = ()

    @property
    def written_values(self) -> dict[str, str]:
        """What the sweep's file wrote for the arm, by key."""
        return {key_of(o): o.partition("=")[2].strip("'\"") for o in self.written}


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
        return load_config(self.values)


def expand(loader: ConfigLoader, master: DictConfig, arguments: list[str]) -> tuple[RunConfig, list[ComposedArm]]:
    """Every run of the multirun that `master` is composed for, and the configuration of the sweep without its arms.

    Args:
        arguments: overrides of the command line, sweeps among them.
    Raises:
        UserError: when an arm can't be composed.
    """
    config = run_config(master)
    composer = Composer(loader, master)
    arms = expand_arms(loader, config, group_choices(master.hydra), master.hydra.sweeper.params or {}, arguments)
    return config, [ComposedArm(arm, *composer.arm(arm.overrides)) for arm in arms]


def expand_sweep(sweep: SweepConfig | None, typed_keys: set[str]) -> list[Arm]:
    """Every arm of a sweep, seeds outermost, so that one whole comparison is there early.

    Args:
        sweep: the named sweep, if there is one: its arms x grid x seeds.
        typed_keys: keys that the command line sets; it beats the file, in arms, grid and seeds alike.
    """
    named: Mapping[str, str] = {} if sweep is None else sweep.arms
    arms = [
        (name, tuple(o for o in map(normalise, shlex.split(text)) if key_of(o) not in typed_keys)) for name, text in named.items()
    ]
    grid = {} if sweep is None else {k: v for k, v in sweep.grid.items() if k not in typed_keys}
    seeds = [] if sweep is None or "seed" in typed_keys else sweep.seeds
    lists = [[normalise(f"{k}={v}") for v in values] for k, values in grid.items()]
    seed_overrides = [(f"seed={s}",) for s in seeds] or [()]
    return [
        Arm(name, (*arm, *rest, *seed), (*arm, *rest))
        for seed in seed_overrides
        for name, arm in arms or [(None, ())]
        for rest in itertools.product(*lists)
    ]


def expand_arms(
    loader: ConfigLoader, config: RunConfig, options: Mapping[str, str], params: Mapping[str, str], arguments: list[str]
) -> list[Arm]:
    """Every arm of a multirun: what the command line asks for times what the named sweep does, at the scale that is asked for.

    Args:
        config, options: of the sweep without its arms: its values, and what each group chose.
        params: Hydra's `sweeper.params`; axes like those of the command line.
        arguments: overrides of the command line, sweeps among them.
    Raises:
        UserError: when the sweep's file has another sweep's name.
    """
    written = [normalise(f"{k}={v}") for k, v in params.items()] + [normalise(a) for a in arguments]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(written)
    product = grid(parsed)
    typed_keys = {o.get_key_element().lstrip("+~") for o in parsed}
    named, scale = config.sweep, config.scale
    if named is not None and "sweep.name" not in typed_keys and named.name != (file := _file_name(options, named)):
        raise UserError(f"sweeps={file}: its file says sweep.name={named.name}, another sweep's folder; write name: {file}")
    if scale is None:
        return [replace(a, overrides=(*fixed, *a.overrides)) for a in expand_sweep(named, typed_keys) for fixed in product]
    if named is not None and scale.seeds:
        named = named.model_copy(update={"seeds": scale.seeds})
    base = base_overrides(scale, config, options, typed_keys)
    scaled = [replace(a, overrides=scaled_arm(scale, a.overrides)) for a in expand_sweep(named, typed_keys)]
    return [replace(a, overrides=(*fixed, *without_keys(base, a.overrides), *a.overrides)) for a in scaled for fixed in product]


def _file_name(options: Mapping[str, str], named: SweepConfig) -> str:
    """What the sweep's file is called; its name, where no file was chosen."""
    return PurePosixPath(options.get("sweeps", named.name)).name.removesuffix(".yaml")

"""What this project uses of Hydra's private interface, hydra-core 1.3: nothing else imports from `hydra._internal`.

A new version of Hydra is looked at here first.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode
from omegaconf import DictConfig, Node

__all__ = ["apply_overrides", "arguments_parser", "basic_sweeper", "compose_command", "flags_of", "grid", "node_at"]


def arguments_parser() -> argparse.ArgumentParser:
    """The parser of Hydra's own flags."""
    return get_args_parser()


def flags_of(parser: argparse.ArgumentParser) -> list[str]:
    """Every flag that a parser knows, as it is typed."""
    return list(parser._option_string_actions)


def node_at(config: DictConfig, key: str) -> Node | None:
    """What a configuration has at a key, interpolations not resolved; None where it has nothing there."""
    return config._get_node(key)


def apply_overrides(overrides: Sequence[Override], config: DictConfig) -> None:
    """Set plain values in a composed configuration, as Hydra does after it has composed the groups."""
    ConfigLoaderImpl._apply_overrides_to_config(list(overrides), config)


def basic_sweeper() -> type[Sweeper]:
    """Hydra's own sweeper. Looked up at each call: Hydra's scan for plugins executes its module anew."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    return BasicSweeper


def grid(overrides: Sequence[Override]) -> list[list[str]]:
    """Every combination of the values that overrides sweep over, each as a list of overrides."""
    (batch,) = basic_sweeper().split_arguments(list(overrides), max_batch_size=None)
    return batch


def compose_command(overrides: Sequence[str], multirun: bool) -> tuple[ConfigLoader, DictConfig, bool]:
    """What `hydra.main` would run for a command line: the loader, the configuration with Hydra's own part, whether it sweeps.

    To be called within `hydra.initialize_config_dir`.

    Args:
        multirun: whether the command line has `-m`; an override or a named sweep may ask for several runs as well.
    """
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None, "call it within initialize_config_dir"
    sweeping = multirun or hydra.get_mode("config", list(overrides)) == RunMode.MULTIRUN
    mode = RunMode.MULTIRUN if sweeping else RunMode.RUN
    return hydra.config_loader, hydra.compose_config("config", list(overrides), run_mode=mode), sweeping

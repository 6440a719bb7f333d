"""What this project uses of Hydra's private interface, hydra-core 1.3: nothing else imports from `hydra._internal`.

A new version of Hydra is looked at here first.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig

__all__ = ["Hydra", "apply_overrides", "arguments_parser", "basic_sweeper", "grid", "initialized"]


def arguments_parser() -> argparse.ArgumentParser:
    """The parser of Hydra's own flags."""
    return get_args_parser()


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


def initialized() -> Hydra:
    """The instance that `hydra.initialize_config_dir` has set up."""
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None, "call it within initialize_config_dir"
    return hydra

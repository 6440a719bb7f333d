"""Hydra's view of the project's sweeper; the work is done in `bitnet.sweep.controller`.

Hydra accepts plugins only from the namespace package `hydra_plugins`; `bitnet.train` puts this folder's parent on the path.
"""

# No `from __future__ import annotations` in this file: Hydra's scan executes plugins without entering them into
# sys.modules, where a dataclass whose annotations are strings looks its own module up, and fails.

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from bitnet.cli.hydra_internals import basic_sweeper


@dataclass
class ArmsSweeperConf:
    """`params`: axes as in Hydra's basic sweeper, `key: a,b,c`. The arms of a named sweep stand in its `sweep` section."""

    _target_: str = "hydra_plugins.bitnet_sweeper.ArmsSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = field(default_factory=dict)


ConfigStore.instance().store(group="hydra/sweeper", name="arms", node=ArmsSweeperConf, provider="bitnet")


class ArmsSweeper(basic_sweeper()):
    """Composes and validates every arm, freezes each into its run folder, then launches those that are not finished."""

    def sweep(self, arguments: list[str]) -> Any:
        from bitnet.cli import compose
        from bitnet.sweep import controller, sequence

        loader = self.hydra_context.config_loader
        compose.refuse_folders_of_hydra(self.config.hydra)
        several, owner = sequence.sweeps_in_turn(self.config, arguments)
        if several:
            sequence.expand_each(loader, self.config, several, owner)  # refuses what can't be run, before the first starts
            return sequence.run_in_sequence(several)
        return controller.run_sweep(loader, self.config, self.launcher, arguments)

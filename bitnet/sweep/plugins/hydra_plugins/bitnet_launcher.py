"""Hydra's view of the project's launcher for one machine; the work is done in `bitnet.launch.local`."""

# No `from __future__ import annotations` in this file: Hydra's scan executes plugins without entering them into
# sys.modules, where a dataclass whose annotations are strings looks its own module up, and fails.

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import II, DictConfig


@dataclass
class LocalLauncherConf:
    """`jobs` at once (null: as many as fit), `jobs_per_gpu` of them on a GPU; `stalled_minutes`: see `local.run_all`. All as in
    `launcher=local`.

    They stand here and not in conf/launcher/local.yaml, whose keys another launcher that is chosen beside it would not know.
    """

    _target_: str = "hydra_plugins.bitnet_launcher.LocalLauncher"
    jobs: int | None = II("launcher.jobs")
    jobs_per_gpu: int = II("launcher.jobs_per_gpu")
    stalled_minutes: float | None = II("launcher.stalled_minutes")


ConfigStore.instance().store(group="hydra/launcher", name="bitnet_local", node=LocalLauncherConf, provider="bitnet")


class LocalLauncher(Launcher):
    """A process for each job, as many at once as the machine has room for."""

    def __init__(self, **parameters: float | None) -> None:
        self.parameters = parameters

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from bitnet.sweep import controller

        return controller.launch_local(self.hydra_context.config_loader, self.config, job_overrides, self.parameters)

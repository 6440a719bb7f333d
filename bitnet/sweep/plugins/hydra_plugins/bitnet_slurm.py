"""Hydra's view of the project's SLURM launcher; the work is done in `bitnet.sweep.controller` and `bitnet.launch.slurm`.

It is hydra-submitit-launcher's, with all its parameters, but for what is submitted and how it is waited for: the stock one
hands over a whole Hydra job, forgets job ids, and loses every result when one job is killed.
"""

# No `from __future__ import annotations` in this file: Hydra's scan executes plugins without entering them into
# sys.modules, where a dataclass whose annotations are strings looks its own module up, and fails.

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra_plugins.hydra_submitit_launcher import submitit_launcher
from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf


@dataclass
class SlurmLauncherConf(SlurmQueueConf):
    """hydra-submitit-launcher's parameters; `wait` for the runs to end; `max_array_size` null: the cluster's own."""

    _target_: str = "hydra_plugins.bitnet_slurm.SlurmLauncher"
    mem_gb: Optional[float] = None  # noqa: UP045 (OmegaConf reads the parent's fields in this form)
    max_array_size: Optional[int] = None  # noqa: UP045
    wait: bool = True


ConfigStore.instance().store(group="hydra/launcher", name="bitnet_slurm", node=SlurmLauncherConf, provider="bitnet")


class SlurmLauncher(submitit_launcher.SlurmLauncher):
    """A SLURM job for each frozen run."""

    def setup(self, **context: Any) -> None:
        from bitnet.common.errors import UserError

        if shutil.which("sbatch") is None or shutil.which("squeue") is None:
            raise UserError("launcher=slurm: sbatch and squeue are not on PATH here; launch on a machine of the cluster")
        super().setup(**context)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from bitnet.sweep import controller

        return controller.launch_on_slurm(self.hydra_context.config_loader, self.config, job_overrides, self.params)

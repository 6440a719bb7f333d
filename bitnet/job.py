"""SLURM jobs that were submitted before this package had folders are pickled with this module's name; kept for one release."""

from __future__ import annotations

from bitnet.launch.slurm_job import Task

__all__ = ["Task"]

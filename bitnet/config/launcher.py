"""How runs are launched: local processes, one after another, or SLURM jobs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bitnet.config.base import ConfigModel, Count, Positive, Whole


class LocalLauncher(ConfigModel):
    """A process for each run on this machine: `jobs` at once (null: as many as fit), `jobs_per_gpu` of them on a GPU.

    `stalled_minutes` at work without a heartbeat and a run is killed, and has failed (null: never); a step, a part of an
    evaluation and a save have to be shorter. `retry`: whether a sweep that is launched again repeats its failed runs.
    """

    kind: Literal["local"]
    jobs: Count | None = None
    jobs_per_gpu: Count = 1
    stalled_minutes: Positive | None = 30
    retry: Literal[0, 1] = 1


class SerialLauncher(ConfigModel):
    """One run after another in the launching process."""

    kind: Literal["serial"]
    retry: Literal[0, 1] = 1


class SlurmLauncher(ConfigModel):
    """A job for each run on a SLURM cluster; what each knob asks for stands in conf/launcher/slurm.yaml.

    `cpus` are the run's threads. `signal_seconds` before `time_minutes` are over the run saves and is requeued, at most
    `requeues` times. `array_parallelism` runs go at once, in arrays of at most `max_array_size` (null: the cluster's own limit).
    `wait`: whether the launching command stays until all is over. `extra` and `setup` go into the batch script as they are.
    """

    kind: Literal["slurm"]
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: Count | None = None
    cpus: Count = 4
    memory_gb: Positive | None = None
    time_minutes: Count = 240
    signal_seconds: Count = 120
    requeues: Whole = 100
    array_parallelism: Count = 256
    max_array_size: Count | None = None
    wait: bool = True
    extra: dict[str, str | int | float | bool] = {}
    setup: list[str] = []
    retry: Literal[0, 1] = 1

    @model_validator(mode="after")
    def _signal_within_the_time(self) -> SlurmLauncher:
        if self.signal_seconds >= 60 * self.time_minutes:
            raise ValueError(
                f"launcher.signal_seconds={self.signal_seconds} is not shorter than launcher.time_minutes={self.time_minutes}; "
                "use a shorter warning or a longer limit"
            )
        return self


LauncherConfig = Annotated[LocalLauncher | SerialLauncher | SlurmLauncher, Field(discriminator="kind")]

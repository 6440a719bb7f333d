"""How runs are launched, and what a named sweep and its scale are, as typed, frozen parts of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from bitnet.claims import AnyClaim, explains_itself
from bitnet.errors import nearest
from bitnet.parts import Count, Part, Positive, Seed, Whole, no_bool


class LocalLauncher(Part):
    """A process for each run on this machine: `jobs` at once (null: as many as fit), `jobs_per_gpu` of them on a GPU.

    `retry`: whether a sweep that is launched again repeats its failed runs.
    """

    kind: Literal["local"]
    jobs: Count | None = None
    jobs_per_gpu: Count = 1
    retry: Literal[0, 1] = 1


class SerialLauncher(Part):
    """One run after another in the launching process."""

    kind: Literal["serial"]
    retry: Literal[0, 1] = 1


class SlurmLauncher(Part):
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
                f"launcher.signal_seconds={self.signal_seconds} leaves nothing of launcher.time_minutes={self.time_minutes}; "
                "name a shorter warning or a longer time"
            )
        return self


LauncherConfig = Annotated[LocalLauncher | SerialLauncher | SlurmLauncher, Field(discriminator="kind")]


# The sources of bitnet/published.csv, here since reading a table takes pandas, which a configuration does without.
PublishedSource = Literal["phase1", "phase3", "phase4", "scaling", "track", "verification_example"]


class SweepConfig(Part):
    """A named sweep: its question, its arms (overrides, as typed), further axes, seeds, the published rows it answers to, and
    what it claims (`claims.py`), by name. `includes`: other sweeps, run one after another in place of arms of its own.
    """

    name: str
    question: str
    source: str = ""
    published: list[PublishedSource] = []
    arms: dict[str, str] = {}
    grid: dict[str, list[str | int | float | bool]] = {}
    seeds: list[Seed] = []
    claims: dict[str, AnyClaim] = {}
    includes: list[str] = []

    @model_validator(mode="after")
    def _claims_name_what_is_there(self) -> SweepConfig:
        for name, claim in self.claims.items():
            for side, selector in claim.selectors().items():
                arm = selector if isinstance(selector, str) else selector.get("arm")
                if arm is not None and arm not in self.arms:
                    hint = nearest(arm, list(self.arms))
                    raise ValueError(f"sweep.claims.{name}.{side}={arm}: no such arm of this sweep{hint}")
            chosen = claim.selectors()
            for one, other in (("arm", "against"), ("other_arm", "other_against")):
                if other in chosen and chosen[one] == chosen[other]:
                    raise ValueError(f"sweep.claims.{name}.{other}={chosen[other]}: the same runs as {one}; name others")
            unknown = [other for other in claim.explained_by if other not in self.claims]
            if unknown:
                hint = nearest(unknown[0], list(self.claims))
                raise ValueError(f"sweep.claims.{name}.explained_by={unknown[0]}: no such claim of this sweep{hint}")
        if (wrong := explains_itself(self.claims)) is not None:
            raise ValueError(wrong)
        return self


class ScaleConfig(Part):
    """How much of a named sweep is run: its lengths times `steps`, its model sizes by `sizes`, its seeds (empty: its own)."""

    name: str
    steps: Annotated[float, BeforeValidator(no_bool), Field(gt=0, le=1)] = 1.0
    sizes: dict[str, str] = {}
    seeds: list[Seed] = []

    def length(self, steps: int) -> int:
        """A number of steps at this scale; at least 1."""
        return max(1, round(self.steps * steps))

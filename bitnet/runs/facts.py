"""What the record of a run and its heartbeat may hold: the types and bounds that whoever reads them relies on.

Every key may be absent, and keys that are not named here are let through: other versions write others.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from bitnet.common.limits import MOST_COUNT, MOST_THREADS

# --------------------------------------------------------------------------------------------------------------- numbers
_Whole = Annotated[int, Field(ge=0, le=MOST_COUNT)]

_Amount = Annotated[float, Field(ge=0, le=MOST_COUNT, allow_inf_nan=False)]

_Seed = Annotated[int, Field(ge=0, lt=2**32)]

_Threads = Annotated[int, Field(gt=0, le=MOST_THREADS)]

_ProcessId = Annotated[int, Field(gt=0, lt=2**31)]


def _nameable(path: str) -> str:
    if not path or "\0" in path:
        raise ValueError("no file can be called that")
    return path


def _below_out(place: str) -> str:
    if place.count("/") != 1 or {"", ".", ".."} & set(place.split("/")):
        raise ValueError("a place as seen from out is needed: FOLDER/RUN")
    return place


_FilePath = Annotated[str, AfterValidator(_nameable)]

_Place = Annotated[_FilePath, AfterValidator(_below_out)]


class _Facts(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", frozen=True, protected_namespaces=())


# -------------------------------------------------------------------------------------------------------------- run.json
class _Beginning(_Facts):
    """Which run trained the first steps."""

    id: str | None = None
    step: _Whole


class _Branch(_Beginning):
    """Which run is to train the first steps."""

    from_: _Place = Field(alias="from")


class _Data(_Facts):
    name: str | None = None
    folder: _FilePath | None = None
    sha256: str | None = None
    train_tokens: _Whole | None = None
    heldout_tokens: _Whole | None = None
    vocab_size: _Whole | None = None
    ln_vocab: _Amount | None = None
    unigram_entropy: _Amount | None = None


class _Git(_Facts):
    commit: str | None = None
    dirty: bool | None = None


class _Session(_Facts):
    began: str | None = None
    after_step: _Whole = 0
    device: str | None = None
    threads: _Threads | None = None
    host: str | None = None
    of: str | None = None


class _Slurm(_Facts):
    name: str | None = None
    job: str | _Whole | None = None


class _Timing(_Facts):
    train_seconds: _Amount = 0.0
    eval_seconds: _Amount = 0.0
    steps_timed: _Whole = 0
    tokens_per_second: _Amount | None = None


class RunFacts(_Facts):
    """`run.json`; its version and its status are looked at where it is read."""

    reason: str | None = None
    step: _Whole = 0
    steps: _Whole | None = None
    created: str | None = None
    started: str | None = None
    finished: str | None = None
    id: str | None = None
    arm_id: str | None = None
    label: str | None = None
    arm: str | None = None
    seed: _Seed | None = None
    sweep: str | None = None
    scale: str | None = None
    published: list[str] | None = None
    overrides: list[str] | None = None
    choices: dict[str, str] = {}
    written: dict[str, str] | None = None
    command: str | None = None
    taken_from: str | None = None
    data: _Data = _Data()
    versions: dict[str, str] | None = None
    git: _Git | None = None
    pid: _ProcessId | None = None
    device: str | None = None
    threads: _Threads | None = None
    began_as: _Beginning | None = None
    branch: _Branch | None = None
    branch_at: list[_Whole] = []
    sessions: list[_Session] = []
    slurm: _Slurm | None = None
    parameters: dict[str, _Whole] | None = None
    heldout_text: dict[str, float | None] | None = None
    timing: _Timing = _Timing()
    final: dict[str, float] | None = None


# ------------------------------------------------------------------------------------------------------- .progress.json
class Beat(_Facts):
    """A heartbeat; a loss may be anything that floating point holds."""

    time: _Amount
    step: _Whole
    loss: float | None = None
    unique: _Amount | None = None
    tokens_per_second: _Amount | None = None
    left: _Amount | None = None


# ---------------------------------------------------------------------------------------------------------- samples.json
class _Texts(_Facts):
    prompt: str | None = None
    greedy: str | None = None
    sampled: str | None = None
    heldout: str | None = None


class Samples(_Facts):
    """Continuations of held-out prompts."""

    step: _Whole | None = None
    samples: list[_Texts] = []

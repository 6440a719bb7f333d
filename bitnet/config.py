"""The whole configuration as typed, frozen objects: every knob, its unit, its bounds, and what can't be combined.

Hydra composes YAML; `load` turns the result into a `RunConfig` once, at the door. From there on each function receives
the part that it needs. Nothing here imports torch, so that planning and reporting stay quick.
"""

from __future__ import annotations

import math
import os
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from bitnet.boundary import boundary_step
from bitnet.claims import AnyClaim
from bitnet.errors import UserError, nearest
from bitnet.invalid import sentence
from bitnet.parts import Count, Fraction, NonNegative, OpenFraction, Part, Positive, Seed, Whole, no_bool


def _auto_or_whole(value: Any) -> Any:
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and value % 1 == 0
    if not whole and value != "auto":
        raise ValueError("a whole number of steps from 0 on, or auto, is needed")
    return value


# Frozen into a run's folder, a path has to mean the same from every working directory.
FilePath = Annotated[str, Field(min_length=1), AfterValidator(lambda path: os.path.abspath(os.path.expanduser(path)))]
Warmup = Annotated[Literal["auto"] | int, BeforeValidator(_auto_or_whole)]

STUDY_WARMUP_STEPS = 375  # the study and the FAQ of "The Era of 1-bit LLMs" alike


# ---------------------------------------------------------------------------------------------------- model and maths
class ModelConfig(Part):
    """The transformer. `ffn_size` is the inner width; `fused_projections` gives q,k,v one weight scale and gate,up another.

    `norm_placement`: `block_and_bitlinear` (the study: before attention and FFN and again inside every BitLinear),
    `bitlinear` (the FAQ and BitNet 2B4T: one norm per BitLinear input, none before the blocks), `block` (pre-norm only).
    `output_scale` multiplies the logits.
    """

    hidden_size: Count
    num_layers: Count
    num_heads: Count
    num_kv_heads: Count
    ffn_size: Count
    gated_ffn: bool = True
    activation: Literal["relu2", "silu", "gelu"] = "relu2"
    norm_placement: Literal["block_and_bitlinear", "bitlinear", "block"] = "block_and_bitlinear"
    norm_eps: Positive = 1e-5
    fused_projections: bool = True
    tied_head: bool = False
    rope_theta: Positive = 10_000.0
    init: Literal["pytorch", "normal"] = "pytorch"
    init_std: Positive = 0.02
    output_scale: Positive = 1.0

    @model_validator(mode="after")
    def _heads_fit(self) -> ModelConfig:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"model.num_heads={self.num_heads} does not divide model.hidden_size={self.hidden_size}")
        if (self.hidden_size // self.num_heads) % 2:
            raise ValueError(
                f"model.hidden_size={self.hidden_size} over model.num_heads={self.num_heads} gives heads of odd width; "
                "rotary embedding needs an even one"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"model.num_kv_heads={self.num_kv_heads} does not divide model.num_heads={self.num_heads}")
        return self


class LRPart(Part):
    """What every schedule shares. `reference_hidden_size` scales the peak by sqrt(reference_hidden_size / hidden_size)."""

    peak: Positive
    warmup_steps: Warmup = "auto"
    reference_hidden_size: Count | None = None


class TwoStageLinear(LRPart):
    """The study's LR: warm-up from 0, linear to `mid_fraction` x peak at the boundary, then to `end_fraction` x peak at T."""

    kind: Literal["two_stage_linear"]
    boundary: OpenFraction = 0.5
    mid_fraction: Fraction = 2 / 3
    end_fraction: Fraction = 0.001


class FaqLinear(LRPart):
    """The FAQ's LR: a line to `end` for each stage, the second from `second_peak`, so that it drops at the boundary."""

    kind: Literal["faq"]
    second_peak: Positive
    end: NonNegative
    boundary: OpenFraction = 0.5


class CosineLR(LRPart):
    """Warm-up, then half a cosine from peak to `end_fraction` x peak."""

    kind: Literal["cosine"]
    end_fraction: Fraction = 0.1


class ConstantLR(LRPart):
    """Warm-up, then the peak."""

    kind: Literal["constant"]


LRConfig = Annotated[TwoStageLinear | FaqLinear | CosineLR | ConstantLR, Field(discriminator="kind")]


class TwoStageDecay(Part):
    """`stage1` before the boundary (a fraction of `steps`), `stage2` from it on.

    `first_step`: what the optimizer was built with; the first update uses it when `schedule_lag` is 1 (null: `stage1`).
    """

    kind: Literal["two_stage"]
    stage1: NonNegative
    stage2: NonNegative
    boundary: OpenFraction = 0.5
    first_step: NonNegative | None = None


class CosineDecay(Part):
    """Half a cosine from 0 up to `peak` at the boundary, 0 from it on (BitNet b1.58 2B4T, arXiv 2504.12285)."""

    kind: Literal["cosine"]
    peak: NonNegative
    boundary: OpenFraction = 0.5
    first_step: NonNegative | None = None


WDConfig = Annotated[TwoStageDecay | CosineDecay, Field(discriminator="kind")]


class ClipConfig(Part):
    """Largest gradient norm, before any L2 term is added; null: no clipping."""

    max_norm: Positive | None


class SmoothingConfig(Part):
    """Label smoothing. `study`: the target gets 1 - eps, every other token eps/V; `standard`: the target gets eps/V more."""

    epsilon: Annotated[float, BeforeValidator(no_bool), Field(ge=0, lt=1)]
    form: Literal["study", "standard"] = "study"


class OptimizerConfig(Part):
    """`adam_l2` adds weight_decay x w to the gradient (coupled); `adamw` shrinks w by lr x weight_decay (decoupled).

    `reset_at`: the optimizer forgets its running means where stage 2 would begin at this fraction of the run (null: never).
    """

    kind: Literal["adam_l2", "adamw"]
    betas: tuple[OpenFraction, OpenFraction] = (0.9, 0.95)
    eps: Positive = 1e-8
    decay_scope: Literal["all", "matrices", "bitlinear"] = "all"
    reset_at: OpenFraction | None = None


class QuantConfig(Part):
    """What a BitLinear does to its weights (per tensor) and to its input (per token)."""

    weights: Literal["ternary", "int8", "bf16", "float"]
    activations: Literal["int8", "bf16", "float"]


class RegularizerConfig(Part):
    """An addition to the loss, `weight` times its value. `memory` (coverage only): share of the running mean kept a step."""

    kind: Literal["none", "entropy", "token_frequency", "diversity", "coverage", "z_loss"]
    weight: NonNegative = 0.0
    memory: OpenFraction = 0.99


# --------------------------------------------------------------------------------------------------------------- data
class DataPart(Part):
    """What every source shares.

    `encode`: `lines` (non-empty lines one by one, the study's) or `documents` (whole documents, one end mark between).
    `order`: `sequential` (the study's) or `random` (every window once a pass, shuffled by seed).
    `at_end`: `stop` the run when the pass ends (the study's), or `repeat`.
    """

    encode: Literal["lines", "documents"] = "lines"
    order: Literal["sequential", "random"] = "sequential"
    at_end: Literal["stop", "repeat"] = "stop"
    cache: FilePath


class PydocsData(DataPart):
    """Docstrings and documentation topics of the standard library and of the installed dependencies, up to `max_bytes`."""

    source: Literal["pydocs"]
    max_bytes: Count = 20_000_000
    heldout_fraction: OpenFraction = 0.05


class HubData(DataPart):
    """A text dataset of the Hugging Face hub, by `datasets.load_dataset(dataset, subset)`."""

    source: Literal["hub"]
    dataset: str
    subset: str | None = None
    train_split: str = "train"
    heldout_split: str = "validation"
    column: str = "text"


class TextData(DataPart):
    """The user's own UTF-8 files or folders of `*.txt`/`*.md`. Without `heldout_paths`, `heldout_fraction` of it is held out."""

    source: Literal["text"]
    paths: list[FilePath] = []
    heldout_paths: list[FilePath] = []
    heldout_fraction: OpenFraction = 0.05


class SyntheticData(DataPart):
    """A token chain in which each token has `branching` equally likely successors: entropy ln(branching), unigrams uniform."""

    source: Literal["synthetic"]
    vocab_size: Annotated[Count, Field(ge=2)]
    tokens: Count
    heldout_tokens: Count
    branching: Count


DataConfig = Annotated[PydocsData | HubData | TextData | SyntheticData, Field(discriminator="source")]


class GPT2Tokenizer(Part):
    """The GPT-2 byte-level BPE from a local folder (`path`) or, without one, from the hub."""

    kind: Literal["gpt2"]
    path: FilePath | None = None


class BPETokenizer(Part):
    """A byte-level BPE trained on the training text."""

    kind: Literal["bpe"]
    vocab_size: Annotated[Count, Field(ge=257)] = 8192


class NoTokenizer(Part):
    """For sources that make tokens themselves."""

    kind: Literal["none"]


TokenizerConfig = Annotated[GPT2Tokenizer | BPETokenizer | NoTokenizer, Field(discriminator="kind")]


# ---------------------------------------------------------------------------------------------------------- the run
class ProbeConfig(Part):
    """What an evaluation looks at.

    `metric`: which count is UniquePredictions: `random_contexts` (the study's metric A) or `first_batch` (its metric B).
    `contexts` x `context_length`: uniformly random token ids, drawn from the seed; `redraw`: fresh ones each time.
    `heldout_sequences`: sequences of `seq_len` held-out tokens.
    `many_contexts`: the metric again over up to so many contexts (of 20, 200, 2000), random ones and held-out text.
    `prompts` held-out prompts of `seq_len` tokens are continued by `new_tokens`, greedily and sampled (0 prompts: not at all).
    """

    metric: Literal["random_contexts", "first_batch"] = "random_contexts"
    contexts: Count = 20
    context_length: Count = 8
    redraw: bool = False
    heldout_sequences: Count = 32
    many_contexts: Literal[0, 20, 200, 2000] = 200
    prompts: Whole = 8
    new_tokens: Count = 32


class CheckpointConfig(Part):
    """Save every `every` steps (and at the end, and when stopped); keep the newest `keep`.

    `branch`: whether a run of a sweep goes on from another one that trains the same until their schedules part.
    """

    every: Count = 1000
    keep: Count = 2
    branch: bool = True


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


class SweepConfig(Part):
    """A named sweep: its question, its arms (overrides, as typed), further axes, seeds, the published rows it answers to, and
    what it claims (`claims.py`), by name. `includes`: other sweeps, run one after another in place of arms of its own.
    """

    name: str
    question: str
    source: str = ""
    published: list[str] = []
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
            unknown = [other for other in claim.explained_by if other not in self.claims]
            if unknown:
                hint = nearest(unknown[0], list(self.claims))
                raise ValueError(f"sweep.claims.{name}.explained_by={unknown[0]}: no such claim of this sweep{hint}")
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


class RunConfig(Part):
    """Everything that one run needs. A step is an optimizer step; `batch_size` is in sequences, `seq_len` in tokens."""

    steps: Count
    batch_size: Count
    seq_len: Count
    seed: Seed
    eval_every: Count
    schedule_lag: Annotated[Literal[0, 1], BeforeValidator(no_bool)]
    precision: Literal["fp32", "bf16"]
    device: str
    threads: Count | None
    out: FilePath
    overwrite: bool
    resume: str | None
    model: ModelConfig
    lr: LRConfig
    wd: WDConfig
    clip: ClipConfig
    smoothing: SmoothingConfig
    optimizer: OptimizerConfig
    quant: QuantConfig
    regularizer: RegularizerConfig
    data: DataConfig
    tokenizer: TokenizerConfig
    probe: ProbeConfig
    checkpoint: CheckpointConfig
    launcher: LauncherConfig
    sweep: SweepConfig | None = None
    scale: ScaleConfig | None = None

    @property
    def scale_name(self) -> str | None:
        """What the scale is called, None without one."""
        return None if self.scale is None else self.scale.name

    @model_validator(mode="after")
    def _parts_fit(self) -> RunConfig:
        warmup = self.lr.warmup_steps
        if isinstance(warmup, int):
            if warmup >= self.steps:
                raise ValueError(f"lr.warmup_steps={warmup} is not shorter than the run (steps={self.steps})")
            if isinstance(self.lr, TwoStageLinear | FaqLinear) and warmup > boundary_step(self.lr.boundary, self.steps):
                turn = f"lr.boundary={self.lr.boundary} of steps={self.steps}"
                raise ValueError(f"lr.warmup_steps={warmup} ends after the boundary, {turn}")
        if (self.data.source == "synthetic") != (self.tokenizer.kind == "none"):
            together = "synthetic tokens need tokenizer=none, text needs gpt2 or bpe"
            raise ValueError(f"tokenizer={self.tokenizer.kind} does not go with data={self.data.source}: {together}")
        return self


def auto_warmup_steps(steps: int) -> int:
    """375 steps, or 3.75 % of the run where 375 would not fit into its first half."""
    return STUDY_WARMUP_STEPS if steps >= 2 * STUDY_WARMUP_STEPS else math.floor(0.0375 * steps)


def load(values: dict[str, Any]) -> RunConfig:
    """The typed configuration, with `lr.warmup_steps=auto` resolved; an explicit number is never changed.

    Args:
        values: the composed configuration as plain containers, interpolations resolved.
    Raises:
        UserError: naming the first offending key, its value, what is allowed and the nearest name.
    """
    try:
        config = RunConfig.model_validate(values)
        if config.lr.warmup_steps == "auto":
            lr = values["lr"] | {"warmup_steps": auto_warmup_steps(config.steps)}
            config = RunConfig.model_validate(values | {"lr": lr})
        return config
    except ValidationError as error:
        raise UserError(sentence(error.errors()[0], values, knobs)) from None


def knobs(prefix: str = "") -> set[str]:
    """Names of the keys below the dotted `prefix` ('' for the top level), over every variant of that part."""
    nodes: list[Any] = [RunConfig]
    for name in filter(None, prefix.split(".")):
        nodes = [m for n in nodes if name in n.model_fields for m in _models_in(n.model_fields[name].annotation)]
    return {field for n in nodes for field in n.model_fields}


def _models_in(annotation: Any) -> list[type[Part]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, Part) else []
    return [m for a in getattr(annotation, "__args__", ()) for m in _models_in(a)]

"""The whole configuration as typed, frozen objects: every knob, its unit, its bounds, and what can't be combined.

Hydra composes YAML; `load_config` turns the result into a `RunConfig` once, at the door. From there on each function receives
the part that it needs. Nothing here imports torch, so that planning and reporting stay quick.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, get_origin

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from bitnet.common.errors import UserError
from bitnet.common.limits import MOST_THREADS
from bitnet.config.base import (
    ConfigModel,
    Count,
    FilePath,
    Fraction,
    NonNegative,
    OpenFraction,
    Positive,
    Seed,
    Whole,
    boundary_step,
    refuse_bool,
)
from bitnet.config.data import DataConfig, TokenizerConfig
from bitnet.config.each import expand_each
from bitnet.config.launcher import LauncherConfig
from bitnet.config.messages import error_sentence, misfit
from bitnet.config.sweep import ScaleConfig, SweepConfig, judged_apart


def _auto_or_whole(value: Any) -> Any:
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and value % 1 == 0
    if not whole and value != "auto":
        raise ValueError("a whole number of steps from 0 on, or auto, is needed")
    return value


Warmup = Annotated[Literal["auto"] | int, BeforeValidator(_auto_or_whole)]

STUDY_WARMUP_STEPS = 375  # the study and the FAQ of "The Era of 1-bit LLMs" alike


# ---------------------------------------------------------------------------------------------------- model and maths
class ModelConfig(ConfigModel):
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


class LRBase(ConfigModel):
    """What every schedule shares. `reference_hidden_size` scales the peak by sqrt(reference_hidden_size / hidden_size)."""

    peak: Positive
    warmup_steps: Warmup = "auto"
    reference_hidden_size: Count | None = None


class TwoStageLinear(LRBase):
    """The study's LR: warm-up from 0, linear to `mid_fraction` x peak at the boundary, then to `end_fraction` x peak at T."""

    kind: Literal["two_stage_linear"]
    boundary: OpenFraction = 0.5
    mid_fraction: Fraction = 2 / 3
    end_fraction: Fraction = 0.001


class FaqLinear(LRBase):
    """The FAQ's LR: a line to `end` for each stage, the second from `second_peak`, so that it drops at the boundary."""

    kind: Literal["faq"]
    second_peak: Positive
    end: NonNegative
    boundary: OpenFraction = 0.5


class CosineLR(LRBase):
    """Warm-up, then half a cosine from peak to `end_fraction` x peak."""

    kind: Literal["cosine"]
    end_fraction: Fraction = 0.1


class ConstantLR(LRBase):
    """Warm-up, then the peak."""

    kind: Literal["constant"]


LRConfig = Annotated[TwoStageLinear | FaqLinear | CosineLR | ConstantLR, Field(discriminator="kind")]


class TwoStageDecay(ConfigModel):
    """`stage1` before the boundary (a fraction of `steps`), `stage2` from it on.

    `first_step`: what the optimizer was built with; the first update uses it when `schedule_lag` is 1 (null: `stage1`).
    """

    kind: Literal["two_stage"]
    stage1: NonNegative
    stage2: NonNegative
    boundary: OpenFraction = 0.5
    first_step: NonNegative | None = None


class CosineDecay(ConfigModel):
    """Half a cosine from 0 up to `peak` at the boundary, 0 from it on (BitNet b1.58 2B4T, arXiv 2504.12285)."""

    kind: Literal["cosine"]
    peak: NonNegative
    boundary: OpenFraction = 0.5
    first_step: NonNegative | None = None


WDConfig = Annotated[TwoStageDecay | CosineDecay, Field(discriminator="kind")]


class ClipConfig(ConfigModel):
    """Largest gradient norm, before any L2 term is added; null: no clipping."""

    max_norm: Positive | None


class SmoothingConfig(ConfigModel):
    """Label smoothing. `study`: the target gets 1 - eps, every other token eps/V; `standard`: the target gets eps/V more."""

    epsilon: Annotated[float, BeforeValidator(refuse_bool), Field(ge=0, lt=1)]
    form: Literal["study", "standard"] = "study"


class OptimizerConfig(ConfigModel):
    """`adam_l2` adds weight_decay x w to the gradient (coupled); `adamw` shrinks w by lr x weight_decay (decoupled).

    `reset_at`: the optimizer forgets its running means where stage 2 would begin at this fraction of the run (null: never).
    """

    kind: Literal["adam_l2", "adamw"]
    betas: tuple[OpenFraction, OpenFraction] = (0.9, 0.95)
    eps: Positive = 1e-8
    decay_scope: Literal["all", "matrices", "bitlinear"] = "all"
    reset_at: OpenFraction | None = None


class QuantConfig(ConfigModel):
    """What a BitLinear does to its weights (per tensor) and to its input (per token)."""

    weights: Literal["ternary", "int8", "bf16", "float"]
    activations: Literal["int8", "bf16", "float"]


class RegularizerConfig(ConfigModel):
    """An addition to the loss, `weight` times its value. `memory` (coverage only): share of the running mean kept a step."""

    kind: Literal["none", "entropy", "token_frequency", "diversity", "coverage", "z_loss"]
    weight: NonNegative = 0.0
    memory: OpenFraction = 0.99


# ---------------------------------------------------------------------------------------------------------- the run
class ProbeConfig(ConfigModel):
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


class CheckpointConfig(ConfigModel):
    """Save every `every` steps (and at the end, and when stopped); keep the newest `keep`.

    `branch`: whether a run of a sweep goes on from another one that trains the same until their schedules part; that one keeps
    its checkpoint of that step until the sweep is over. `on_mismatch`: whether a run that was begun with another version of
    torch, numpy or this package, on another kind of device, or with other threads goes on, which is noted, or is refused.
    """

    every: Count = 1000
    keep: Count = 2
    branch: bool = True
    on_mismatch: Literal["continue", "refuse"] = "continue"


class RunConfig(ConfigModel):
    """Everything that one run needs. A step is an optimizer step; `batch_size` is in sequences, `seq_len` in tokens."""

    steps: Count
    batch_size: Count
    seq_len: Count
    seed: Seed
    eval_every: Count
    schedule_lag: Annotated[Literal[0, 1], BeforeValidator(refuse_bool)]
    precision: Literal["fp32", "bf16"]
    device: str
    threads: Annotated[Count, Field(le=MOST_THREADS)] | None
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
    def sweep_name(self) -> str | None:
        """The named sweep that the run belongs to, None for a run of no sweep."""
        return None if self.sweep is None else self.sweep.name

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


def load_config(values: dict[str, Any]) -> RunConfig:
    """The typed configuration, with `lr.warmup_steps=auto` resolved; an explicit number is never changed.

    Args:
        values: the composed configuration as plain containers, interpolations resolved.
    Raises:
        UserError: naming the first offending key, its value, what is allowed and the nearest name.
    """
    sweep = values.get("sweep")
    if isinstance(sweep, dict) and isinstance(sweep.get("claims"), dict):
        values = values | {"sweep": sweep | {"claims": expand_each(sweep["claims"])}}
    try:
        config = RunConfig.model_validate(values)
        if config.lr.warmup_steps == "auto":
            lr = values["lr"] | {"warmup_steps": auto_warmup_steps(config.steps)}
            config = RunConfig.model_validate(values | {"lr": lr})
        return config
    except ValidationError as error:
        # a misspelt key is both unknown and missing: the one that was written says more
        first = min(error.errors(), key=lambda e: e["type"] == "missing")
        raise UserError(error_sentence(first, values, known_keys)) from None


def misfit_of(values: dict[str, Any]) -> str | None:
    """What is wrong with the configuration of a run that was begun by a version of this package, None when all is well.

    What its sweep claims is looked at where claims are judged.
    """
    sweep = values.get("sweep")
    known = values | {"sweep": judged_apart(sweep)} if isinstance(sweep, dict) else values
    return misfit(RunConfig, known, known_keys)


def known_keys(prefix: str = "") -> set[str]:
    """Names of the keys below the dotted `prefix` ('' for the top level), over every variant of that part."""
    nodes: list[Any] = [RunConfig]
    within_mapping = False  # of parts by names of the user's own, as the claims of a sweep
    for name in filter(None, prefix.split(".")):
        if within_mapping:
            within_mapping = False
            continue
        found = [n.model_fields[name].annotation for n in nodes if name in n.model_fields]
        nodes = [m for annotation in found for m in _models_in(annotation)]
        within_mapping = any(get_origin(annotation) is dict for annotation in found)
    return {field for n in nodes for field in n.model_fields}


def _models_in(annotation: Any) -> list[type[ConfigModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, ConfigModel) else []
    return [m for a in getattr(annotation, "__args__", ()) for m in _models_in(a)]

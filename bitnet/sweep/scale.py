"""One knob for the size of an investigation: what `scale=ci|laptop|gpu|full` makes of a sweep that is written at full size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bitnet.cli.overrides import key_of, normalise
from bitnet.cli.quoting import unquote
from bitnet.config.run import RunConfig
from bitnet.config.sweep import ScaleConfig

_LENGTHS = ("steps", "eval_every")


def scaled_arm(scale: ScaleConfig, overrides: Iterable[str]) -> tuple[str, ...]:
    """An arm's overrides with its size and its lengths at the scale; what the scale does not speak of stays."""
    return tuple(_scaled(scale, o) for o in overrides)


def _scaled(scale: ScaleConfig, override: str) -> str:
    key, _, value = override.partition("=")
    value = unquote(value)
    if key == "model" and value in scale.sizes:
        return normalise(f"model={scale.sizes[value]}")
    if key == "lr.reference_hidden_size" and scale.sizes.get(value, "").isdigit():  # a size is called after its width
        return f"{key}={scale.sizes[value]}"
    if key in _LENGTHS and value.isdigit():
        return f"{key}={scale.length(int(value))}"
    return override


def base_overrides(scale: ScaleConfig, config: RunConfig, choices: Mapping[str, str], typed_keys: set[str]) -> list[str]:
    """What the scale makes of the sweep's own settings, those aside that the command line sets."""
    own = {"model": choices.get("model", ""), "steps": str(config.steps), "eval_every": str(config.eval_every)}
    changed = [(f"{k}={v}", _scaled(scale, f"{k}={v}")) for k, v in own.items() if k not in typed_keys]
    return [after for before, after in changed if after != before]


def without_keys(overrides: Sequence[str], arm: Sequence[str]) -> list[str]:
    """Those of `overrides` whose key the arm does not set itself."""
    taken = {key_of(o) for o in arm}
    return [o for o in overrides if key_of(o) not in taken]

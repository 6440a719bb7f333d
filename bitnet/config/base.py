"""What every part of the configuration is built from: the strict base class, numbers with their bounds, stage 2's first step."""

from __future__ import annotations

import math
import os
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from bitnet.common.limits import MOST_COUNT


def refuse_bool(value: Any) -> Any:
    """Refuse a truth value where a number is needed: YAML's `yes` is not 1."""
    if isinstance(value, bool):
        raise ValueError("a number is needed, not a truth value")
    return value


Count = Annotated[int, BeforeValidator(refuse_bool), Field(gt=0, le=MOST_COUNT)]

Whole = Annotated[int, BeforeValidator(refuse_bool), Field(ge=0, le=MOST_COUNT)]

Number = Annotated[float, BeforeValidator(refuse_bool), Field(allow_inf_nan=False)]

Positive = Annotated[float, BeforeValidator(refuse_bool), Field(gt=0, allow_inf_nan=False)]

NonNegative = Annotated[float, BeforeValidator(refuse_bool), Field(ge=0, allow_inf_nan=False)]

Fraction = Annotated[float, BeforeValidator(refuse_bool), Field(ge=0, le=1)]

OpenFraction = Annotated[float, BeforeValidator(refuse_bool), Field(gt=0, lt=1)]

Seed = Annotated[Whole, Field(lt=2**32)]


# Frozen into a run's folder, a path has to mean the same from every working directory.
FilePath = Annotated[str, Field(min_length=1), AfterValidator(lambda path: os.path.abspath(os.path.expanduser(path)))]


class ConfigModel(BaseModel):
    """A frozen part of the configuration that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())


def value_at(values: Any, key: str) -> Any:
    """The value at a dotted key of nested mappings, None where there is none."""
    for name in key.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


def boundary_step(boundary: float, steps: int) -> int:
    """The first step of stage 2: the smallest whole number from boundary x steps on.

    A product that floating point misses a whole number by counts as that number: 0.07 x 100 is 7.000000000000001, and
    stage 2 begins at step 7.

    Args:
        boundary: share of the run before stage 2, between 0 and 1.
        steps: length of the run.
    """
    product = boundary * steps
    nearest = round(product)
    return nearest if math.isclose(product, nearest, rel_tol=1e-12) else math.ceil(product)

"""What a named sweep and a scale are."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from bitnet.common.errors import suggestion
from bitnet.config.base import ConfigModel, Seed, refuse_bool
from bitnet.config.claims import AnyClaim, explains_itself

# The sources of bitnet/analysis/published.csv, here since reading a table takes pandas, which a configuration does without.
PublishedSource = Literal["phase1", "phase3", "phase4", "scaling", "track", "verification_example"]


# What sweeps were called before, by their names of today. The old names still work; folders of old runs go on to be used.
FORMER_NAMES = {
    "priority1_weight_bounds": "p1_weight_bounds",
    "priority2_stage2_wd": "p2_stage2_wd",
    "priority3_logit_distribution": "p3_logit_distribution",
    "priority4_sweet_spot": "p4_sweet_spot",
    "priority5_vocab_regularization": "p5_vocab_regularization",
    "priority6_transition_branch": "p6_transition_branch",
    "priority7_capacity": "p7_capacity",
    "verification1": "verify_p1",
    "verification2": "verify_p2",
    "verification3": "verify_p3",
    "verification4": "verify_p4",
}
_CURRENT_NAMES = {old: new for new, old in FORMER_NAMES.items()}


def current_name(sweep: str) -> str:
    """What a sweep is called today; a name that was never changed stays."""
    return _CURRENT_NAMES.get(sweep, sweep)


def _splittable(overrides: str) -> str:
    try:
        shlex.split(overrides)
    except ValueError as error:
        raise ValueError(f"{str(error).lower()}; quotes come in pairs, and \\' is an apostrophe") from None
    return overrides


Overrides = Annotated[str, AfterValidator(_splittable)]


class SweepConfig(ConfigModel):
    """A named sweep: its question, its arms (overrides, as typed), further axes, seeds, the published rows it answers to, and
    what it claims (`config/claims.py`), by name. `includes`: other sweeps, run one after another in place of arms of its own.
    """

    name: str
    question: str
    source: str = ""
    published: list[PublishedSource] = []
    arms: dict[str, Overrides] = {}
    grid: dict[str, list[str | int | float | bool | None]] = {}
    seeds: list[Seed] = []
    claims: dict[str, AnyClaim] = {}
    includes: list[str] = []

    @model_validator(mode="after")
    def _claims_name_what_is_there(self) -> SweepConfig:
        for name, claim in self.claims.items():
            for side, selector in claim.selectors().items():
                arm = selector if isinstance(selector, str) else selector.get("arm")
                if arm is not None and arm not in self.arms:
                    hint = suggestion(arm, list(self.arms))
                    raise ValueError(f"sweep.claims.{name}.{side}={arm}: no such arm of this sweep{hint}")
            chosen = claim.selectors()
            for one, other in (("arm", "against"), ("other_arm", "other_against")):
                if other in chosen and chosen[one] == chosen[other]:
                    raise ValueError(f"sweep.claims.{name}.{other}={chosen[other]}: the same runs as {one}; name others")
            unknown = [other for other in claim.explained_by if other not in self.claims]
            if unknown:
                hint = suggestion(unknown[0], list(self.claims))
                raise ValueError(f"sweep.claims.{name}.explained_by={unknown[0]}: no such claim of this sweep{hint}")
        if (wrong := explains_itself(self.claims)) is not None:
            raise ValueError(wrong)
        return self


def judged_apart(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """A sweep that was written down, without what need not be of this version to read its runs: claims, published sources."""
    return {**sweep, "claims": {}, "published": []}


class ScaleConfig(ConfigModel):
    """How much of a named sweep is run: its lengths times `steps`, its model sizes by `sizes`, its seeds (empty: its own)."""

    name: str
    steps: Annotated[float, BeforeValidator(refuse_bool), Field(gt=0, le=1)] = 1.0
    sizes: dict[str, str] = {}
    seeds: list[Seed] = []

    def length(self, steps: int) -> int:
        """A number of steps at this scale; at least 1."""
        return max(1, round(self.steps * steps))

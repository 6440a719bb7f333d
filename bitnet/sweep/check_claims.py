"""From a sweep to its arms: expand, compose, validate, freeze, launch those that are not finished, and count what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bitnet.cli.overrides import key_of
from bitnet.common.console import say
from bitnet.common.errors import UserError, suggestion
from bitnet.config.claims import without_runs
from bitnet.config.run import known_keys
from bitnet.config.sweep import SweepConfig
from bitnet.sweep.expand import Arm


def check_claims(
    sweep: SweepConfig | None, arms: Sequence[Arm], composed: Sequence[tuple[dict[str, Any], dict[str, str]]]
) -> None:
    """Say which claims of a sweep speak of what the command does not ask for: before they cost what others cost.

    Raises:
        UserError: a claim selects runs by a group or a key that no run can have.
    """
    if sweep is None:
        return
    _refuse_unknown_keys(sweep, {"arm", *(group for _, options in composed for group in options)})
    longest = max(values["steps"] for values, _ in composed)
    if late := [name for name, claim in sweep.claims.items() if claim.latest_step() > longest]:
        say(f"note: claims about steps beyond the last, {longest:,}: {', '.join(late)}; they stay inconclusive")
    runs = [
        (written_overrides(arm) | {"arm": arm.name}, options, values)
        for arm, (values, options) in zip(arms, composed, strict=True)
    ]
    if lacking := without_runs(sweep.claims, runs):
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        say(f"note: claims about runs that this command does not ask for: {', '.join(lacking[:3])}{more}; they stay inconclusive")


def _refuse_unknown_keys(sweep: SweepConfig, groups: set[str]) -> None:
    named = [(f"{name}.{side}", of) for name, claim in sweep.claims.items() for side, of in claim.selectors().items()]
    for place, key in ((place, key) for place, of in named if not isinstance(of, str) for key in of):
        parent, _, leaf = key.rpartition(".")
        known = known_keys(parent) if parent else known_keys() | groups
        if leaf not in known:
            raise UserError(f"sweep.claims.{place}: {key}: no such group or key{suggestion(leaf, known)}")


def written_overrides(arm: Arm) -> dict[str, str]:
    """What the sweep's file wrote for an arm, by key."""
    return {key_of(o): o.partition("=")[2].strip("'\"") for o in arm.written}

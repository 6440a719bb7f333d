"""What a sweep claims, held against the runs that a command asks for, before any of them is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bitnet.common.console import say
from bitnet.common.errors import UserError, suggestion
from bitnet.config.claims import AnyClaim, Described, runs_of, without_runs
from bitnet.config.measured import measured_over, metrics_of, why_unlike
from bitnet.config.run import known_keys
from bitnet.config.sweep import SweepConfig
from bitnet.sweep.expand import ComposedArm


def check_claims(sweep: SweepConfig | None, arms: Sequence[ComposedArm]) -> None:
    """Say which claims of a sweep speak of what the command does not ask for: before they cost what others cost.

    Raises:
        UserError: a claim selects runs by a group or a key that no run can have.
    """
    if sweep is None:
        return
    _refuse_unknown_keys(sweep, {"arm", *(group for composed in arms for group in composed.choices)})
    longest = max(composed.values["steps"] for composed in arms)
    if late := [name for name, claim in sweep.claims.items() if claim.latest_step() > longest]:
        say(f"note: claims about steps after the last one ({longest:,}): {', '.join(late)}; they will be inconclusive")
    runs = [(c.arm.written_values | {"arm": c.arm.name}, c.choices, c.values) for c in arms]
    if lacking := without_runs(sweep.claims, runs):
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        listed = f"{', '.join(lacking[:3])}{more}"
        say(f"note: claims about runs that are not part of this command: {listed}; they will be inconclusive")
    for name, why in _unlike(sweep.claims, runs).items():
        say(f"note: claim {name}: {why}; it will be inconclusive")


def _unlike(claims: Mapping[str, AnyClaim], runs: Sequence[Described]) -> dict[str, str]:
    """Claims whose metric is not the same number in all of their runs, and why, as far as the configuration tells."""
    found = {}
    for name, claim in claims.items():
        chosen = {side: runs_of(selector, runs) for side, selector in claim.selectors().items()}
        for metric in metrics_of(claim):
            over = {side: [measured_over(metric, config, {}) for _, _, config in own] for side, own in chosen.items()}
            if (why := why_unlike(metric, over)) is not None:
                found[name] = why
    return found


def _refuse_unknown_keys(sweep: SweepConfig, groups: set[str]) -> None:
    named = [(f"{name}.{side}", of) for name, claim in sweep.claims.items() for side, of in claim.selectors().items()]
    for place, key in ((place, key) for place, of in named if not isinstance(of, str) for key in of):
        parent, _, leaf = key.rpartition(".")
        known = known_keys(parent) if parent else known_keys() | groups
        if leaf not in known:
            raise UserError(f"sweep.claims.{place}: {key}: no such group or key{suggestion(leaf, known)}")

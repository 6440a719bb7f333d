"""What a sweep claims, held against the runs that a command asks for, before any of them is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bitnet.cli.compose import Options
from bitnet.common.console import say
from bitnet.common.errors import UserError, suggestion
from bitnet.config.claims import AnyClaim, Described, runs_of, without_runs
from bitnet.config.measured import measured_over, metrics_of, why_unlike
from bitnet.config.run import known_keys
from bitnet.config.sweep import SweepConfig
from bitnet.sweep.expand import ComposedArm


def check_claims(sweep: SweepConfig | None, arms: Sequence[ComposedArm], options: Options) -> None:
    """Say which claims of a sweep speak of what the command does not ask for: before they cost what others cost.

    Raises:
        UserError: as `check_selectors`.
    """
    if sweep is None:
        return
    check_selectors(sweep, arms, options)
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


def check_selectors(sweep: SweepConfig, arms: Sequence[ComposedArm], options: Options) -> None:
    """Refuse claims that can speak of no run, whatever a command asks for.

    Args:
        options: of the groups.
    Raises:
        UserError: a claim selects runs by a group or a key that no run can have, or by an option that a group does not have.
    """
    groups = {group for composed in arms for group in composed.choices}
    _refuse_unknown_keys(sweep, {"arm", *groups})
    _refuse_unknown_options(sweep, groups, options)


def _selected(sweep: SweepConfig) -> Iterator[tuple[str, str, Any]]:
    """Where a claim's selector stands, and each key and value of it."""
    for name, claim in sweep.claims.items():
        for side, selector in claim.selectors().items():
            for key, value in ({} if isinstance(selector, str) else selector).items():
                yield f"sweep.claims.{name}.{side}", key, value


def _refuse_unknown_options(sweep: SweepConfig, groups: set[str], options: Options) -> None:
    for place, group, value in (s for s in _selected(sweep) if s[1] in groups):
        allowed = options.get_group_options(group)
        if str(value) not in allowed:
            listed = f"allowed are {', '.join(allowed)}{suggestion(str(value), allowed)}"
            raise UserError(f"{place}: {group}={value}: no such option; {listed}")


def _refuse_unknown_keys(sweep: SweepConfig, groups: set[str]) -> None:
    for place, key, _ in _selected(sweep):
        parent, _, leaf = key.rpartition(".")
        known = known_keys(parent) if parent else known_keys() | groups
        if leaf not in known:
            raise UserError(f"{place}: {key}: no such group or key{suggestion(leaf, known)}")

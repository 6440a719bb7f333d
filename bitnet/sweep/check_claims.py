"""What a sweep claims, held against the runs that a command asks for, before any of them is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bitnet.cli.compose import Options
from bitnet.common.console import say
from bitnet.common.errors import UserError, suggestion
from bitnet.config.claims import without_runs
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
        say(f"note: claims about steps after the last one ({longest:,}): {', '.join(late)}; they stay inconclusive")
    runs = [(c.arm.written_values | {"arm": c.arm.name}, c.choices, c.values) for c in arms]
    if lacking := without_runs(sweep.claims, runs):
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        say(f"note: claims about runs that are not part of this command: {', '.join(lacking[:3])}{more}; they stay inconclusive")


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

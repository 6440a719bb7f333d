"""From a claim to its numbers: which runs it speaks of, where in them it looks, and one number for each seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bitnet.analysis.collapse import is_warming
from bitnet.analysis.rates import RateEstimate, one_rate, paired_rates, summed_rates, unpaired_rates
from bitnet.analysis.stats import Estimate, no_spread, one_sample, outlier, skewness, two_sample
from bitnet.common.errors import UserError
from bitnet.common.text import format_list
from bitnet.config.claims import EVENTS, RUN_FACTS, AnyClaim, Bound, Change, Contrast, Correlation, Interaction
from bitnet.config.measured import metrics_of
from bitnet.runs.statuses import UNFINISHED
from bitnet.verdicts.evaluations import Evaluations
from bitnet.verdicts.resolution import COUNTS, metric_resolution
from bitnet.verdicts.selection import check_alike, select

Seedwise = Contrast | Interaction | Bound | Change  # every claim that comes down to one number a seed


# ---------------------------------------------------------------------------------------------------------------- sides
@dataclass(frozen=True)
class Side:
    """What one side of a claim brings.

    name: its key in the claim (`arm`, `against`). sign: with which it enters the number of a seed. values: seed to number,
    of seeds whose every arm has one. arms: how many are averaged within a seed. silent: runs that are over and have no
    number. incomplete: seeds of which an arm has no run. courses: by seed the losses of the runs that have a number.
    resolution: the least by which two of its values can differ; None where that is not known.
    """

    name: str
    sign: int
    runs: pd.DataFrame
    values: dict[int, float]
    arms: int
    silent: tuple[str, ...]
    incomplete: tuple[int, ...]
    courses: Mapping[int, list[bytes]]
    resolution: float | None

    def count(self, *statuses: str) -> int:
        """How many of its runs have one of these statuses."""
        return int(self.runs["status"].isin(statuses).sum())


def _side(name: str, sign: int, runs: pd.DataFrame, claim: Seedwise, found: Evaluations) -> Side:
    arms = runs["arm_id"].nunique()
    by_seed: dict[int, dict[str, float | None]] = {}
    courses: dict[int, list[bytes]] = {}
    silent, steps = [], []
    for _, run in runs.sort_values("arm_id", kind="stable").iterrows():
        seed, operands = int(run["seed"]), _operands(claim, found, run)
        value = None if operands is None else _number(claim, *operands)
        by_seed.setdefault(seed, {})[run["arm_id"]] = value
        if operands is not None and value is not None:
            steps.append(_step(claim, run, operands))
            courses.setdefault(seed, []).append(found.course(run))
        elif run["status"] not in UNFINISHED:
            silent.append(f"seed {seed} of {name} ({run['status']})")
    whole = {seed: list(of.values()) for seed, of in sorted(by_seed.items()) if len(of) == arms}
    values = {seed: sum(of) / arms for seed, of in whole.items() if None not in of}
    incomplete = tuple(s for s in sorted(by_seed) if s not in whole)
    resolution = max(steps) / arms if steps and None not in steps else None
    return Side(name, sign, runs, values, arms, tuple(silent), incomplete, courses, resolution)


def _operands(claim: Seedwise, found: Evaluations, run: pd.Series) -> tuple[float, ...] | None:
    """The metric at the claim's moment and, of a change, since when; None where the run lacks one."""
    moments = (claim.at, claim.since) if isinstance(claim, Change) else (claim.at,)
    values = tuple(v for at in moments if (v := found.value(run, claim.metric, at)) is not None)
    return values if len(values) == len(moments) else None


def _number(claim: Seedwise, value: float, since: float = 0.0) -> float | None:
    """What a run's operands come down to; None for a share of nothing."""
    if not isinstance(claim, Change) or not claim.relative:
        return value - since
    return None if since == 0 else (value - since) / abs(since)


def _step(claim: Seedwise, run: pd.Series, operands: Sequence[float]) -> float | None:
    """The least by which a claim's number of a run can differ from another one's; None where that is not known."""
    step = metric_resolution(claim.metric, run, max(map(abs, operands)))
    return step / abs(operands[-1]) if step and isinstance(claim, Change) and claim.relative else step


def sides(claim: Seedwise, runs: pd.DataFrame, found: Evaluations, declared: Sequence[str]) -> list[Side]:
    """The sides of a claim, the one it is about first.

    Raises:
        UserError: a selector names no run, two sides are the same runs, or runs that no arm sets apart differ in length or data.
    """
    named = [("arm", claim.arm, 1)]
    if isinstance(claim, Contrast | Interaction):
        named.append(("against", claim.against, -1))
    if isinstance(claim, Interaction):
        named += [("other_arm", claim.other_arm, -1), ("other_against", claim.other_against, 1)]
    chosen = [(name, sign, select(runs, selector, declared)) for name, selector, sign in named]
    check_alike([(name, selector, of) for (name, selector, _), (_, _, of) in zip(named, chosen, strict=True)], metrics_of(claim))
    for (one, _, first), (other, _, second) in zip(chosen[::2], chosen[1::2], strict=False):
        if both := set(first.index) & set(second.index):
            raise UserError(f"{one} and {other}: both select run {min(both)}; a run can't be on both sides")
    if isinstance(claim, Change) and claim.metric in RUN_FACTS:
        raise UserError(f"metric={claim.metric}: a number of the whole run can't change within it; name a column of metrics.csv")
    return [_side(name, sign, of, claim, found) for name, sign, of in chosen]


# ------------------------------------------------------------------------------------------------------------- estimate
@dataclass(frozen=True)
class SeedNumbers:
    """A claim's sides as one number a seed.

    numbers: by seed; empty where sides are of different sizes, so that seeds do not pair. flat: sides (or `the difference`)
    without any spread over two or more seeds. resolution: the least by which two values can differ, None where that is not
    known, and where sides vary and their difference, no count, does not. copies: which runs have the same losses throughout.
    absent: seeds that some side lacks, as a reader would say it. shape: in what the numbers are not as a normal distribution's.
    """

    estimate: Estimate | None
    numbers: dict[int, float]
    paired: bool
    resolution: float | None
    flat: tuple[str, ...]
    copies: tuple[str, ...]
    absent: tuple[str, ...]
    shape: tuple[str, ...] = ()


def seed_numbers(claim: Seedwise, of: Sequence[Side], seeds: Sequence[int] = ()) -> SeedNumbers:
    """One number a seed, and what they say together.

    Sides of the same hidden size are paired by seed: they share initial weights, order of data and evaluation set. Sides of
    two sizes are compared by Welch's test. What either happens in a run or does not (`claims.EVENTS`) is a rate on each side.

    Args:
        seeds: that the sweep declares; those without a run are named.
    Raises:
        UserError: the sides are of three sizes or more, or average events.
    """
    groups: dict[frozenset[float], list[Side]] = {}
    for side in of:
        groups.setdefault(frozenset(side.runs["hidden_size"]), []).append(side)
    if len(groups) > 2:
        raise UserError("the sides have more than two hidden sizes; compare two at a time")
    reduced, absent = [_paired(group) for group in groups.values()], _absent(of, groups.values(), seeds)
    if claim.metric in EVENTS:
        numbers = reduced[0] if len(reduced) == 1 else {}
        return SeedNumbers(_rate(claim, of, reduced), numbers, len(reduced) == 1, None, (), _copies(of), absent)
    scale = max((abs(v) for side in of for v in side.values.values()), default=0.0)
    flat = [side.name for side in of if no_spread(list(side.values.values()))]
    known = [side.resolution for side in of if side.resolution is not None]
    resolution = max(known) if len(known) == len(of) else None
    if len(reduced) == 1:
        numbers = reduced[0]
        if len(of) > 1 and not flat and no_spread(list(numbers.values()), scale):
            flat.append("the difference")
            resolution = resolution if claim.metric in COUNTS else None
        judged = [x - offset_of(claim) for x in numbers.values()]
        estimate = one_sample(judged, scale, resolution) if judged else None
    else:
        numbers, (first, second) = {}, reduced
        both = list(first.values()), [-x for x in second.values()]
        estimate = two_sample(*both, resolution) if first and second else None
    shape = () if flat else tuple(note for group in reduced for note in _shape(group))
    return SeedNumbers(estimate, numbers, len(reduced) == 1, resolution, tuple(flat), _copies(of), absent, shape)


def _rate(claim: Seedwise, of: Sequence[Side], reduced: Sequence[Mapping[int, float]]) -> RateEstimate | None:
    """What a claim about an event comes down to; None where no seed counts.

    Raises:
        UserError: a side averages runs of a seed.
    """
    if averaged := [side.name for side in of if side.arms > 1]:
        what = f"{averaged[0]} averages it over several runs of a seed"
        raise UserError(
            f"metric={claim.metric}: it is 0 or 1 in each run, and {what}, which has no exact interval; select one arm"
        )
    if not all(reduced):
        return None
    if isinstance(claim, Bound):
        return one_rate(list(reduced[0].values()), claim.bound)
    if isinstance(claim, Interaction):
        return summed_rates([(side.sign, list(side.values.values())) for side in of])
    if len(reduced) == 1:
        return paired_rates(list(reduced[0].values()))
    return unpaired_rates(*(list(side.values.values()) for side in of))


def _shape(numbers: Mapping[int, float]) -> list[str]:
    """Whether the seeds' numbers are skewed and which one stands apart, as a reader would say it."""
    values, told = list(numbers.values()), []
    if skewed := skewness(values):
        told.append(f"the seeds' numbers are skewed ({skewed:+.1f}), so the interval reaches further to the side of their tail")
    if (apart := outlier(values)) is not None:
        told.append(f"seed {list(numbers)[apart]} stands apart from the others (Grubbs's test)")
    return told


def offset_of(claim: AnyClaim) -> float:
    """What a claim's estimate lacks of the metric's own value: of a bound the distance to it is judged."""
    return claim.bound if isinstance(claim, Bound) else 0.0


def _copies(of: Sequence[Side]) -> tuple[str, ...]:
    """Which runs have the same losses throughout: those of several seeds of a side, of two sides those of each seed."""
    told = []
    for side in of:
        courses = [tuple(c) for c in side.courses.values() if any(c)]
        if len(set(courses)) < len(courses):
            told.append(f"runs of different seeds of {side.name}")
    for one, other in zip(of[::2], of[1::2], strict=False):
        common = one.courses.keys() & other.courses.keys()
        if common and all(any(one.courses[s]) and one.courses[s] == other.courses[s] for s in common):
            told.append(f"the runs of {one.name} and {other.name}")
    return tuple(told)


def _paired(group: Sequence[Side]) -> dict[int, float]:
    common = set.intersection(*(set(side.values) for side in group))
    return {seed: sum(side.sign * side.values[seed] for side in group) for seed in sorted(common)}


def _absent(of: Sequence[Side], groups: Any, seeds: Sequence[int]) -> tuple[str, ...]:
    """Seeds without a run on some side that others of its size (or the sweep's file) have."""
    lacking = []
    for group in groups:
        wanted = {int(s) for side in group for s in side.runs["seed"]} | set(seeds)
        for side in group:
            there = {int(s) for s in side.runs["seed"]} - set(side.incomplete)
            missing = sorted(wanted - there)
            if missing:
                lacking.append(f"{format_list('seed', missing)} missing in {side.name}")
    return tuple(lacking)


def correlation_points(
    claim: Correlation, runs: pd.DataFrame, found: Evaluations, declared: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs that a correlation is over, with `points`, and their evaluations after warm-up: `seed` and both columns.

    Runs that begin alike share the evaluations before they part: each counts once. `points`: how many evaluations a run has.

    Raises:
        UserError: the selector names no run, its runs differ in length or data, or a column was not read.
    """
    chosen = select(runs, claim.arm, declared)
    check_alike([("arm", claim.arm, chosen)], metrics_of(claim))
    for column in (claim.metric, claim.other):
        if column not in found.metrics:
            raise UserError(f"metric={column}: this column was not read")
    rows = found.metrics[found.metrics["run"].isin(chosen.index)]
    rows = rows[~is_warming(chosen, rows)]
    both = list(dict.fromkeys([claim.metric, claim.other]))
    rows = rows.assign(seed=rows["run"].map(chosen["seed"])).dropna(subset=both)
    same = [c for c in ("seed", "Step", "heldout_loss") if c in rows]
    counts = rows["run"].value_counts().reindex(chosen.index, fill_value=0)
    return chosen.assign(points=counts), rows.drop_duplicates([*same, *both])[["seed", *both]]

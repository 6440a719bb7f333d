"""The study's verification plan: what each run has to show, and what the runs together decide.

The criteria are the study's. Its plan leaves two things open, which are settled here once: what "volatile" means, and
that a run which misses a success criterion without meeting a failure criterion has not passed either, so it fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

SWEEPS = ("verification1", "verification2", "verification3", "verification4")

STEPS = (1_000, 5_000, 6_000, 10_000, 20_000, 30_000)

MET, UNMET, NOT_REACHED = "yes", "no", "not reached"

VOLATILE = "volatile: after the boundary an evaluation falls below half of the previous maximum there"


@dataclass(frozen=True)
class Criterion:
    """A bound on the distinct tokens at one step; `name` reads as the plan does."""

    name: str
    step: int
    holds: Callable[[float], bool]


SUCCESS = (
    Criterion("1k > 10", 1_000, lambda unique: unique > 10),
    Criterion("5k <= 5", 5_000, lambda unique: unique <= 5),
    Criterion("6k > 8", 6_000, lambda unique: unique > 8),
    Criterion("20k > 50", 20_000, lambda unique: unique > 50),
    Criterion("30k > 50", 30_000, lambda unique: unique > 50),
)

FAILURE = (
    Criterion("5k > 5", 5_000, lambda unique: unique > 5),
    Criterion("6k < 5", 6_000, lambda unique: unique < 5),
    Criterion("10k < 5", 10_000, lambda unique: unique < 5),
    Criterion("20k < 10", 20_000, lambda unique: unique < 10),
)


def verification(runs: pd.DataFrame, metrics: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """The runs of the sweeps `verification1` to `verification4`, one row each.

    Returns:
        run, sweep, hidden_size, steps, seed, status, device, ceiling, seconds (training and evaluation), `step_N` and
        `published_N` for each of `STEPS` (NaN where there is no evaluation at it), `success CRITERION`, `failure
        CRITERION` and `failure volatile` as yes, no or not reached, verdict (Pass, Fail, undecided) and why.
    """
    rows = []
    for run, facts in runs.iterrows():
        sweeps = [sweep for sweep in facts["sweeps"] if sweep in SWEEPS]
        if sweeps:
            course = metrics[metrics["run"] == run]
            theirs = published[published["arm_id"] == facts["arm_id"]].set_index("step")["unique"]
            rows.append(_judge(facts, sweeps[0], course.set_index("Step")["UniquePredictions"], theirs))
    nothing = pd.Series(dtype="float64")
    columns = list(_judge(None, "", nothing, nothing))
    return pd.DataFrame(rows, columns=columns).sort_values(["sweep", "seed"], kind="stable").reset_index(drop=True)


def _judge(facts: pd.Series | None, sweep: str, unique: pd.Series, published: pd.Series) -> dict[str, object]:
    """A row of the table; without facts it only has its columns."""
    known = ("hidden_size", "steps", "seed", "status", "device", "ceiling")
    row: dict[str, object] = {"run": None if facts is None else facts["id"], "sweep": sweep}
    row |= {name: None if facts is None else facts[name] for name in known}
    row["seconds"] = None if facts is None else facts[["train_seconds", "eval_seconds"]].sum(min_count=1)
    row |= {f"step_{step}": unique.get(step, float("nan")) for step in STEPS}
    row |= {f"published_{step}": published.get(step, float("nan")) for step in STEPS}
    success = {f"success {c.name}": _answer(c, unique) for c in SUCCESS}
    failure = {f"failure {c.name}": _answer(c, unique) for c in FAILURE}
    boundary = float("inf") if facts is None else facts["boundary_step"]
    failure["failure volatile"] = _volatile(unique[unique.index > boundary])
    return row | success | failure | _verdict(success, failure)


def _answer(criterion: Criterion, unique: pd.Series) -> str:
    if not unique.get(criterion.step, math.nan) >= 0:
        return NOT_REACHED
    return MET if criterion.holds(unique[criterion.step]) else UNMET


def _volatile(after_boundary: pd.Series) -> str:
    """Whether an evaluation falls below half of the largest one before it, among those after the boundary."""
    if not len(after_boundary):
        return NOT_REACHED
    if (after_boundary < after_boundary.cummax().shift() / 2).any():
        return MET
    return NOT_REACHED if after_boundary.isna().any() else UNMET


def _verdict(success: dict[str, str], failure: dict[str, str]) -> dict[str, str]:
    """Fail when a reached criterion says so; else undecided while a criterion was not reached; else Pass."""
    against = [name for name, answer in failure.items() if answer == MET]
    against += [f"{name} missed" for name, answer in success.items() if answer == UNMET]
    if against:
        return {"verdict": "Fail", "why": ", ".join(against)}
    open_ones = list(dict.fromkeys(n.split(" ", 1)[1] for n, a in (success | failure).items() if a == NOT_REACHED))
    if open_ones:
        return {"verdict": "undecided", "why": "not reached: " + ", ".join(open_ones)}
    return {"verdict": "Pass", "why": "every success criterion met, no failure criterion"}


def overall(table: pd.DataFrame) -> str:
    """Whether the fix is verified, and on how many runs that rests, in words; no probability is made up.

    One failing run is a no; a yes needs every run of the plan that is there to pass.
    """
    verdicts = table["verdict"]
    answer = "no" if (verdicts == "Fail").any() else "yes" if (verdicts == "Pass").all() else "undecided"
    decided, passed = int((verdicts != "undecided").sum()), int((verdicts == "Pass").sum())
    lone = not table.duplicated(["sweep", "hidden_size", "steps"]).any()
    spread = "; one run of each, so nothing is known about spread" if lone else ""
    return f"Fix verified: {answer}. Rests on {decided} decided of {len(table)} run(s), {passed} passed{spread}."


def ceiling_remark(table: pd.DataFrame) -> str:
    """What the metric can't show, '' when it can: a bound of 50 above the ceiling of the count."""
    low = table[table["ceiling"] <= 50]
    if not len(low):
        return ""
    values = "/".join(str(int(v)) for v in sorted(low["ceiling"].unique()))
    return f"20k > 50 and 30k > 50 can't be met: the count has a ceiling of {values} (positions evaluated)."

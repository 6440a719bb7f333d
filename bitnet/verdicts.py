"""What runs say to what their sweep claimed: a row a claim, with one of four words and the numbers behind it.

A claim comes down to one number a seed (`evidence.py`); let its sign be such that the claim expects it above 0. By the
number of seeds, one is an anecdote and two are a direction: inconclusive. From three on,

- `lower`, `higher`, `at_most`, `at_least` are **reproduced** when the 95 % t interval lies above 0 and, but for bounds, the
  mean is no smaller than the margin. They are **not reproduced** when the interval ends below the margin (for bounds, below
  0): the opposite, no effect, and an effect too small to matter are all excluded by it.
- `equal` is reproduced by two one-sided tests within the margin, and not reproduced when the 95 % interval lies wholly
  outside it.
- From six seeds on, what is reproduced must also survive as many tests as the sweep declares claims: its exact p, after
  Holm, is below 0.05. Where so many claims put that out of reach of an exact test of so few seeds (2 x 2/64 at six seeds
  and two claims), the t interval is asked instead, at 1 - 0.05 / claims: more seeds never make a conclusion harder to
  reach for want of a finer p.
- Runs without a spread over their seeds are copies until shown otherwise: inconclusive, with an alarm. Counts may be equal;
  they are judged by their value, with the same alarm.
- Runs that diverged or failed before the number could be read make the claim inconclusive, whatever the others say; they
  are counted on each side. So does a finished run without a number (an onset that never came): to leave it out would select
  by the outcome. Only a seed that was never run is left out.
- A correlation over the evaluations of several runs is judged by its bootstrap interval over runs, from six runs on: the
  percentiles of fewer are too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from bitnet import stats
from bitnet.claims import ENOUGH_SEEDS, AnyClaim, Bound, Correlation, allows
from bitnet.errors import UserError, nearest
from bitnet.evidence import UNFINISHED, Evaluations, Reduced, Seedwise, Side, points, reduce, sides

Word = Literal["reproduced", "not reproduced", "explained otherwise", "inconclusive"]
_CLAIMS = TypeAdapter(dict[str, AnyClaim])
_LOWER = ("lower", "at_most")


@dataclass(frozen=True)
class Verdict:
    """A claim, judged.

    claim, says, published, margin: as declared (margin None for a correlation). word, why: the verdict and its reason in a
    sentence. n: seeds with a number, of the smaller side where seeds do not pair; runs for a correlation.
    numbers: seed to number; empty where seeds do not pair, and for a correlation. sides: each side's value by seed.
    mean, low, high: of the numbers, with the 95 % interval; of a correlation, rho. None below 3 seeds, and without spread.
    test, p, p_holm: `sign-flip`, `permutation` (seeds do not pair) or `TOST` (`equal`); Holm over the sweep's claims.
    detectable: the smallest effect that so many seeds, spread so, would have shown in 80 % of cases.
    runs, diverged, failed: how many on each side; fisher_p: that as many are lost on both.
    """

    claim: str
    says: str
    word: Word
    why: str
    n: int = 0
    numbers: Mapping[int, float] | None = None
    sides: Mapping[str, Mapping[int, float]] | None = None
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    test: str | None = None
    p: float | None = None
    p_holm: float | None = None
    margin: float | None = None
    detectable: float | None = None
    published: str | float | None = None
    warnings: tuple[str, ...] = ()
    runs: Mapping[str, int] | None = None
    diverged: Mapping[str, int] | None = None
    failed: Mapping[str, int] | None = None
    fisher_p: float | None = None


def judge(
    sweep: Mapping[str, Any], runs: pd.DataFrame, metrics: pd.DataFrame, facts: pd.DataFrame | None = None
) -> list[Verdict]:
    """Every claim of a sweep, in the order of its file.

    Args:
        sweep: as in a run's configuration; `claims`, `arms` and `seeds` are used.
        runs, metrics: of `bitnet.runs.Records`, the sweep's own; `metrics` with the columns that the claims name (`columns`).
        facts: numbers of whole runs, by run id, for claims that name them.
    Raises:
        UserError: a declaration that is no claim. One that names runs or columns that are not there is inconclusive instead.
    """
    claims = parse(sweep)
    found, declared, seeds = Evaluations(metrics, facts), list(sweep.get("arms") or {}), list(sweep.get("seeds") or [])
    drafts = [_draft(name, claim, runs, found, declared, seeds) for name, claim in claims.items()]
    adjusted = stats.holm([d.verdict.p for d in drafts])
    judged = {
        d.verdict.claim: replace(d.judged(p, len(claims)), p_holm=p) for d, p in zip(drafts, adjusted, strict=True)
    }
    return [_explained(verdict, claims[name].explained_by, judged) for name, verdict in judged.items()]


def parse(sweep: Mapping[str, Any]) -> dict[str, AnyClaim]:
    """The claims that a sweep declares, by name.

    Raises:
        UserError: one that is no claim.
    """
    try:
        return _CLAIMS.validate_python(dict(sweep.get("claims") or {}))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"sweep.claims.{'.'.join(map(str, first['loc']))}={first['input']!r}: {first['msg']}") from None


def columns(claims: Mapping[str, AnyClaim]) -> list[str]:
    """What claims name as metrics: columns of evaluations, and numbers of whole runs."""
    named = [m for c in claims.values() for m in (c.metric, *([c.other] if isinstance(c, Correlation) else []))]
    return list(dict.fromkeys(named))


# --------------------------------------------------------------------------------------------------------------- drafts
@dataclass(frozen=True)
class _Draft:
    """A verdict but for its word: `judged` takes the adjusted p and the number of claims."""

    verdict: Verdict
    judged: Callable[[float | None, int], Verdict]


def _settled(verdict: Verdict) -> _Draft:
    return _Draft(verdict, lambda p, claims: verdict)


def _draft(
    name: str, claim: AnyClaim, runs: pd.DataFrame, found: Evaluations, declared: Sequence[str], seeds: Sequence[int]
) -> _Draft:
    margin = None if isinstance(claim, Correlation) else claim.margin
    blank = Verdict(name, claim.says, "inconclusive", "", margin=margin, published=claim.published)
    try:
        if isinstance(claim, Correlation):
            return _settled(_correlated(blank, claim, *points(claim, runs, found, declared)))
        of = sides(claim, runs, found, declared)
        return _seedwise(blank, claim, of, reduce(claim, of, seeds))
    except UserError as error:
        return _settled(replace(blank, why=str(error)))


def _seedwise(blank: Verdict, claim: Seedwise, of: Sequence[Side], reduced: Reduced) -> _Draft:
    verdict = _with_counts(blank, of)
    alarms = [f"no spread over seeds in {', '.join(reduced.flat)}: are these different runs?"] if reduced.flat else []
    averaged = [f"{side.name} averages {side.arms} runs of each seed" for side in of if side.arms > 1]
    if len({side.arms for side in of}) > 1:
        averaged.append("the sides average different numbers of runs: their difference is no factor's effect")
    verdict = replace(
        verdict,
        sides={side.name: side.values for side in of},
        numbers=reduced.numbers,
        warnings=(*alarms, *averaged, *reduced.absent, *_lost(of)),
    )
    estimate = reduced.estimate
    if estimate is not None:
        low, high = (estimate.interval() if estimate.n > 2 else None) or (None, None)
        equal = claim.expected == "equal"
        p = None if estimate.n < 3 else estimate.tost(claim.margin) if equal else estimate.p
        verdict = replace(
            verdict, n=estimate.n, mean=estimate.mean, low=low, high=high, detectable=estimate.detectable(), p=p
        )
        verdict = replace(verdict, test=None if p is None else "TOST" if equal else estimate.test)
    if (blocked := _blocked(of, reduced)) is not None:
        return _settled(replace(verdict, why=blocked, p=None, test=None))
    assert estimate is not None  # `_blocked` says where there is none

    def judged(p_holm: float | None, claims: int) -> Verdict:
        least = 0.0 if isinstance(claim, Bound) else claim.margin
        word, why = decide(estimate, claim.expected, claim.margin, least, p_holm, claims, ties=reduced.ties)
        return replace(verdict, word=word, why=why, warnings=(*_gate(estimate, word, p_holm, claims), *verdict.warnings))

    return _Draft(verdict, judged)


def _gate(estimate: stats.Estimate, word: Word, p_holm: float | None, claims: int) -> tuple[str, ...]:
    """What a reader must know of so few seeds."""
    if estimate.n < ENOUGH_SEEDS:
        return (f"n={estimate.n}: {allows(estimate.n)}",)
    if word != "reproduced" or estimate.se is None or (p_holm is not None and p_holm < stats.ALPHA):
        return ()
    level = 100 * (1 - stats.ALPHA / claims)
    return (f"an exact p of n={estimate.n} can't fall under 0.05 beside {claims} claims: the {level:.4g} % interval decided",)


def _with_counts(blank: Verdict, of: Sequence[Side]) -> Verdict:
    """Runs by side and how many were lost; of an interaction's four sides, Fisher's test joins those of a sign."""
    counts = {what: {side.name: side.count(what) for side in of} for what in ("diverged", "failed")}
    fisher_p = None
    if len(of) > 1:
        cells = []
        for names in (("arm", "other_arm"), ("against", "other_against")):
            joined = [side for side in of if side.name in names]
            cells += [sum(s.count("diverged", "failed") for s in joined), sum(s.count("done") for s in joined)]
        fisher_p = stats.fisher(*cells)
    return replace(blank, runs={side.name: len(side.runs) for side in of}, fisher_p=fisher_p, **counts)


def _lost(of: Sequence[Side]) -> list[str]:
    texts = []
    for side in of:
        found = [f"{n} {what}" for what in ("diverged", "failed") if (n := side.count(what))]
        if found:
            texts.append(f"of the {len(side.runs)} runs of {side.name}, {' and '.join(found)}")
    return texts


def _blocked(of: Sequence[Side], reduced: Reduced) -> str | None:
    """Why nothing can be concluded whatever the numbers are, None where they may speak."""
    runs = pd.concat([side.runs for side in of])
    runs = runs[~runs.index.duplicated()]
    if over := int(runs["status"].isin(UNFINISHED).sum()):
        return f"not yet: {len(runs) - over} of {len(runs)} runs done"
    if silent := [text for side in of for text in side.silent]:
        more = f" and {len(silent) - 3} more" if len(silent) > 3 else ""
        return f"no number from {', '.join(silent[:3])}{more}: to leave it out would select by the outcome"
    if reduced.estimate is None:
        return f"no seed has all its runs: {'; '.join(reduced.absent)}"
    if reduced.flat and not reduced.ties:
        return f"{', '.join(reduced.flat)}: the same to the last bit over all seeds, so they count as one run"
    return None


# ---------------------------------------------------------------------------------------------------------------- words
def decide(
    estimate: stats.Estimate,
    expected: str,
    margin: float,
    least: float,
    p_holm: float | None,
    claims: int = 1,
    *,
    ties: bool = False,
) -> tuple[Word, str]:
    """The word for an estimate and its reason, by the rules at the top of this file.

    Args:
        expected: `lower`, `higher`, `at_most`, `at_least` or `equal`.
        margin: for `equal`; least: the smallest mean that counts for the others, in size (0 for bounds).
        p_holm: the estimate's p, adjusted; claims: for how many.
        ties: whether an estimate without spread is judged by its value (counts) or not at all.
    """
    if estimate.n < 3:
        return "inconclusive", f"{estimate.n} seed{'s' * (estimate.n > 1)}: {allows(estimate.n)}"
    interval = estimate.interval()
    if interval is None:
        if not ties:
            return "inconclusive", "the same number to the last bit from every seed"
        holds = abs(estimate.mean) <= margin if expected == "equal" else _signed(estimate.mean, expected) >= least
        return "reproduced" if holds else "not reproduced", f"every seed gives {_text(estimate.mean)}"
    span = f"mean {_text(estimate.mean)}, 95 % interval {_text(interval[0])} to {_text(interval[1])}"
    word, why = (_equal if expected == "equal" else _directed)(estimate, interval, expected, margin, least)
    if word == "reproduced" and not _survives(estimate, expected, p_holm, claims):
        p = estimate.tost(margin) if expected == "equal" else estimate.p
        beside = f" ({_text(p_holm)} after Holm, over {claims} claims)" if p_holm is not None and claims > 1 else ""
        word, why = "inconclusive", f"p={_text(p or 0.0)}{beside} does not exclude chance at 5 %"
    if word == "inconclusive" and (seen := estimate.detectable()) is not None:
        why += f"; so many seeds would have shown an effect of {_text(seen)}, with 80 % power"
    return word, f"{span}: {why}"


def _directed(
    estimate: stats.Estimate, interval: tuple[float, float], expected: str, margin: float, least: float
) -> tuple[Word, str]:
    mean = _signed(estimate.mean, expected)
    low, high = sorted(_signed(x, expected) for x in interval)
    if low > 0 and mean >= least:
        return "reproduced", "as claimed" + (f", and no smaller than {_text(least)}" if least else "")
    if high < 0:
        return "not reproduced", "the opposite of what is claimed"
    if high < least:
        return "not reproduced", f"an effect of {_text(least)} or more, as claimed, is excluded"
    if low > 0:
        return "inconclusive", f"there is such an effect, but it may be smaller or larger than {_text(least)}"
    return "inconclusive", "the interval leaves open whether there is such an effect"


def _equal(
    estimate: stats.Estimate, interval: tuple[float, float], expected: str, margin: float, least: float
) -> tuple[Word, str]:
    p = estimate.tost(margin)
    if p is not None and p < stats.ALPHA:
        return "reproduced", f"a difference of {_text(margin)} or more is excluded"
    if interval[0] > margin or interval[1] < -margin:
        return "not reproduced", f"the difference is larger than {_text(margin)}"
    return "inconclusive", f"the interval leaves open whether the difference is within {_text(margin)}"


def _survives(estimate: stats.Estimate, expected: str, p_holm: float | None, claims: int) -> bool:
    """Whether a conclusion stands beside the sweep's other claims; below six seeds the interval alone has to do."""
    if estimate.n < ENOUGH_SEEDS or (p_holm is not None and p_holm < stats.ALPHA):
        return True
    if expected == "equal" or estimate.p is None or estimate.p >= stats.ALPHA or claims * estimate.p_least < stats.ALPHA:
        return False
    wide = estimate.interval(1 - stats.ALPHA / claims)
    return wide is not None and not wide[0] <= 0 <= wide[1]


def _signed(x: float, expected: str) -> float:
    return -x if expected in _LOWER else x


def _text(x: float) -> str:
    return f"{x:.4g}"


# ------------------------------------------------------------------------------------------- correlations, explanations
def _correlated(blank: Verdict, claim: Correlation, runs: pd.DataFrame, rows: pd.DataFrame) -> Verdict:
    found = stats.spearman(rows[claim.metric].to_numpy(), rows[claim.other].to_numpy(), rows["run"].to_numpy())
    counts = {what: {"arm": int((runs["status"] == what).sum())} for what in ("diverged", "failed")}
    lost = sum(n["arm"] for n in counts.values())
    verdict = replace(
        blank,
        n=found.clusters,
        mean=found.rho,
        low=found.low if found.clusters > 2 else None,
        high=found.high if found.clusters > 2 else None,
        runs={"arm": len(runs)},
        warnings=(f"{lost} of {len(runs)} runs diverged or failed; their evaluations until then count",) if lost else (),
        **counts,
    )
    if over := int(runs["status"].isin(UNFINISHED).sum()):
        return replace(verdict, why=f"not yet: {len(runs) - over} of {len(runs)} runs done")
    if found.rho is None:
        return replace(verdict, why=f"{claim.metric} or {claim.other} is the same in every evaluation, or missing")
    if found.low is None or found.clusters < ENOUGH_SEEDS:
        few = f"{found.clusters} run{'s' * (found.clusters != 1)}: too few to resample; {ENOUGH_SEEDS} are needed"
        return replace(verdict, why=few)
    beyond, short = found.low > claim.bound, found.high < claim.bound
    if claim.expected == "lower":
        beyond, short = short, beyond
    span = f"rho {_text(found.rho)}, 95 % interval {_text(found.low)} to {_text(found.high)}"
    over_points = f"over {found.points} evaluations of {found.clusters} runs, against {_text(claim.bound)}"
    word: Word = "reproduced" if beyond else "not reproduced" if short else "inconclusive"
    return replace(verdict, word=word, why=f"{span} {over_points}")


def _explained(verdict: Verdict, by: Sequence[str], judged: Mapping[str, Verdict]) -> Verdict:
    """ "explained otherwise" where a claim holds and all that would explain it do, too."""
    if not by or verdict.word != "reproduced":
        return verdict
    if unknown := [name for name in by if name not in judged]:
        why = f"explained_by={unknown[0]}: the sweep claims no such thing{nearest(unknown[0], judged)}"
        return replace(verdict, word="inconclusive", why=why)
    words = {name: judged[name].word for name in by}
    if all(word == "reproduced" for word in words.values()):
        return replace(verdict, word="explained otherwise", why=f"{verdict.why}; but {', '.join(by)} holds as well")
    if "not reproduced" in words.values():
        return verdict
    left = ", ".join(name for name, word in words.items() if word == "inconclusive")
    return replace(verdict, warnings=(*verdict.warnings, f"whether {left} explains it is inconclusive"))


def rows(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Verdicts as a frame, one row a claim and a column a field; None as NaN in its numbers."""
    table = pd.DataFrame([vars(v) for v in verdicts], columns=list(Verdict.__dataclass_fields__))
    numeric = ["mean", "low", "high", "p", "p_holm", "margin", "detectable", "fisher_p"]
    return table.assign(**{c: np.array([np.nan if x is None else x for x in table[c]], dtype="float64") for c in numeric})

"""What runs say to what their sweep claimed: a row a claim, with one of four words and the numbers behind it.

A claim comes down to one number a seed (`evidence.py`); let its sign be such that the claim expects it above 0. One
seed is anecdotal and two give only a direction: inconclusive. From three on it is judged by the t interval at
1 - 0.05 / claims, where `claims` is how many the sweep declares (Bonferroni). Where seeds scatter normally, or alike to both
sides, the chance that a sweep says "reproduced" of an effect that is not there, "not reproduced" of one that is as large as
claimed, or "equal" of what is not, stays below 5 %, whatever the number of its claims and of its seeds. It does so for facts
that are 0 or 1 however they come. Of skewed numbers it does not, least with three to five seeds: docs/error_rates.md has the
rates that were measured, and the script that measures them.

- `lower`, `higher`, `at_most`, `at_least` are **reproduced** when that interval lies above 0 and, but for bounds, the
  mean is no smaller than the margin: there is an effect, and as far as is known it is large enough to matter. That it is
  somewhat smaller than the margin is excluded only where the reason says so. They are **not reproduced** when the interval
  ends below the margin (for bounds, below 0): the opposite, no effect, and an effect too small to matter are all excluded.
- `equal` is reproduced by two one-sided tests within the margin, each at 0.05 / claims, and not reproduced when the
  interval lies wholly outside the margin.
- Facts that are 0 or 1 (`claims.EVENTS`) have exact intervals (Clopper and Pearson), and their pairs McNemar's exact test.
- From six seeds on, numbers that are more skewed than normal ones are in nine of ten samples have their interval extended to
  the side of their tail, where t falls short (`stats.Estimate.interval`), and a seed that stands apart is named. The sign-flip
  interval, exact where numbers scatter alike to both sides, helps no more against skewness, and at six seeds takes away a
  quarter of the power. Fewer seeds can't show how they scatter: the t interval decides, and the verdict says so.
- Seeds that were added when others had results are named: each look is another chance of a false word.
- Numbers that are counted over different things (`config/measured.py`: contexts, held-out positions, a vocabulary) are neither
  compared nor averaged, whatever the arms are about.
- The plain 95 % interval, the exact p and that p after Holm are printed with the verdict but do not decide it: the smallest
  sign-flip p of six seeds is 2/64, so requiring a small p would make six seeds harder to pass than five.
- Values that are identical for every seed raise a warning. Where the runs have the same losses throughout they are copies,
  and nothing is concluded. Where they are not (counts; models as flat as fp32 can resolve), they are given the spread of
  values of which one differs by a single step, the smallest spread possible (`verdicts/resolution.py`).
- Runs that diverged or failed before the number could be read make the claim inconclusive, whatever the others say; they
  are counted on each side. So does a finished run without a number (an onset that never came): dropping it would be selection
  by outcome. Only a seed that was never run is dropped.
- A correlation over the evaluations of several runs is judged by its interval over seeds (`stats.spearman`), at the same
  level and from six seeds on: runs of a seed share weights and data, so that many of them say little more than one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from bitnet.analysis import stats
from bitnet.common.errors import UserError, suggestion
from bitnet.common.text import counted
from bitnet.config.claims import DERIVED, ENOUGH_SEEDS, AnyClaim, Bound, Correlation, explains_itself, seeds_allow
from bitnet.config.measured import metrics_of
from bitnet.config.messages import error_sentence
from bitnet.runs.statuses import DIVERGED, DONE, FAILED, UNFINISHED
from bitnet.verdicts.circumstances import circumstances
from bitnet.verdicts.decision import Word, decide, detectable, interval_text, number_text, own_value
from bitnet.verdicts.evaluations import DERIVED_FROM, Evaluations
from bitnet.verdicts.evidence import SeedNumbers, Seedwise, Side, correlation_points, offset_of, seed_numbers, sides
from bitnet.verdicts.selection import NOT_YET

_CLAIMS = TypeAdapter(dict[str, AnyClaim])

_INCLUDED = "their evaluations up to that point are included"


@dataclass(frozen=True)
class Verdict:
    """A claim, judged.

    claim, says, published, margin: as declared (margin None where there is none). word, why: the verdict and its reason in a
    sentence. n: seeds with a number, of the smaller side where seeds do not pair.
    numbers: seed to number, of a bound the metric's own value; empty where seeds do not pair, and for a correlation. sides: each
    side's value by seed.
    mean, low, high: of the numbers, with the plain 95 % interval (none below 3 seeds, and without spread); of a correlation, rho.
    test, p, p_holm: `sign-flip`, `permutation` (seeds do not pair) or `TOST` (`equal`); of events `binomial`, `McNemar` or
    `Fisher`; Holm over the sweep's claims.
    detectable: the smallest effect that so many seeds, spread so, would have shown beside so many claims in 80 % of cases; of
    `equal`, the smallest margin within which they would have shown that there is no difference.
    Of a bound, p and detectable are of the distance to it.
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
        runs, metrics: of `frames.Records`, the sweep's own; `metrics` with the columns that claims name (`columns`).
        facts: numbers of whole runs, by run id, for claims that name them.
    Raises:
        UserError: a declaration that is no claim. One that names runs or columns that are not there is inconclusive instead.
    """
    claims = parse(sweep)
    found, declared, seeds = Evaluations(metrics, facts), list(sweep.get("arms") or {}), list(sweep.get("seeds") or [])
    verdicts = [_verdict(name, claim, runs, found, declared, seeds, len(claims)) for name, claim in claims.items()]
    adjusted = stats.holm([v.p for v in verdicts])
    judged = {v.claim: replace(v, p_holm=p) for v, p in zip(verdicts, adjusted, strict=True)}
    return [_explained(verdict, claims[name].explained_by, judged) for name, verdict in judged.items()]


def parse(sweep: Mapping[str, Any]) -> dict[str, AnyClaim]:
    """The claims that a sweep declares, by name.

    Raises:
        UserError: one that is no claim.
    """
    written = sweep.get("claims") or {}
    try:
        claims = _CLAIMS.validate_python(written)
    except ValidationError as error:
        first = error.errors()[0]
        whole = first | {"loc": ("sweep", "claims", *first["loc"])}
        raise UserError(error_sentence(whole, {"sweep": {"claims": written}}, lambda prefix: set())) from None
    if (wrong := explains_itself(claims)) is not None:
        raise UserError(wrong)
    return claims


def columns(claims: Mapping[str, AnyClaim]) -> list[str]:
    """What the metrics of claims need: columns of evaluations, and numbers of whole runs."""
    named = [metric for claim in claims.values() for metric in metrics_of(claim)]
    return list(dict.fromkeys(DERIVED_FROM[m][1] if m in DERIVED else m for m in named))


# -------------------------------------------------------------------------------------------------------------- one claim
def _verdict(
    name: str,
    claim: AnyClaim,
    runs: pd.DataFrame,
    found: Evaluations,
    declared: Sequence[str],
    seeds: Sequence[int],
    claims: int,
) -> Verdict:
    """A claim by itself, beside so many `claims`."""
    margin = None if isinstance(claim, Correlation) else claim.margin
    blank = Verdict(name, claim.says, "inconclusive", "", margin=margin, published=claim.published)
    try:
        if isinstance(claim, Correlation):
            return _correlated(blank, claim, *correlation_points(claim, runs, found, declared), claims)
        of = sides(claim, runs, found, declared)
        return _seedwise(blank, claim, of, seed_numbers(claim, of, seeds), claims)
    except UserError as error:
        return replace(blank, why=str(error))


def _seedwise(blank: Verdict, claim: Seedwise, of: Sequence[Side], reduced: SeedNumbers, claims: int) -> Verdict:
    alarms = [_alarm(reduced)] if reduced.flat else []
    averaged = [f"{side.name} averages {side.arms} runs per seed" for side in of if side.arms > 1]
    if len({side.arms for side in of}) > 1:
        averaged.append("the sides average different numbers of runs, so their difference is not the effect of one factor")
    verdict = replace(
        _with_counts(blank, of),
        sides={side.name: side.values for side in of},
        numbers=reduced.numbers,
        warnings=(*alarms, *averaged, *reduced.shape, *reduced.absent, *circumstances(of), *_notes(of)),
    )
    verdict = replace(verdict, warnings=(*verdict.warnings, *_lost(of, verdict.fisher_p)))
    estimate = reduced.estimate
    if estimate is not None:
        verdict = _with_estimate(verdict, claim, estimate, claims)
    if (blocked := _blocked(of, reduced)) is not None:
        return replace(verdict, why=blocked, p=None, test=None)
    assert estimate is not None  # `_blocked` says where there is none
    least = 0.0 if isinstance(claim, Bound) else claim.margin or 0.0
    word, why = decide(estimate, claim.expected, claim.margin or 0.0, least, claims, offset_of(claim))
    if isinstance(claim, Bound):
        why += f" (claimed: {claim.expected.replace('_', ' ')} {number_text(claim.bound)})"
    few = (f"n = {counted(estimate.n, 'seed')}: {seeds_allow(estimate.n)}",) if estimate.n < ENOUGH_SEEDS else ()
    return replace(verdict, word=word, why=why, warnings=(*few, *verdict.warnings))


def _alarm(reduced: SeedNumbers) -> str:
    """The warning about values that are the same for every seed."""
    alarm = f"identical values for every seed in {', '.join(reduced.flat)}"
    if reduced.resolution is None or reduced.copies:
        return f"{alarm}: check that these are different runs"
    if reduced.paired and not stats.no_spread(list(reduced.numbers.values())):
        return f"{alarm}; judged by the spread of the difference between the sides"
    judged = f"judged as if one value differed by {number_text(reduced.resolution)}"
    return f"{alarm}; {judged}, the smallest difference that this metric can show"


def _notes(of: Sequence[Side]) -> list[str]:
    """What was wrong with a run's file of evaluations."""
    return [text for side in of for text in _notes_of(side.runs, f" of {side.name}")]


def _notes_of(runs: pd.DataFrame, whose: str = "") -> list[str]:
    noted = runs[runs["note"] != ""] if "note" in runs else runs.iloc[:0]
    named = [(f"seed {int(run['seed'])}{whose}", run["note"]) for _, run in noted.iterrows()]
    return [f"{seed}: {'' if 'metrics.csv' in note else 'metrics.csv: '}{note}" for seed, note in named]


def _with_estimate(verdict: Verdict, claim: Seedwise, estimate: stats.Estimate, claims: int) -> Verdict:
    offset = offset_of(claim)
    verdict = replace(verdict, n=estimate.n, mean=own_value(estimate.mean, offset))
    if estimate.n < 3:
        return verdict
    low, high = [own_value(x, offset) for x in estimate.interval() or ()] or (None, None)
    equal = claim.expected == "equal"
    p = estimate.tost(claim.margin or 0.0) if equal else estimate.p
    test = None if p is None else "TOST" if equal else estimate.test
    seen = detectable(estimate, claim.expected, stats.ALPHA / claims)
    return replace(verdict, low=low, high=high, detectable=seen, p=p, test=test)


def _with_counts(blank: Verdict, of: Sequence[Side]) -> Verdict:
    """Runs by side and how many were lost; of an interaction's four sides, Fisher's test joins those of a sign."""
    counts = {what: {side.name: side.count(what) for side in of} for what in (DIVERGED, FAILED)}
    fisher_p = None
    if len(of) > 1:
        cells = []
        for names in (("arm", "other_arm"), ("against", "other_against")):
            joined = [side for side in of if side.name in names]
            cells += [sum(s.count(DIVERGED, FAILED) for s in joined), sum(s.count(DONE) for s in joined)]
        fisher_p = stats.fisher(*cells)
    return replace(blank, runs={side.name: len(side.runs) for side in of}, fisher_p=fisher_p, **counts)


def _lost(of: Sequence[Side], fisher_p: float | None) -> list[str]:
    """What diverged or failed on each side, and whether that differs between them."""
    texts = []
    for side in of:
        found = [f"{n} {what}" for what in (DIVERGED, FAILED) if (n := side.count(what))]
        if found:
            texts.append(f"{side.name}: of {counted(len(side.runs), 'run')}, {' and '.join(found)}")
    if texts and fisher_p is not None:
        texts.append(f"equal loss of runs on both sides: p = {fisher_p:.2g} (Fisher's exact test)")
    return texts


def _left_open(runs: pd.DataFrame, silent: Sequence[str]) -> str | None:
    """Why a claim stays open: unfinished runs, or `silent` ones, which ended without a number; None where there are neither."""
    if waiting := int(runs["status"].isin(UNFINISHED).sum()):
        return f"{NOT_YET} decided: {len(runs) - waiting} of {counted(len(runs), 'run')} ended"
    if silent:
        more = f" and {len(silent) - 3} more" if len(silent) > 3 else ""
        return f"no number from {', '.join(silent[:3])}{more}; dropping runs because of how they ended would bias the verdict"
    return None


def _blocked(of: Sequence[Side], reduced: SeedNumbers) -> str | None:
    """Why nothing can be concluded whatever the numbers are, None where they may speak."""
    runs = pd.concat([side.runs for side in of])
    silent = [text for side in of for text in side.silent]
    if (reason := _left_open(runs[~runs.index.duplicated()], silent)) is not None:
        return reason
    if reduced.estimate is None:
        return f"no seed has a run on every side: {'; '.join(reduced.absent)}"
    if reduced.copies:
        return f"{' and '.join(reduced.copies)} have the same losses throughout, so they count as one run"
    if reduced.flat and reduced.resolution is None:
        return f"{', '.join(reduced.flat)}: bit-identical values for all seeds, which count as one run"
    return None


# ------------------------------------------------------------------------------------------- correlations, explanations
def _correlated(blank: Verdict, claim: Correlation, runs: pd.DataFrame, rows: pd.DataFrame, claims: int) -> Verdict:
    found = stats.spearman(rows[claim.metric].to_numpy(), rows[claim.other].to_numpy(), rows["seed"].to_numpy())
    plain, interval = found.interval(), found.interval(1 - stats.ALPHA / claims)
    low, high = plain if plain is not None and found.clusters > 2 else (None, None)
    counts = {what: {"arm": int((runs["status"] == what).sum())} for what in (DIVERGED, FAILED)}
    lost = counts[DIVERGED]["arm"]
    verdict = replace(
        blank,
        n=found.clusters,
        mean=found.rho,
        low=low,
        high=high,
        runs={"arm": len(runs)},
        warnings=(*_notes_of(runs), *([f"{lost} of {len(runs)} runs diverged; {_INCLUDED}"] if lost else [])),
        **counts,
    )
    if (reason := _left_open(runs, _silent(runs))) is not None:
        return replace(verdict, why=reason)
    if found.rho is None:
        return replace(verdict, why=f"{claim.metric} or {claim.other} is constant or missing, so there is no rank correlation")
    if found.clusters < ENOUGH_SEEDS:
        few = f"{counted(found.clusters, 'seed')}: too few for a correlation; {ENOUGH_SEEDS} are needed"
        return replace(verdict, why=few)
    if plain is None or interval is None:
        return replace(verdict, why="no interval: leaving out one seed at a time gives the same rho every time, or none")
    beyond, short = interval[0] > claim.bound, interval[1] < claim.bound
    if claim.expected == "lower":
        beyond, short = short, beyond
    span = f"rho {number_text(found.rho)}, {interval_text(plain, interval, claims)}"
    over_points = f"over {found.points} evaluations of {len(runs)} runs with {found.clusters} seeds"
    word: Word = "reproduced" if beyond else "not reproduced" if short else "inconclusive"
    return replace(verdict, word=word, why=f"{span} {over_points}; the bound is {number_text(claim.bound)}")


def _silent(runs: pd.DataFrame) -> list[str]:
    """Runs that failed or have no evaluation to rank, in words."""
    silent = runs[(runs["status"] == FAILED) | (runs["points"] == 0)]
    return [f"seed {int(run['seed'])} ({run['status']})" for _, run in silent.iterrows()]


def _explained(verdict: Verdict, by: Sequence[str], judged: Mapping[str, Verdict]) -> Verdict:
    """ "explained otherwise" where a claim holds and all that would explain it do, too."""
    if not by or verdict.word != "reproduced":
        return verdict
    if unknown := [name for name in by if name not in judged]:
        why = f"explained_by={unknown[0]}: the sweep has no such claim{suggestion(unknown[0], judged)}"
        return replace(verdict, word="inconclusive", why=why)
    words = {name: judged[name].word for name in by}
    if all(word == "reproduced" for word in words.values()):
        return replace(
            verdict,
            word="explained otherwise",
            why=f"{verdict.why}; but {', '.join(by)} {'holds' if len(by) == 1 else 'hold'} too, which explains it",
        )
    if "not reproduced" in words.values():
        return verdict
    left = ", ".join(name for name, word in words.items() if word == "inconclusive")
    return replace(verdict, warnings=(*verdict.warnings, f"whether {left} explains it is still open"))


def rows(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Verdicts as a frame, one row a claim and a column a field; None as NaN in its numbers."""
    table = pd.DataFrame([vars(v) for v in verdicts], columns=list(Verdict.__dataclass_fields__))
    numeric = ["mean", "low", "high", "p", "p_holm", "margin", "detectable", "fisher_p"]
    return table.assign(**{c: np.array([np.nan if x is None else x for x in table[c]], dtype="float64") for c in numeric})

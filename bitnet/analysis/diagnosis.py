"""What kind of collapse a run shows, from its record alone: the answer in one sentence and the numbers behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from bitnet.analysis import collapse
from bitnet.analysis.advice import Case, Hint, hints
from bitnet.analysis.collapse import (
    CLOSE_NATS,
    COLLAPSED,
    FLAT,
    FLAT_SPREAD,
    FREQUENCY,
    REPETITION,
    REPETITIVE,
    SLACK_NATS,
    WARM_UP,
    classify,
    run_facts,
    thresholds,
    warmup_steps,
)
from bitnet.analysis.frames import read_runs
from bitnet.common.console import say
from bitnet.common.errors import UserError
from bitnet.runs.columns import HOW, NOISE_SIDE, TEXT_NUMBERS
from bitnet.runs.folders import checkpoint_parts
from bitnet.runs.record import RunRecord
from bitnet.runs.statuses import DIVERGED, MISSING, QUEUED

_TEXT_NAMES = {"seq_rep_4": "repeated 4-grams", "distinct_1": "distinct tokens / tokens", "diversity": "diversity"}


# ------------------------------------------------------------------------------------------------------------ diagnosis
@dataclass(frozen=True)
class Diagnosis:
    """What is said of a run; `as_dict` is what --format json prints."""

    case: Case
    headline: str
    hints: list[Hint]

    @property
    def stretches(self) -> list[tuple[str, int, int]]:
        """Class, first and last step of each stretch of equal classes after warm-up."""
        judged = self.case.course[~self.case.course["kind"].isin([WARM_UP])].dropna(subset="kind")
        runs = groupby(zip(judged["kind"], judged["Step"], strict=True), key=lambda pair: pair[0])
        listed = [(kind, [int(step) for _, step in group]) for kind, group in runs]
        return [(kind, steps[0], steps[-1]) for kind, steps in listed]

    def as_dict(self) -> dict[str, Any]:
        """Plain values; what is missing is null."""
        case, run = self.case, self.case.run
        worst = None if case.worst is None else {"step": int(case.worst["Step"]), "class": case.worst["kind"]}
        return {
            "run": run["id"],
            "folder": run["folder"],
            "label": run["label"],
            "seed": int(run["seed"]),
            "status": run["status"],
            "steps": int(run["steps"]),
            "headline": self.headline,
            "worst": worst,
            "stretches": [{"class": k, "first_step": a, "last_step": b} for k, a, b in self.stretches],
            "facts": {k: _plain(v) for k, v in case.facts.items()},
            "numbers": [dict(zip(("what", "worst", "last", "beside"), row, strict=True)) for row in numbers(self)],
            "tests": [{"class": k, "says": says, "holds": holds} for k, says, holds in tests(case)],
            "hints": [{"arm": h.arm, "why": h.why} for h in self.hints],
        }


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def diagnose(path: Path) -> list[Diagnosis]:
    """Of the run, or of every run, in a folder; of a checkpoint's run up to the step that it was saved at.

    Raises:
        UserError: what is no run, a run that can't be read, or a checkpoint of a step that was not evaluated.
    """
    folder, step = _run_and_step(path)
    records = read_runs([folder])
    if not len(records.runs):
        lost = records.unreadable.iloc[0]
        raise UserError(f"{lost['folder']}: can't be read as a run ({lost['reason']})")
    for lost, why in records.unreadable[["folder", "reason"]].to_numpy().tolist():
        say(f"note: {lost}: can't be read as a run, skipped ({why})")
    for run in records.runs.itertuples():
        if run.note:
            say(f"note: {run.folder}: {run.note}")
    metrics = records.metrics if step is None else _until(records.metrics, step, path)
    kinds, facts = classify(records.runs, metrics), run_facts(records.runs, metrics)
    metrics = metrics.assign(kind=kinds)
    found = []
    for run_id, run in records.runs.iterrows():
        course = metrics[metrics["run"] == run_id]
        case = Case(run, course, _worst(course), facts.loc[run_id], _heldout_text(Path(run["folder"])))
        found.append(Diagnosis(case, _headline(case), hints(case)))
    return found


def _run_and_step(path: Path) -> tuple[Path, int | None]:
    """The folder to read and, for a checkpoint, its step."""
    if path.is_dir():
        return path, None
    parts = checkpoint_parts(path.name.removesuffix(".damaged"))
    if not path.is_file():
        raise UserError(f"{path}: no such run or checkpoint")
    if parts is None or not (path.resolve().parent.parent / "run.json").is_file():
        raise UserError(f"{path}: not a checkpoint in a run's folder; give a run, or its checkpoints/step-....safetensors")
    return path.resolve().parent.parent, parts[0]


def _until(metrics: pd.DataFrame, step: int, path: Path) -> pd.DataFrame:
    """The evaluations up to a checkpoint's step, at which there must be one."""
    steps = metrics["Step"]
    if not (steps == step).any():
        near = sorted(steps, key=lambda s: abs(s - step))[:2]
        there = " and ".join(f"{int(s):,}" for s in sorted(near)) or "none"
        raise UserError(
            f"{path.name}: its run was not evaluated at step {step:,} (nearest: {there}); give the run's folder instead, or "
            "save at steps that are evaluated (checkpoint.every a multiple of eval_every)"
        )
    return metrics[steps <= step]


def _worst(course: pd.DataFrame) -> pd.Series | None:
    collapsed = course[course["kind"].isin(COLLAPSED)]
    return collapsed.loc[collapsed["heldout_loss"].idxmax()] if len(collapsed) else None


def _heldout_text(folder: Path) -> dict[str, float | None]:
    """The text numbers of what really follows the prompts; empty where the run has not recorded them."""
    return RunRecord(folder).read().get("heldout_text") or {}


def _headline(case: Case) -> str:
    """The answer in one sentence."""
    course, facts, run = case.course, case.facts, case.run
    judged = course[(course["kind"] != WARM_UP) & course["kind"].notna()]
    remarks = f" The loss was not finite at step {run['step']:,.0f}: the run diverged." if run["status"] == DIVERGED else ""
    if (apart := run["ln_vocab"] - run["unigram_entropy"]) < CLOSE_NATS:
        remarks += (
            f" In this data all tokens are about equally frequent (ln V is {apart:.2f} nats above the unigram entropy), so "
        )
        remarks += "flat logits can't be told apart from learned frequencies."
    if not len(judged):
        return f"Nothing can be said yet: {_why_nothing(case)}.{remarks}"
    last = judged.iloc[-1]
    at_last = f"at step {last['Step']:,.0f}"
    if case.worst is None:
        circles = (
            " Its greedy continuations repeat themselves, which is a decoding problem." if last["kind"] == REPETITION else ""
        )
        remarks = _lacking(case) + circles + _too_high(case) + remarks
        return f"No collapse in {len(judged)} evaluations after warm-up, up to step {last['Step']:,.0f}.{remarks}"
    kind = case.worst["kind"]
    if math.isnan(facts["onset_step"]):
        seen = f"{kind.capitalize()} at step {case.worst['Step']:,.0f}, {last['kind']} {at_last}"
        return f"{seen}; when it began and ended is unknown.{_lacking(case)}{remarks}"
    onset = facts["onset_step"]
    already = onset == judged["Step"].iloc[0]
    begins = f"{kind.capitalize()} {'already at' if already else 'from'} step {onset:,.0f}"
    begins += ", the first evaluation after warm-up" if already else " on"
    above = last["heldout_loss"] - run["unigram_entropy"]
    deep = f"worst at step {case.worst['Step']:,.0f}, {facts['depth']:.2f} nats above the unigram entropy (ln V is "
    deep += f"{run['ln_vocab'] - run['unigram_entropy']:.2f} above it)"
    if math.isnan(facts["recovery_step"]):
        what = "" if last["kind"] == kind else f"{last['kind']}, "
        now = f", now {what}{above:+.2f} nats from the unigram entropy" if last["Step"] > case.worst["Step"] else ""
        end = f"not recovered by step {last['Step']:,.0f}{now}"
    else:
        end = f"recovered at step {facts['recovery_step']:,.0f}, after {facts['duration_steps']:,.0f} steps"
        end += "; its greedy continuations now repeat themselves" if last["kind"] == REPETITION else ""
    return f"{begins}; {deep}; {end}.{remarks}"


def _lacking(case: Case) -> str:
    unknown = int(case.course["kind"].isna().sum())
    lack, them = ("s lack", "them") if unknown > 1 else (" lacks", "it")
    return f" {unknown} more evaluation{lack} the numbers needed to classify {them}." if unknown else ""


def _too_high(case: Case) -> str:
    """Of a run without a collapse: whether its last loss is that of a model that knows less than it could without context."""
    loss, top, low = case.last["heldout_loss"], case.run["ln_vocab"], case.run["unigram_entropy"]
    if loss > top + SLACK_NATS:
        return (
            f" But its held-out loss, {loss:.2f}, is above ln V ({top:.2f}): it is confidently wrong, worse than a uniform guess."
        )
    if loss > low + SLACK_NATS:
        return f" But its held-out loss, {loss:.2f}, is above the unigram entropy ({low:.2f}): it does not use the context yet."
    return ""


def _why_nothing(case: Case) -> str:
    if case.run["status"] in (QUEUED, MISSING) and not len(case.course):
        return "the run has not begun"
    if not len(case.course) and case.run["note"]:
        return case.run["note"]
    warmup = warmup_steps(case.run["config"])
    if not len(case.course) or (case.course["kind"] == WARM_UP).any():
        return f"there is no evaluation after warm-up ({warmup:,.0f} steps)"
    return "its evaluations lack the held-out loss, the logit spread or the corpus's unigram entropy"


# -------------------------------------------------------------------------------------------------------------- numbers
def numbers(d: Diagnosis) -> list[tuple[str, float | None, float | None, str]]:
    """What is measured, its value at the worst collapsed evaluation and at the last one, and what to hold it against."""
    case, run = d.case, d.case.run
    if not len(case.course):
        return []
    last, first = case.last, case.course.iloc[0]
    at_start = f", {first['logit_std']:.2f} at step {first['Step']:,.0f}" if first["logit_std"] == first["logit_std"] else ""
    positions, targets = (_count(last[f"heldout_{k}"]) for k in ("positions", "distinct_targets"))
    rows = [
        ("held-out loss", "heldout_loss", f"ln V {run['ln_vocab']:.2f}, unigram entropy {run['unigram_entropy']:.2f}"),
        ("standard deviation of the logits", "logit_std", f"flat below {FLAT_SPREAD:g}{at_start}"),
        ("entropy of a prediction", "entropy_mean", f"ln V {run['ln_vocab']:.2f} when uniform"),
        ("distinct predictions", "heldout_uniq", f"{targets} distinct targets at {positions} positions"),
        ("entropy of these predictions", "entropy_argmax", "0 when all are the same token"),
        ("study's count", "UniquePredictions", f"at most {_count(run['ceiling'])}; says little when logits are flat"),
    ]
    for name, says in _TEXT_NAMES.items():
        beside = _of_text(name, case.own_text.get(name))
        rows += [(f"{says}, {how}", f"{how}_{name}", beside) for how in HOW if name in TEXT_NUMBERS]
    at_worst = pd.Series(dtype="float64") if case.worst is None else case.worst
    return [(what, _number(at_worst.get(column)), _number(last.get(column)), beside) for what, column, beside in rows]


def _of_text(name: str, own: float | None) -> str:
    """What a number of continuations is held against: the text's own value, which is good, and where noise lies from it."""
    noise = NOISE_SIDE[name]
    circles = "lower" if noise == "higher" else "higher"
    if own is None:
        return f"noise has the {noise[:-2]}est; the held-out text's own is not recorded"
    return f"{own:.2f} in the held-out text ({noise}: noise, {circles}: circles)"


def _number(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _count(value: float) -> str:
    return "?" if math.isnan(value) else f"{value:,.0f}"


def tests(case: Case) -> list[tuple[str, str, bool]]:
    """What tells the kinds apart, and whether it holds at the worst evaluation (the last one of a run without a collapse)."""
    row = case.worst if case.worst is not None else case.last if len(case.course) else None
    if row is None or not isinstance(row["kind"], str) or row["kind"] == WARM_UP:
        return []
    of = pd.concat([row, case.run[["ln_vocab", "unigram_entropy"]]])
    limit, loss, circles = thresholds(of), row["heldout_loss"], row["greedy_seq_rep_4"]
    repeats = "not measured" if math.isnan(circles) else f"{circles:.0%}"
    low, few, uniq = f"{limit['low']:.2f} (here {loss:.2f})", f"{limit['few']:.0f}", f"{row['heldout_uniq']:,.0f}"
    says = {
        FLAT: f"loss above {limit['flat']:.2f} (here {loss:.2f}), logit sd below {FLAT_SPREAD:g} (here {row['logit_std']:.3g})",
        FREQUENCY: f"at most {few} distinct predictions (here {uniq}) and loss of at least {low}",
        REPETITION: f"loss below {low} and at least {REPETITIVE:.0%} of greedy 4-grams repeated (here {repeats})",
    }
    return [(kind, says[kind], bool(holds)) for kind, holds in collapse.class_tests(of).items()]

"""Verdicts and effects in words and numbers, for the page and for the text report alike.

Everything said here follows from verdicts by rule; nothing is said that no verdict holds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from bitnet.analysis.collapse import SLACK_NATS
from bitnet.common.text import DASH, counted, format_significant
from bitnet.config.claims import (
    DERIVED,
    ENOUGH_SEEDS,
    RUN_FACTS,
    AnyClaim,
    Bound,
    Change,
    Contrast,
    Correlation,
    Interaction,
    Selector,
)
from bitnet.reporting.text_layout import Section
from bitnet.runs.columns import OTHER_COLUMNS
from bitnet.runs.statuses import DIVERGED, DONE, FAILED, UNFINISHED
from bitnet.verdicts.crossing import MOMENTS, Effects
from bitnet.verdicts.experiment import Experiment
from bitnet.verdicts.selection import NOT_YET
from bitnet.verdicts.verdict import Verdict

WORDS = ("reproduced", "not reproduced", "explained otherwise", "inconclusive")

_NATS = {"Loss", "regularizer_loss", "heldout_loss", "depth"}


# -------------------------------------------------------------------------------------------------------------- numbers
def short_number(x: float | None, *, sign: bool = False) -> str:
    """A number with three or four digits that count; the dash for what is missing."""
    if x is None or math.isnan(x):
        return DASH
    return format_significant(x, 3 if abs(x) >= 1e-3 else 2, sign=sign)


def unit_of(claim: AnyClaim) -> str:
    """Of the number that a claim comes down to; empty for a pure number."""
    if isinstance(claim, Correlation):
        return "rho"
    if isinstance(claim, Change) and claim.relative:
        return "of the earlier value"
    name = claim.metric
    if name in _NATS or "nats" in (OTHER_COLUMNS | DERIVED).get(name, ""):
        return "nats"
    if name.endswith(("_step", "_steps")):
        return "steps"
    return "tokens" if name.endswith("_uniq") or "_uniq_" in name or name == "UniquePredictions" else ""


def effect_text(verdict: Verdict, claim: AnyClaim) -> str:
    """The mean with its 95 % interval and unit; of a bound the value itself, not its distance."""
    if verdict.mean is None:
        return DASH
    sign = not isinstance(claim, Bound | Correlation)
    text = short_number(verdict.mean, sign=sign)
    if verdict.low is not None and verdict.high is not None:
        low, high = (short_number(x, sign=sign) for x in (verdict.low, verdict.high))
        text += f" [{low}, {high}]"
    return f"{text} {unit_of(claim)}".rstrip()


def sides_text(verdict: Verdict, claim: AnyClaim) -> str:
    """Both sides' means: `10.1 minus 7.43`; empty unless the claim contrasts two."""
    if not isinstance(claim, Contrast) or not verdict.sides:
        return ""
    means = [sum(values.values()) / len(values) if values else None for values in verdict.sides.values()]
    return " minus ".join(short_number(m) for m in means) if None not in means else ""


def p_text(verdict: Verdict) -> str:
    """`0.031 (sign-flip), 0.062 after Holm`."""
    if verdict.p is None:
        return DASH
    holm = "" if verdict.p_holm is None else f", {verdict.p_holm:.2g} after Holm"
    return f"{verdict.p:.2g} ({verdict.test}){holm}"


def margin_text(verdict: Verdict, claim: AnyClaim) -> str:
    """The smallest effect that matters, with its unit."""
    return DASH if verdict.margin is None else f"{short_number(verdict.margin)} {unit_of(claim)}".rstrip()


def published_text(verdict: Verdict) -> str:
    """The published figure as the claim has it."""
    return DASH if verdict.published is None else str(verdict.published)


def seeds_text(verdict: Verdict, claim: AnyClaim) -> str:
    """Every seed's number: `0: +5.21, 1: +5.13`; of unpaired sides each side's values."""
    sign = not isinstance(claim, Bound)
    if verdict.numbers:
        return ", ".join(f"{seed}: {short_number(x, sign=sign)}" for seed, x in verdict.numbers.items())
    return "; ".join(
        f"{name} " + ", ".join(f"{seed}: {short_number(x)}" for seed, x in values.items())
        for name, values in (verdict.sides or {}).items()
        if values
    )


# --------------------------------------------------------------------------------------------------------------- claims
def selector_text(selector: Selector) -> str:
    """An arm's name, or what its runs chose."""
    if isinstance(selector, str):
        return selector
    return ", ".join(f"{key}={value}" for key, value in selector.items()) or "all runs"


def measured_text(claim: AnyClaim) -> str:
    """What a claim compares and expects: `heldout_loss at the end: control minus treated, claimed: lower by at least 0.5`."""
    if isinstance(claim, Correlation):
        relation = "above" if claim.expected == "higher" else "below"
        where = selector_text(claim.arm)
        return f"rank correlation of {claim.metric} and {claim.other}, {where}, claimed: {relation} {short_number(claim.bound)}"
    what = claim.metric if claim.metric in RUN_FACTS else f"{claim.metric} at {moment_text(claim.at)}"
    if isinstance(claim, Change):
        return f"{what} minus that at {moment_text(claim.since)}, {selector_text(claim.arm)}, claimed: {_expected_text(claim)}"
    if isinstance(claim, Bound):
        within = "" if claim.margin is None or claim.expected != "equal" else f" within {short_number(claim.margin)}"
        relation = "equal to" if claim.expected == "equal" else claim.expected.replace("_", " ")
        return f"{what}, {selector_text(claim.arm)}, claimed: {relation} {short_number(claim.bound)}{within}"
    text = _less(claim.arm, claim.against)
    if isinstance(claim, Interaction):
        text = f"({text}) minus ({_less(claim.other_arm, claim.other_against)})"
    return f"{what}: {text}, claimed: {_expected_text(claim)}"


def _expected_text(claim: Contrast | Interaction | Change) -> str:
    """`lower by at least 0.5`, `equal within 0.1`."""
    share = " of the earlier value" if isinstance(claim, Change) and claim.relative else ""
    return f"{claim.expected} {'within' if claim.expected == 'equal' else 'by at least'} {short_number(claim.margin)}{share}"


def moment_text(at: int | float | str) -> str:
    """A claim's moment; a number means the first evaluation from there on."""
    if isinstance(at, str):
        return f"the {at}"
    return f"step {at:,.0f} (or the next evaluation)" if at >= 1 else f"{at:g} of the run (or the next evaluation)"


def _less(arm: Selector, against: Selector) -> str:
    """`a minus b`, with what both share said once."""
    if isinstance(arm, str) or isinstance(against, str):
        return f"{selector_text(arm)} minus {selector_text(against)}"
    shared = {key: value for key, value in arm.items() if key in against and against[key] == value}
    first, second = ({k: v for k, v in side.items() if k not in shared} for side in (arm, against))
    return f"{selector_text(first)} minus {selector_text(second)}" + (f", where {selector_text(shared)}" if shared else "")


def claims_section(experiment: Experiment) -> Section | None:
    """The claims of a sweep as a printed table, None where it claims nothing."""
    if not experiment.verdicts and experiment.problem is None:
        return None
    lines = [f"{experiment.declaration.sweep.get('question') or experiment.name}"]
    if experiment.problem is not None:
        lines.append(f"The claims can't be judged: {experiment.problem}")
    lines.append("Mean over seeds with its 95 % interval; margin: the smallest effect that matters.")
    lines += [f"Note: {note}." for note in experiment.declaration.notes]
    names = pd.Index([v.claim for v in experiment.verdicts], name="claim")
    pairs = [(v, experiment.claims[v.claim]) for v in experiment.verdicts]
    numbers = {
        "verdict": [v.word for v, _ in pairs],
        "n": [str(v.n) for v, _ in pairs],
        "ours": [effect_text(v, c) for v, c in pairs],
        "every seed": [seeds_text(v, c) or DASH for v, c in pairs],
        "margin": [margin_text(v, c) for v, c in pairs],
        "p": [p_text(v) for v, _ in pairs],
        "published": [published_text(v) for v, _ in pairs],
    }
    reasons = {
        "claims that": [v.says for v, _ in pairs],
        "measured": [f"{measured_text(c)} ({both})" if (both := sides_text(v, c)) else measured_text(c) for v, c in pairs],
        "why": [v.why for v, _ in pairs],
        "warnings": ["; ".join(v.warnings) or DASH for v, _ in pairs],
    }
    frames = [pd.DataFrame(columns, index=names) for columns in (numbers, reasons)]
    return Section(f"Claims of {experiment.name}: {count_verdicts(experiment.verdicts)}", "\n".join(lines), frames)


def count_verdicts(verdicts: Sequence[Verdict]) -> str:
    """`2 reproduced, 1 inconclusive`."""
    counts = Counter(v.word for v in verdicts)
    return ", ".join(f"{counts[word]} {word}" for word in WORDS if counts[word]) or "none"


# --------------------------------------------------------------------------------------------------------------- answer
def answer(experiments: Sequence[Experiment]) -> list[str]:
    """What all of it says, as sentences: how many claims got which word, what the crossed sweeps decided, on how much."""
    sweeps = [e for e in experiments if e.verdicts and e.leading]
    verdicts = [v for e in sweeps for v in e.verdicts]
    if not verdicts:
        return ["No sweep here declares a claim, so there are no verdicts; the runs are described below.", _runs(experiments)]
    said = [f"{counted(len(verdicts), 'claim')} of {counted(len(sweeps), 'sweep')}: {count_verdicts(verdicts)}."]
    if waiting := sum(v.why.startswith(NOT_YET) for v in verdicts):
        said.append(f"{waiting} of the inconclusive claims {'is' if waiting == 1 else 'are'} waiting for unfinished runs.")
    for experiment in sweeps:
        if experiment.factors or len(sweeps) == 1:
            said += _of_one(experiment)
    decided = [v.n for v in verdicts if v.word != "inconclusive"]
    if decided:
        few = "too few for a sign-flip p below 0.05; the intervals decide" if max(decided) < ENOUGH_SEEDS else "see each claim"
        ns = f"{min(decided)}" if min(decided) == max(decided) else f"{min(decided)} to {max(decided)}"
        said.append(f"The decided claims rest on n = {ns} seeds ({few}).")
    if scales := sorted({e.declaration.scale for e in sweeps if e.declaration.scale not in (None, "full")}):
        said.append(f"Run at scale={', '.join(scales)}, not at the full size that the sweeps are written for.")
    if resized := sorted({o for e in sweeps if e.declaration.scale is None for o in _resized(e)}):
        said.append(f"Run with {' '.join(resized)} on the command line, which overrides the sweep files.")
    if late := sum(len(e.declaration.late) for e in sweeps):
        said.append(f"{counted(late, 'claim')} {'was' if late == 1 else 'were'} declared or changed after the first run began.")
    if known := sum(len(e.declaration.known) for e in sweeps):
        were = "was" if known == 1 else "were"
        said.append(f"{counted(known, 'claim')} {were} declared when some of the results already existed, from another sweep.")
    if apart := [e for e in experiments if not e.leading]:
        runs = sum(len(e.records.runs) for e in apart)
        differ, are = ("differs", "it is") if runs == 1 else ("differ", "they are")
        said.append(
            f"{counted(runs, 'more run')} in these folders {differ} in scale, length, data or overrides; {are} judged separately "
            "and not counted above."
        )
    return [*said, _runs(experiments)]


def _resized(experiment: Experiment) -> list[str]:
    """Lengths and sizes that were typed beside the sweep's name."""
    runs = experiment.records.runs
    typed = [
        set(given) - {f"{k}={v}" for k, v in own.items()} for given, own in zip(runs["overrides"], runs["written"], strict=True)
    ]
    return [o for o in set.intersection(*typed) if o.startswith(("steps=", "model="))] if typed else []


def _of_one(experiment: Experiment) -> list[str]:
    said = []
    for word, opening in zip(WORDS[:3], ("reproduced", "not reproduced", "seen, but explained otherwise"), strict=True):
        if texts := [v.says.rstrip(".") for v in experiment.verdicts if v.word == word]:
            quoted = "; ".join(f"\u201c{text}\u201d" for text in texts)
            said.append(f"{capitalised(experiment.name)}, {opening}: {quoted}.")
    if not said:
        said.append(f"{capitalised(experiment.name)} has no decided claim yet.")
    # shares of a spread that is no larger than the error of a held-out loss answer no question
    shares = [text for e in experiment.effects if e.seeds > 2 and e.spread > SLACK_NATS and (text := shares_text(e))]
    return said + [f"{capitalised(experiment.name)}: {text[0].lower()}{text[1:]}" for text in shares]


def shares_text(effects: Effects) -> str:
    """Which effect accounts for most of the variance of the held-out loss, and which comes next; empty without an analysis."""
    if effects.table is None or effects.table["share"].isna().all():
        return ""
    table = effects.table.sort_values("share", ascending=False, kind="stable")
    (first, most), *others = table[["effect", "share"]].head(3).to_numpy().tolist()
    names = {"seed": "the seed", "residual": "the residual"}
    seen = [f"{names.get(effect, effect)} ({share:.0%})" for effect, share in others if share >= 0.005]  # what rounds to 1 %
    behind = f"next {'come' if len(seen) > 1 else 'comes'} {' and '.join(seen)}" if seen else "nothing else accounts for 1%"
    variance = f"the variance of the held-out loss {MOMENTS[effects.moment]} (sd {short_number(effects.spread)} nats)"
    text = f"{capitalised(names.get(first, first))} accounts for {most:.0%} of {variance}; {behind}."
    return " ".join([text, inert_text(effects)]).rstrip()


def inert_text(effects: Effects) -> str:
    """Which factors have had no effect, and that their runs count once; empty where all have had one."""
    if not effects.inert:
        return ""
    names, (have, them) = capitalised(", ".join(effects.inert)), ("has", "it") if len(effects.inert) == 1 else ("have", "them")
    return f"{names} {have} had no effect by then: runs that differ only in {them} are identical and count once."


def _runs(experiments: Sequence[Experiment]) -> str:
    statuses = Counter(status for e in experiments for status in e.records.runs["status"])
    total, left = sum(statuses.values()), sum(statuses[s] for s in UNFINISHED)
    parts = [f"{statuses[DONE]:,} finished", *(f"{statuses[s]:,} {s}" for s in (DIVERGED, FAILED) if statuses[s])]
    lost = {folder for e in experiments for folder in e.records.unreadable["folder"]}
    unread = f" {counted(len(lost), 'more folder')} can't be read as {'a run' if len(lost) == 1 else 'runs'}." if lost else ""
    if statuses[DONE] == total:
        return f"{f'All {total:,} runs' if total > 1 else 'The one run'} finished.{unread}"
    return f"{counted(total, 'run')}: {', '.join([*parts, *([f'{left:,} unfinished'] if left else [])])}.{unread}"


def capitalised(text: str) -> str:
    """As a sentence begins; the rest as it is, for a name may hold capitals that matter."""
    return text[:1].upper() + text[1:]

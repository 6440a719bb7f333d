"""A diagnosis as text."""

from __future__ import annotations

import textwrap

from tabulate import tabulate

from bitnet.analysis.advice import Hint
from bitnet.analysis.collapse import FLAT, FREQUENCY
from bitnet.analysis.diagnosis import Diagnosis, numbers, tests
from bitnet.common.text import DASH

_WIDTH = 110

_MEANS = {
    FLAT: "every token is about equally likely, and which ones come out on top hardly depends on the context",
    FREQUENCY: "the model predicts the few most frequent tokens, whatever the context",
}


def diagnosis_text(d: Diagnosis) -> str:
    """The whole diagnosis for a person."""
    case, run = d.case, d.case.run
    parts = [f"{run['folder']}\nseed {run['seed']:.0f}, {run['status']}, {run['steps']:,.0f} steps\n", wrapped(d.headline)]
    kind = case.worst["kind"] if case.worst is not None else None
    if kind is not None:
        parts.append(wrapped(f"{kind.capitalize()}: {_MEANS[kind]}."))
    if d.stretches:
        parts.append("\nafter warm-up\n" + tabulate([(_steps(a, b), k) for k, a, b in d.stretches], tablefmt="plain"))
    if len(case.course):
        parts.append("\n" + _numbers_table(d))
    held = tests(case)
    if held:
        at = case.worst if case.worst is not None else case.last
        lines = [wrapped(f"{'yes' if holds else 'no ':3}  {k}: {says}", "       ") for k, says, holds in held]
        parts.append(
            f"\nhow the kind was determined, at step {at['Step']:,.0f} (the first that holds decides)\n" + "\n".join(lines)
        )
    if d.hints:
        parts.append("\nwhat the record shows, and what would test it\n" + "\n".join(_hint(h) for h in d.hints))
    elif held:
        parts.append("\nNothing here suggests trying another arm.")
    return "\n".join(parts)


def _steps(first: int, last: int) -> str:
    return f"step {first:,}" if first == last else f"steps {first:,} to {last:,}"


def _numbers_table(d: Diagnosis) -> str:
    case, rows = d.case, numbers(d)
    heads = ["", f"step {case.last['Step']:,.0f}", "beside"]
    if case.worst is None or case.worst["Step"] == case.last["Step"]:
        return tabulate([(a, _shown(c), e) for a, _, c, e in rows], heads, "simple", colalign=("left", "right", "left"))
    heads.insert(1, f"worst, step {case.worst['Step']:,.0f}")
    body = [(a, _shown(b), _shown(c), e) for a, b, c, e in rows]
    return tabulate(body, heads, "simple", colalign=("left", "right", "right", "left"), disable_numparse=True)


def _shown(value: float | None) -> str:
    if value is None:
        return DASH
    if value == int(value):
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}" if abs(value) >= 0.01 else f"{value:.2g}"


def _hint(h: Hint) -> str:
    arm = "" if h.arm is None else f" -> {h.arm}"
    return wrapped(f"- {h.why}{arm}", "  ")


def wrapped(line: str, indent: str = "") -> str:
    return textwrap.fill(line, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)

"""What in a run's own record goes with its collapse, and which arms would tell whether it is the cause.

A rule speaks only when the record holds its evidence; where none does, the advice is the controls that separate what was not
yet separated. Each suggestion changes one thing of the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from bitnet.analysis.collapse import COLLAPSED, FLAT, FREQUENCY, REPETITION, SLACK_NATS
from bitnet.config.base import value_at
from bitnet.runs.statuses import DIVERGED

_SHRUNK = 0.5  # decoupled decay that left more than half of a weight's size is no explanation of logits that vanish


@dataclass(frozen=True)
class Case:
    """A run as far as it is looked at.

    run: its row in `frames.Records.runs`. course: its evaluations in order, with their class in `kind` (NaN: not known).
    worst: the collapsed evaluation with the largest held-out loss, None without a collapse. facts: `collapse.run_facts`.
    own_text: the text numbers of what really follows the prompts, as far as the run has recorded them.
    """

    run: pd.Series
    course: pd.DataFrame
    worst: pd.Series | None
    facts: pd.Series
    own_text: Mapping[str, float | None] = field(default_factory=dict)

    def setting(self, key: str) -> Any:
        """The value at a dotted key of the run's configuration."""
        return value_at(self.run["config"], key)

    @property
    def last(self) -> pd.Series:
        """The last evaluation."""
        return self.course.iloc[-1]


@dataclass(frozen=True)
class Hint:
    """What the record shows (`why`), and the override that would test it (None where no training arm would)."""

    why: str
    arm: str | None = None


def hints(case: Case) -> list[Hint]:
    """What to look at and to try next, the likeliest first; none for a run that shows no collapse."""
    found: list[Hint] = []
    if case.run["status"] == DIVERGED:
        found += _diverged(case)
    kind = None if case.worst is None else case.worst["kind"]
    for rule in _RULES.get(kind, ()):
        found += rule(case)
    if kind == FLAT and not any(h.arm for h in found):
        found += _separate(case)
    if kind != FREQUENCY and len(case.course) and case.last["kind"] == FREQUENCY:
        found += _too_early(case)
    if len(case.course) and case.last["kind"] == REPETITION:
        found += _decoding(case)
    if case.worst is None and len(case.course) and case.last["heldout_loss"] > case.run["ln_vocab"] + SLACK_NATS:
        found.append(
            Hint(
                "the held-out loss is worse than a uniform guess; a lower learning rate shows whether it is too high",
                "lr=reduced",
            )
        )
    return found


# ---------------------------------------------------------------------------------------------------------- flat logits
def _coupled(case: Case) -> list[Hint]:
    """L2 in the gradient, on embedding and head, while the logits went flat."""
    decay, scope = case.worst["wd_applied"], case.setting("optimizer.decay_scope")
    if case.setting("optimizer.kind") != "adam_l2" or not decay > 0:
        return []
    where = "the BitLinear weights alone" if scope == "bitlinear" else "embedding and head included"
    why = f"weight decay {decay:g} was coupled (L2 added to the gradient, which Adam normalises along with the loss's), {where}"
    why += _shrinking(case) + _switched(case)
    found = [Hint(why, "optimizer=adamw")]
    if scope != "bitlinear":
        why = "exempting embedding and head from weight decay shows whether their decay is the cause"
        found.append(Hint(why, "optimizer.decay_scope=bitlinear"))
    return found


def _shrinking(case: Case) -> str:
    """How embedding and head changed in size from the first evaluation to the worst."""
    first, said = case.course.iloc[0], []
    for part in ("embedding", "head"):
        before, after = first[f"latent_{part}"], case.worst[f"latent_{part}"]
        if before > 0 and after > 0 and after < before:
            said.append(f"the {part}'s mean magnitude fell {before / after:,.0f}-fold ({before:.2g} to {after:.2g})")
    steps = f"; from step {first['Step']:,.0f} to {case.worst['Step']:,.0f} "
    return steps + " and ".join(said) if said else ""


def _switched(case: Case) -> str:
    """Whether the collapse outlived a drop of the weight decay."""
    boundary = case.run["boundary_step"]
    after = case.course[case.course["Step"] >= boundary]
    if not len(after) or not case.worst["wd_applied"] > after["WD"].iloc[0]:
        return ""
    less, recovery = after["WD"].iloc[0], case.facts["recovery_step"]
    change = f"; at step {boundary:,.0f} weight decay dropped to {less:g}, and "
    onset, kind = case.facts["onset_step"], case.last["kind"]
    if math.isnan(recovery):
        still = f"{change}the model was still collapsed at step {case.last['Step']:,.0f}"
        other = kind in COLLAPSED and kind != case.worst["kind"]
        return f"{still}, now as {kind} at a held-out loss of {case.last['heldout_loss']:.2f}" if other else still
    return f"{change}the model had recovered by step {recovery:,.0f}" if recovery > boundary > onset else ""


def _decoupled(case: Case) -> list[Hint]:
    if case.setting("optimizer.kind") != "adamw" or not case.worst["wd_applied"] > 0:
        return []
    left = _decay_left(case)
    if left > _SHRUNK:
        return [Hint(f"decoupled weight decay alone leaves {left:.0%} of a weight's size: too weak to flatten the logits")]
    return [Hint(f"decoupled weight decay alone has shrunk weights to {left:.1%} of their size", "wd=none")]


def _decay_left(case: Case) -> float:
    """exp(-sum of lr x weight decay) up to the worst evaluation, from the values at the evaluations."""
    until = case.course[case.course["Step"] <= case.worst["Step"]]
    steps = until["Step"].diff().fillna(until["Step"])
    return math.exp(-float((steps * until["lr_applied"] * until["wd_applied"]).sum()))


def _smoothing(case: Case) -> list[Hint]:
    epsilon = case.setting("smoothing.epsilon")
    return [Hint(f"label smoothing {epsilon:g} rewards flat predictions", "smoothing=none")] if epsilon else []


def _regularizer(case: Case) -> list[Hint]:
    kind, weight = case.setting("regularizer.kind"), case.setting("regularizer.weight")
    return [Hint(f"the regulariser '{kind}' adds {weight:g} x its value to the loss", "regularizer=none")] if weight else []


def _clipping(case: Case) -> list[Hint]:
    """Clipping below 1 shrinks the loss's gradient before the L2 term is added."""
    bound = case.setting("clip.max_norm")
    if bound is None or bound >= 1 or case.setting("optimizer.kind") != "adam_l2" or not case.worst["wd_applied"] > 0:
        return []
    clipped = float((case.course["grad_norm"] > bound).mean())
    why = f"gradients were clipped to {bound:g} before L2 was added, at {clipped:.0%} of the evaluations: L2 gets more weight"
    return [Hint(why, "clip=norm1")] if clipped > 0 else []


def _separate(case: Case) -> list[Hint]:
    """Controls, where nothing in the record goes with the collapse."""
    found = [Hint("nothing in the record explains it; a lower learning rate shows whether it is too high", "lr=reduced")]
    if case.setting("quant.weights") != "float":
        found.append(Hint("float weights show whether quantisation plays any part", "quant=float"))
    return found


# ------------------------------------------------------------------------------------------------------------ frequency
def _too_early(case: Case) -> list[Hint]:
    """Frequencies are what every language model learns first: did it stop there, or was it still learning?"""
    last, course = case.last, case.course
    if last["kind"] not in COLLAPSED:
        return []
    earlier = course[course["Step"] <= 0.75 * last["Step"]]
    if not len(earlier):
        return []
    fell = earlier["heldout_loss"].iloc[-1] - last["heldout_loss"]
    since = f"from step {earlier['Step'].iloc[-1]:,.0f} to {last['Step']:,.0f}"
    tokens = f"{last['tokens']:,.0f} tokens" + _per_parameter(case)
    if fell > SLACK_NATS:
        why = f"frequencies are learned first, and the held-out loss was still falling (by {fell:.2f} {since}) after {tokens}"
        return [Hint(why, f"steps={2 * case.run['steps']:.0f}")]
    return [Hint(f"the held-out loss is no longer falling ({-fell:+.2f} {since}) after {tokens}", "lr=reduced")]


def _per_parameter(case: Case) -> str:
    count = case.run["parameters_total"]
    return f" for {count:,.0f} parameters" if count == count else ""


def _still_coupled(case: Case) -> list[Hint]:
    decay = case.worst["wd_applied"]
    if case.setting("optimizer.kind") != "adam_l2" or not decay > 0:
        return []
    return [
        Hint(f"weight decay {decay:g} is coupled: Adam treats it as part of the gradient" + _shrinking(case), "optimizer=adamw")
    ]


# --------------------------------------------------------------------------------------------------------------- others
def _decoding(case: Case) -> list[Hint]:
    sampled, loss = case.last["sampled_seq_rep_4"], case.last["heldout_loss"]
    own, beside = case.own_text.get("seq_rep_4"), ""
    if not math.isnan(sampled):
        text = "" if own is None else f", {own:.0%} in the held-out text"
        beside = f"; sampled from the same model, {sampled:.0%} of the 4-grams are repeats{text}"
    why = f"greedy continuations repeat themselves, though at a held-out loss of {loss:.2f} the model uses its context{beside}"
    return [Hint(f"{why}: a decoding problem, which no training arm can test; sample instead of taking the argmax")]


def _diverged(case: Case) -> list[Hint]:
    norm = case.course["grad_norm"].dropna()
    seen = f"; its last gradient norm on record is {norm.iloc[-1]:.3g}" if len(norm) else ""
    found = [Hint(f"the loss was not finite{seen}", "lr=reduced")]
    return found + ([Hint("gradients were not clipped", "clip=norm1")] if case.setting("clip.max_norm") is None else [])


_RULES: dict[str | None, tuple[Callable[[Case], list[Hint]], ...]] = {
    FLAT: (_coupled, _decoupled, _clipping, _smoothing, _regularizer),
    FREQUENCY: (_still_coupled, _too_early),
}

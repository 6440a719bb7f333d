"""What each metric is counted over: its ceiling, its denominator, the positions and the vocabulary that it is a mean over.

Where these differ, so do the numbers, whatever the models do: 4 distinct predictions of 20 contexts are not 4 of 200, and a
loss over other positions or tokens is the loss of another text. Such numbers are neither compared nor averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bitnet.config.base import value_at
from bitnet.config.claims import AnyClaim, Correlation
from bitnet.runs.columns import HOW, PARTS, TEXT_NUMBERS

CONTINUATIONS = ("probe.prompts", "probe.new_tokens")

POSITIONS = ("probe.heldout_sequences", "seq_len")

_HELDOUT = ("heldout_loss", "heldout_uniq", "heldout_distinct_targets", "entropy_", "top1_prob", "logit_", "logsumexp_", "rep_")

_PER_TOKEN = ("heldout_loss", "entropy_mean", "Loss", "train_loss")

# What metrics go by, by the beginning of their names: dotted keys of the configuration, and columns of
# `analysis.frames.Records.runs`. The first that fits counts; a metric that none fits is the same number everywhere.
_KEYS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("heldout_below_", "entropy_below_", "depth"): POSITIONS,  # relative to the vocabulary already
    ("contexts_uniq",): ("probe.contexts", "probe.context_length", "vocab_size"),
    ("random_uniq_", "text_uniq_"): ("probe.context_length", "vocab_size"),
    ("first_batch_",): ("batch_size", "seq_len", "vocab_size"),
    _HELDOUT: (*POSITIONS, "vocab_size"),
    tuple(f"{how}_{name}" for how in HOW for name in TEXT_NUMBERS): (*CONTINUATIONS, "seq_len", "vocab_size"),
    ("Loss", "train_loss"): ("seq_len", "vocab_size"),
    ("duration_steps",): ("steps", "eval_every"),
    ("onset_step", "recovery_step"): ("eval_every",),
    ("outside_codes",): ("parameters_attention", "parameters_ffn"),
    ("outside_latents",): ("parameters_total",),
    **{(f"outside_{part}",): (f"parameters_{part}",) for part in PARTS},
}


def measured_over(metric: str, config: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a metric of a run is counted over, by key or column; what is not known is left out.

    Args:
        config: of the run, as plain containers.
        facts: columns of `analysis.frames.Records.runs`; empty before a run.
    """
    own: dict[str, Any] = {}
    if metric == "UniquePredictions":
        own, metric = {"probe.metric": value_at(config, "probe.metric")}, "contexts_uniq"
        if own["probe.metric"] == "first_batch":
            metric = "first_batch_uniq"
    keys = next((keys for names, keys in _KEYS.items() if metric.startswith(names)), ())
    own |= {key: facts[key] if key in facts else value_at(config, key) for key in keys}
    return {key: value for key, value in own.items() if value is not None and value == value}


def why_unlike(metric: str, sides: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | None:
    """Why a metric can't be averaged within these sides, or compared between them; None where it can.

    Args:
        sides: by name, what the metric is `measured_over` in each of its runs.
    """
    for key in dict.fromkeys(key for runs in sides.values() for run in runs for key in run):
        found = {name: {run[key] for run in runs if key in run} for name, runs in sides.items()}
        there = sorted(set().union(*found.values()))
        if len(there) < 2:
            continue
        mixed = next((name for name, values in found.items() if len(values) > 1), None)
        who, what = ("the sides", "compared") if mixed is None else (f"{mixed}: its runs", "averaged")
        listed = ", ".join(value if isinstance(value, str) else f"{value:,.10g}" for value in there)
        why = f"{who} have {metric} at different {key} ({listed}), and such numbers can't be {what}"
        if key == "vocab_size" and metric in _PER_TOKEN:
            why += "; metrics that are relative to ln V, or to the unigram entropy, can (heldout_below_uniform)"
        return why
    return None


def metrics_of(claim: AnyClaim) -> list[str]:
    """The metrics that a claim is about."""
    return [claim.metric, claim.other] if isinstance(claim, Correlation) else [claim.metric]

"""The least that two values of a metric can differ by: what equal values over seeds are taken to hide."""

from __future__ import annotations

import math

import pandas as pd

from bitnet.config.base import value_at
from bitnet.config.claims import DERIVED
from bitnet.config.measured import CONTINUATIONS, POSITIONS
from bitnet.runs.columns import HOW, INTEGERS

_WHOLE = INTEGERS | {"collapsed_at_end", "diverged"}

_STEPS = {"onset_step", "duration_steps", "recovery_step"}

_OF_CONTINUATIONS = frozenset(f"{how}_{share}" for how in HOW for share in ("distinct_1", "distinct_2", "seq_rep_4", "diversity"))


# Shares, by the keys whose values' product is the number that they are shares of.
_SHARES = {
    _OF_CONTINUATIONS: CONTINUATIONS,
    frozenset({"rep_16", "rep_32", "rep_128"}): POSITIONS,
}

COUNTS = _WHOLE.union(_STEPS, {"collapsed_share"}, *_SHARES)  # metrics whose values go by steps


# Continuous functions of logits, written in full: computed in fp32, which carries seven digits.
_CONTINUOUS = {"heldout_loss", "depth", "entropy_mean", "logit_std", *DERIVED}

_ROUNDING = 1e-6


def metric_resolution(metric: str, run: pd.Series, size: float) -> float | None:
    """The least by which two values of a metric about as large as `size` can differ in this run; None where it is not known.

    Args:
        run: a row of `bitnet.analysis.frames.Records.runs`.
    """
    if metric in _WHOLE:
        return 1.0
    if metric in _CONTINUOUS:
        return _ROUNDING * max(10.0, size)  # a small one may be what is left of two losses
    interval = value_at(run["config"], "eval_every")
    if interval and metric in _STEPS:
        return float(interval)
    if interval and metric == "collapsed_share":
        return min(1.0, interval / run["steps"])
    keys = next((keys for metrics, keys in _SHARES.items() if metric in metrics), None)
    return None if keys is None else 1 / math.prod(value_at(run["config"], key) or 1 for key in keys)

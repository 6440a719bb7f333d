"""The evaluations of each run: a metric at a moment."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from bitnet.common.errors import UserError
from bitnet.config.base import boundary_step, value_at
from bitnet.config.claims import DERIVED, RUN_FACTS
from bitnet.runs.statuses import DIVERGED, DONE

_LOSSES = ("Loss", "heldout_loss")  # no two runs of different seeds have the same ones throughout


# Each of `claims.DERIVED` as a number of the run (of its data) less a column of the evaluation.
DERIVED_FROM = {
    "heldout_below_uniform": ("ln_vocab", "heldout_loss"),
    "entropy_below_uniform": ("ln_vocab", "entropy_mean"),
    "heldout_below_unigram": ("unigram_entropy", "heldout_loss"),
}


class Evaluations:
    """The evaluations of each run, and numbers of whole runs.

    Args:
        metrics: as `bitnet.analysis.frames.Records.metrics`, with the columns that claims name.
        facts: a row a run (its id as index) with the columns of `claims.RUN_FACTS`; `diverged` is read off the status.
    """

    def __init__(self, metrics: pd.DataFrame, facts: pd.DataFrame | None = None) -> None:
        self.metrics, self.facts = metrics, facts
        self._rows = metrics.groupby("run", sort=False).indices if len(metrics) else {}

    def value(self, run: pd.Series, metric: str, at: int | float | str) -> float | None:
        """`metric` (a column, or of `claims.DERIVED` or `claims.RUN_FACTS`) of a run at a moment, None where it has none.

        Only a finished run has an end, and numbers of its whole course; whether it diverged, one that diverged has too.

        Raises:
            UserError: the metric is in neither frame.
        """
        if metric == "diverged":
            return {DONE: 0.0, DIVERGED: 1.0}.get(run["status"])
        if metric in RUN_FACTS:
            if self.facts is None or metric not in self.facts:
                raise UserError(f"metric={metric}: numbers of whole runs were not computed here")
            known = self._is_whole(run) and run["id"] in self.facts.index
            return _finite(self.facts.at[run["id"], metric]) if known else None
        if metric in DERIVED:
            reference, column = DERIVED_FROM[metric]
            value = self.value(run, column, at)
            return None if value is None else _finite(run[reference] - value)
        if metric not in self.metrics:
            raise UserError(f"metric={metric}: this column was not read")
        if at == "end" and not self._is_whole(run):
            return None
        position = _position(run, self._column(run, "Step"), at)
        return None if position is None else _finite(self._column(run, metric)[position])

    def _column(self, run: pd.Series, name: str) -> np.ndarray:
        """What the run's evaluations have in a column, in order."""
        return self.metrics[name].to_numpy()[self._rows.get(run["id"], np.empty(0, dtype="int64"))]

    def course(self, run: pd.Series) -> bytes:
        """The losses of a run's evaluations, to the last bit; empty without one."""
        return b"".join(self._column(run, name).astype("float64").tobytes() for name in _LOSSES if name in self.metrics)

    def _is_whole(self, run: pd.Series) -> bool:
        """Whether a run is done and all of its evaluations are there: a torn file ends before its run did, another has holes."""
        steps = self._column(run, "Step")
        return run["status"] == DONE and len(steps) > 0 and bool(steps[-1] == run["step"]) and not run.get("holes")


def _position(run: pd.Series, steps: np.ndarray, at: str | int | float) -> int | None:
    """Where among the evaluated `steps` a moment lies: the first at or after it, no further than one evaluation interval."""
    if not len(steps):
        return None
    if at == "end":
        return len(steps) - 1
    if isinstance(at, str):
        wanted = run["boundary_step"]
    elif at >= 1:
        wanted = at
    else:
        wanted = boundary_step(at, int(run["steps"]))
    position = int(np.searchsorted(steps, wanted))
    interval = value_at(run["config"], "eval_every") or math.inf
    return position if position < len(steps) and steps[position] - wanted <= interval else None


def _finite(value: Any) -> float | None:
    """None for what is empty or not finite."""
    return float(value) if value is not None and math.isfinite(value) else None

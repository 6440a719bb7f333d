"""What kind of collapse an evaluation shows, and the course of it over a run. Reads run records only.

A model that knows nothing sits at ln V, one that knows how frequent each token is at the corpus's unigram entropy H1; below H1
it uses its context. H1 is of the training tokens: where these are few for the vocabulary, their frequencies reach less on
held-out text (half a nat less from 300,000 tokens with V = 50,257), and a model may use its context above H1, too. An
evaluation after warm-up is called

    flat logits   every token is about as likely: the logits have almost no spread, and the loss is nearer to ln V than to H1
    frequency     it repeats what is frequent: very few tokens are ever predicted, and the loss is not below H1
    repetition    it uses its context (loss below H1), but its greedy continuations go in circles almost from the first token
                  on, more than those of sound models of its size do: a problem of decoding
    none          none of these
    warm-up       not judged: step 1, and the learning rate still rises

in this order, so that flat logits, whose argmax small differences decide, are not taken for a choice of few tokens. A model may
be none of these and still know little: its loss says so. An evaluation without the numbers that this needs has no class.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from bitnet.common.limits import MOST_COUNT
from bitnet.config.base import value_at
from bitnet.config.claims import RUN_FACTS
from bitnet.runs.statuses import DIVERGED, DONE

FLAT, FREQUENCY, REPETITION, NONE, WARM_UP = "flat logits", "frequency", "repetition", "none", "warm-up"


# What counts as collapsed in `run_facts`. Repetition does not: greedy continuations of sound small models go in circles too
# (Holtzman et al., arXiv 1904.09751), whatever the training did.
COLLAPSED = (FLAT, FREQUENCY)


# PyTorch's initial head gives normalised states logits with a standard deviation of 1/sqrt(3) = 0.58, before any training.
# Below half a nat a normal distribution of logits loses at most 0.5^2 / 2 = 0.125 of ln V in entropy: nearly uniform. What a
# model that knows the frequencies of text needs is about 2, since their logarithms spread as much.
FLAT_SPREAD = 0.5


# Predicting the most frequent token everywhere gives 1 distinct prediction; 2 % of some 460 distinct targets in 1,024
# positions are 9, above the 2 to 6 that the study called collapsed.
FEW = 0.02


# Greedy continuations of sound small models repeat themselves, so only more than they do is named. Measured on the decoupled
# control of the quickstart sweep (hidden size 64, V = 2,048; two seeds, 8 and 32 prompts, 36 evaluations below H1 - 0.1): 34 to
# 82 % of the greedy 4-grams are repeats, in the median 53 %, whatever the step; in the text that follows 0 to 0.5 %, and of an
# untrained model 0 to 2 %. One token over and over has 28 of 29, 97 %. Sampled from the same models none is a repeat.
REPETITIVE = 0.9


# The loss of one token has a standard deviation of 2 to 3 nats, so the mean over 1,024 positions has an error of 0.08.
SLACK_NATS = 0.1


# Where knowing how frequent tokens are is worth less than this, as in synthetic data, the first two classes are one.
CLOSE_NATS = 0.5

NEEDED = ("Step", "heldout_loss", "heldout_uniq", "heldout_distinct_targets", "logit_std", "greedy_seq_rep_4")  # columns


def warmup_steps(config: dict) -> float:
    """How many steps the learning rate of a run rises for, nan where its record does not say."""
    steps = value_at(config, "lr.warmup_steps")
    return float(steps) if isinstance(steps, int | float) and abs(steps) <= MOST_COUNT else math.nan


def is_warming(runs: pd.DataFrame, metrics: pd.DataFrame) -> pd.Series:
    """Whether an evaluation is of step 1, or of a learning rate that still rises; aligned with `metrics`."""
    if not len(metrics):
        return pd.Series(index=metrics.index, dtype="bool")
    warmup = metrics["run"].map(pd.Series([warmup_steps(c) for c in runs["config"]], runs.index, dtype="float64"))
    return (metrics["Step"] == 1) | (metrics["Step"] < warmup)


def thresholds(of: Any) -> dict[str, Any]:
    """What an evaluation is held against: `flat`, the loss from which on logits without spread are flat; `low`, that of known
    frequencies; `few`, up to how many distinct predictions are few.

    Args:
        of: the evaluation, or a frame of them, with `ln_vocab` and `unigram_entropy` of its run.
    """
    flat = (of["ln_vocab"] + of["unigram_entropy"]) / 2 - SLACK_NATS
    few = np.maximum(1.0, FEW * of["heldout_distinct_targets"])  # one token is always few
    return {"flat": flat, "low": of["unigram_entropy"] - SLACK_NATS, "few": few}


def class_tests(of: Any) -> dict[str, Any]:
    """What tells the kinds apart, by kind, in the order in which the first that holds counts; `of` as for `thresholds`."""
    limit, loss = thresholds(of), of["heldout_loss"]
    return {
        FLAT: (of["logit_std"] < FLAT_SPREAD) & (loss > limit["flat"]),
        FREQUENCY: (of["heldout_uniq"] <= limit["few"]) & (loss > limit["low"]),
        REPETITION: (loss < limit["low"]) & (of["greedy_seq_rep_4"] >= REPETITIVE),
    }


def classify(runs: pd.DataFrame, metrics: pd.DataFrame) -> pd.Series:
    """The class of each evaluation, NaN where it lacks what a class needs; aligned with `metrics`.

    Where no continuation was made, repetition is not looked for.

    Args:
        runs: as `bitnet.analysis.frames.Records.runs`.
        metrics: as `bitnet.analysis.frames.Records.metrics`, with the columns of `NEEDED`.
    """
    if not len(metrics):
        return pd.Series(index=metrics.index, dtype="object")
    facts = runs[["ln_vocab", "unigram_entropy"]]
    m = metrics[["run", *NEEDED]].join(facts, on="run")
    known = m[["heldout_loss", "heldout_uniq", "heldout_distinct_targets", "logit_std", *facts.columns]].notna().all(axis=1)
    kinds = class_tests(m)
    found = np.select([~known, is_warming(runs, metrics), *kinds.values()], ["", WARM_UP, *kinds], NONE)
    return pd.Series(found, index=metrics.index, dtype="object").where(known)


def is_collapsed(kinds: pd.Series) -> pd.Series:
    """1 for a collapsed evaluation, 0 for one that is not, NaN where that is not known or not judged (warm-up)."""
    judged = kinds.notna() & (kinds != WARM_UP)
    return kinds.isin(COLLAPSED).astype("float64").where(judged)


def run_facts(runs: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    """The numbers of `claims.RUN_FACTS` of each run, indexed by run; NaN where there is none.

    They are of the evaluations so far: whether a run is over, its status says. A run that never collapsed has a duration of
    0, and no onset and no recovery. One without a single evaluation after warm-up has none of them, and one with an
    evaluation whose class is not known has a depth alone: the others may have been decided by that very evaluation.

    Args:
        runs, metrics: as for `classify`.
    """
    collapsed = is_collapsed(classify(runs, metrics))
    after = metrics[["run", "Step", "heldout_loss"]].assign(collapsed=collapsed)[~is_warming(runs, metrics)]
    if len(after):  # the evaluation at which a run diverged has no loss, which its status says
        after = after[after["heldout_loss"].notna() | (after["run"].map(runs["status"]) != DIVERGED)]
    courses = {run: _course(of) for run, of in after.groupby("run", sort=False)}
    facts = pd.DataFrame.from_dict(courses, orient="index", dtype="float64").reindex(runs.index)
    facts = facts.reindex(columns=list(RUN_FACTS))
    if len(runs):
        facts["depth"] -= runs["unigram_entropy"]
        facts["diverged"] = runs["status"].map({DONE: 0.0, DIVERGED: 1.0})
    return facts.rename_axis("run")


def _course(after: pd.DataFrame) -> dict[str, float]:
    """Onset, share, duration, recovery and end of a run's evaluations after warm-up; as `depth` its largest held-out loss."""
    depth = after["heldout_loss"].max(skipna=False)
    if after["collapsed"].isna().any():
        return {"depth": depth}
    steps, collapsed = after["Step"].to_numpy(), after["collapsed"].to_numpy(dtype=bool)
    onset = recovery = math.nan
    duration = 0.0
    if collapsed.any():
        first, last = np.flatnonzero(collapsed)[[0, -1]]
        onset = steps[first]
        recovery = steps[last + 1] if last + 1 < len(steps) else math.nan
        duration = (steps[-1] if math.isnan(recovery) else recovery) - onset
    return {
        "onset_step": onset,
        "collapsed_share": collapsed.mean(),
        "duration_steps": duration,
        "depth": depth,
        "recovery_step": recovery,
        "collapsed_at_end": float(collapsed[-1]),
    }

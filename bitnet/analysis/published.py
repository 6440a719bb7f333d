"""What the study of collapsing BitNet b1.58 models printed, and which of our runs each figure may stand beside.

`published.csv` holds every number that the study reports, one a row; an empty cell was not reported. The summary
figures below come from its baseline section and its table of model sizes, the formula from counting its weights.
All of them: WikiText-2, GPT-2 tokens (V = 50257), 4 x 32 tokens a step, one run an arm.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import pandas as pd

from bitnet.config.base import value_at

DATA = "WikiText-2, GPT-2 tokens"

VOCAB_SIZE = 50257


# The baseline section: WD 0.1 -> 0.05 at hidden size 256, by the length of the run. Shares are of the evaluated points.
_STATISTICS = ("unique_mean", "share_under_3", "unique_final", "loss_min", "loss_mean", "loss_final")

BASELINE_SUMMARY: dict[int, dict[str, float]] = {
    1_000: dict(zip(_STATISTICS, (9.4, 0.285, 8, 8.23, 9.60, 9.92), strict=True)),
    10_000: dict(zip(_STATISTICS, (28.6, 0.007, 5, 8.71, 10.52, 9.74), strict=True)),
    20_000: dict(zip(_STATISTICS, (26.4, 0.077, 6, 8.57, 10.50, 9.76), strict=True)),
}


# The table of model sizes as printed: 28M scaled by the square of the width, which the embedding does not follow.
PRINTED_PARAMETERS: dict[int, float] = {256: 28e6, 512: 114e6, 768: 257e6, 1024: 458e6}


# What every run of the study shares, by key of a run's config.yaml: its protocol, and the arm without any option below.
PROTOCOL: dict[str, Any] = {
    "batch_size": 4,
    "seq_len": 32,
    "schedule_lag": 1,  # its scheduler stepped after its optimizer
    "precision": "fp32",
    "model.num_layers": 4,
    "model.num_heads": 4,
    "model.num_kv_heads": 4,
    "model.gated_ffn": True,
    "model.activation": "relu2",
    "model.norm_placement": "block_and_bitlinear",
    "model.norm_eps": 1e-5,
    "model.fused_projections": True,
    "model.tied_head": False,
    "model.output_scale": 1.0,
    "model.rope_theta": 10_000,
    "model.init": "pytorch",
    "lr.kind": "two_stage_linear",
    "lr.peak": 1.5e-3,
    "lr.warmup_steps": 375,
    "lr.boundary": 0.5,
    "lr.mid_fraction": 2 / 3,
    "lr.end_fraction": 0.001,
    "lr.reference_hidden_size": None,
    "wd.kind": "two_stage",
    "wd.stage1": 0.1,
    "wd.boundary": 0.5,
    "clip.max_norm": 1.0,
    "smoothing.epsilon": 0.0,
    "optimizer.kind": "adam_l2",  # on every parameter
    "optimizer.betas": [0.9, 0.95],
    "optimizer.eps": 1e-8,
    "optimizer.decay_scope": "all",
    "optimizer.reset_at": None,
    "quant.weights": "ternary",
    "quant.activations": "int8",
    "regularizer.kind": "none",
    "data.encode": "lines",
    "data.order": "sequential",
    "data.at_end": "stop",
}


# What each option that a row's `arm` names sets, from the study's description of that arm.
OPTIONS: dict[str, dict[str, Any]] = {
    "wd=paper": {"wd.stage2": 0.0},
    "wd=wd005": {"wd.stage2": 0.05},
    "wd=wd01": {"wd.stage2": 0.1},
    "lr=study": {},
    "lr=reduced": {"lr.peak": 5e-4},
    "clip=norm01": {"clip.max_norm": 0.1},
    "smoothing=ls01": {"smoothing.epsilon": 0.1, "smoothing.form": "study"},
}


# What a source counted: its metric A, or in `track`, whose optimizer was built without weight decay, its metric B.
CONTEXTS: dict[str, Any] = {
    "probe.metric": "random_contexts",
    "probe.contexts": 20,
    "probe.context_length": 8,
    "wd.first_step": None,
}

TRACK: dict[str, Any] = {"probe.metric": "first_batch", "wd.first_step": 0.0}


def formula_parameters(hidden_size: int, vocab_size: int) -> int:
    """Weights of the study's model: 40 h^2 + 2 V h + 29 h.

    40 h^2 in 4 layers (attention 4 h^2, gated FFN of width 2 h: 6 h^2), 2 V h in embedding and untied head, 29 h in
    gains (7 h a layer, from a norm before each block and in each BitLinear, and h at the end).
    """
    return 40 * hidden_size**2 + 2 * vocab_size * hidden_size + 29 * hidden_size


def rows() -> pd.DataFrame:
    """`published.csv`: source, arm (as `wd=paper`), hidden, steps, step, unique, loss; NaN where not reported."""
    with resources.files("bitnet.analysis").joinpath("published.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype={"source": str, "arm": str})


def expected(source: str, arm: str, hidden: int, steps: int) -> dict[str, Any]:
    """What config.yaml must say, by dotted key, for a run to be the one that these published rows are of.

    Whatever else it says can't change the result of such a run, or is no part of the comparison: the seed, when it is
    evaluated, which contexts are drawn, the held-out text, and the corpus (see `same_data`).
    """
    values = PROTOCOL | (TRACK if source == "track" else CONTEXTS)
    values |= {"steps": steps, "model.hidden_size": hidden, "model.ffn_size": 2 * hidden}
    for option in arm.split():
        values |= OPTIONS[option]
    return values


def match(runs: pd.DataFrame) -> pd.DataFrame:
    """The published rows that our arms answer to.

    A row belongs to an arm when one of its runs names the row's source and its resolved configuration is what the study
    did (`expected`), however it was composed.

    Args:
        runs: as `bitnet.analysis.frames.Records.runs`.
    Returns:
        arm_id, source, step, unique, loss; one row for each arm and step.
    """
    keys, theirs = ["source", "arm", "hidden", "steps"], rows()
    studies = [(key, expected(*key)) for key in theirs[keys].drop_duplicates().itertuples(index=False, name=None)]
    answered = {
        (run.arm_id, *key)
        for run in runs.itertuples()
        for key, values in studies
        if key[0] in run.published and all(value_at(run.config, name) == value for name, value in values.items())
    }
    pairs = pd.DataFrame(sorted(answered), columns=["arm_id", *keys]).astype(theirs.dtypes[keys].to_dict())
    found = pairs.merge(theirs, on=keys)
    return found[["arm_id", "source", "step", "unique", "loss"]].drop_duplicates(["arm_id", "step"])


def same_data(runs: pd.DataFrame) -> bool:
    """Whether every run that knows its data used the study's: WikiText-2 in GPT-2 tokens."""
    known = runs[runs["data"].notna()]
    names = known["data"].str.lower().str.replace(r"[-_ ]", "", regex=True)
    return bool((names.str.startswith("wikitext2") & (known["vocab_size"] == VOCAB_SIZE)).all())

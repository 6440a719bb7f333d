"""What the study of collapsing BitNet b1.58 models printed, and which of our runs each figure may stand beside.

`published.csv` holds every number that the study reports, one a row; an empty cell was not reported. The summary
figures below come from its baseline section and its table of model sizes, the formula from counting its weights.
All of them: WikiText-2, GPT-2 tokens (V = 50257), 4 x 32 tokens a step, one run an arm.
"""

from __future__ import annotations

from importlib import resources

import pandas as pd

DATA = "WikiText-2, GPT-2 tokens"
VOCAB_SIZE = 50257
TOKENS_PER_STEP = 4 * 32

# The baseline section: WD 0.1 -> 0.05 at hidden size 256, by the length of the run. Shares are of the evaluated points.
_STATISTICS = ("unique_mean", "share_under_3", "unique_final", "loss_min", "loss_mean", "loss_final")
BASELINE_SUMMARY: dict[int, dict[str, float]] = {
    1_000: dict(zip(_STATISTICS, (9.4, 0.285, 8, 8.23, 9.60, 9.92), strict=True)),
    10_000: dict(zip(_STATISTICS, (28.6, 0.007, 5, 8.71, 10.52, 9.74), strict=True)),
    20_000: dict(zip(_STATISTICS, (26.4, 0.077, 6, 8.57, 10.50, 9.76), strict=True)),
}

# The table of model sizes as printed: 28M scaled by the square of the width, which the embedding does not follow.
PRINTED_PARAMETERS: dict[int, float] = {256: 28e6, 512: 114e6, 768: 257e6, 1024: 458e6}

# What the study used in each group that a row's `arm` does not name.
STUDY_CHOICES = {
    "optimizer": "adam_l2",
    "lr": "study",
    "clip": "norm1",
    "smoothing": "none",
    "quant": "b158",
    "regularizer": "none",
}
_GROUPS = ("model", "wd", *STUDY_CHOICES)


def formula_parameters(hidden_size: int, vocab_size: int) -> int:
    """Weights of the study's model: 40 h^2 + 2 V h + 29 h.

    40 h^2 in 4 layers (attention 4 h^2, gated FFN of width 2 h: 6 h^2), 2 V h in embedding and untied head, 29 h in
    gains (7 h a layer, from a norm before each block and in each BitLinear, and h at the end).
    """
    return 40 * hidden_size**2 + 2 * vocab_size * hidden_size + 29 * hidden_size


def rows() -> pd.DataFrame:
    """`published.csv`: source, arm (as `wd=paper`), hidden, steps, step, unique, loss; NaN where not reported."""
    with resources.files("bitnet").joinpath("published.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype={"source": str, "arm": str})


def match(runs: pd.DataFrame) -> pd.DataFrame:
    """The published rows that our arms answer to.

    A row belongs to an arm when one of its runs names the row's source, and hidden size, length, tokens a step and
    every group agree with what the study did; a run that changes a value inside a group (`wd.stage2=0.2`) is none.

    Args:
        runs: as `bitnet.runs.Records.runs`.
    Returns:
        arm_id, source, step, unique, loss; one row for each arm and step.
    """
    studies = {key: part for key, part in rows().groupby(["source", "arm", "hidden", "steps"], sort=False)}
    found = [pd.DataFrame({"arm_id": [], "source": [], "step": [], "unique": [], "loss": []})]
    for run in runs.itertuples():
        for (source, arm, hidden, steps), part in studies.items():
            same_size = (run.hidden_size, run.steps, run.tokens_per_step) == (hidden, steps, TOKENS_PER_STEP)
            if same_size and source in run.published and _same_arm(arm, run.choices, run.overrides):
                found.append(part[["source", "step", "unique", "loss"]].assign(arm_id=run.arm_id))
    frames = [frame for frame in found if len(frame)] or found
    return pd.concat(frames, ignore_index=True).drop_duplicates(["arm_id", "step"])


def _same_arm(arm: str, choices: dict[str, str], overrides: tuple[str, ...]) -> bool:
    named = dict(token.split("=", 1) for token in arm.split())
    agrees = all(choices.get(group) == option for group, option in named.items())
    rest = all(choices.get(group, option) == option for group, option in STUDY_CHOICES.items() if group not in named)
    changed = any(o.lstrip("+").startswith(tuple(f"{group}." for group in _GROUPS)) for o in overrides)
    return agrees and rest and not changed


def same_data(runs: pd.DataFrame) -> bool:
    """Whether every run that knows its data used the study's: WikiText-2 in GPT-2 tokens."""
    known = runs[runs["data"].notna()]
    names = known["data"].str.lower().str.replace(r"[-_ ]", "", regex=True)
    return bool((names.str.startswith("wikitext2") & (known["vocab_size"] == VOCAB_SIZE)).all())

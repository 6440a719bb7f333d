"""The columns of `metrics.csv`, in order: the one place where training and analysis agree on names.

The first five, and their formats, are the study's. Values that do not apply (ternary shares of a float model, say) are empty.

A row stands on both sides of its step's update. Before it, from the training batch: Loss, train_loss, regularizer_loss,
grad_norm. After it, from the updated weights: UniquePredictions and everything from contexts_uniq on.
"""

from __future__ import annotations

import math

STUDY_COLUMNS: dict[str, str] = {
    "Step": "optimizer step, from 1",
    "Loss": "training loss of that step's batch, before its update; 4 decimals",
    "UniquePredictions": "distinct argmaxes, after the update, of the probe that `probe.metric` names",
    "LR": "learning rate that the schedule gives at this step; 6 decimals",
    "WD": "weight decay that the schedule gives at this step; 2 decimals",
}

PARTS = ("embedding", "attention", "ffn", "head", "norm")  # of a model: each of its parameters belongs to one

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)

MANY_CONTEXTS = (20, 200, 2000)

HOW = ("greedy", "sampled")

TEXT_NUMBERS = {
    "distinct_1": "distinct tokens / tokens",
    "distinct_2": "distinct 2-grams / tokens",
    "seq_rep_4": "1 - distinct 4-grams / 4-grams of a continuation, averaged",
    "diversity": "product over n = 2..4 of 1 - seq-rep-n",
    "zipf": "slope of log frequency over log rank",
}

# Good is near the value of real text. Random tokens lie beyond it on one side, circles on the other: by number, which side.
NOISE_SIDE = {"distinct_1": "higher", "distinct_2": "higher", "seq_rep_4": "lower", "diversity": "higher"}

OTHER_COLUMNS: dict[str, str] = {
    "tokens": "training tokens seen",
    "train_loss": "Loss at full precision, nats per token",
    "regularizer_loss": "the regulariser's weighted addition to the training loss",
    "lr_applied": "learning rate of this step's update (differs from LR under schedule_lag)",
    "wd_applied": "weight decay of this step's update",
    "grad_norm": "global gradient norm of that batch, before clipping",
    "contexts_uniq": "distinct argmaxes at the last position of the random contexts (the study's metric A)",
    "contexts_positions": "number of random contexts: the ceiling of contexts_uniq",
    **{f"random_uniq_{n}": f"distinct argmaxes at the last position of {n} random contexts" for n in MANY_CONTEXTS},
    **{f"text_uniq_{n}": f"the same for {n} contexts of held-out text, evenly spread" for n in MANY_CONTEXTS},
    "first_batch_uniq": "distinct argmaxes over the first training batch (the study's metric B)",
    "first_batch_positions": "positions in the first training batch",
    "first_batch_distinct_targets": "distinct next tokens there",
    "first_batch_top1_prob": "mean probability of the argmax there",
    "first_batch_entropy": "mean entropy of the predictions there, nats",
    "heldout_loss": "held-out cross-entropy after the update, nats per token",
    "heldout_uniq": "distinct argmaxes over the held-out positions (uniq)",
    "heldout_positions": "held-out positions evaluated",
    "heldout_distinct_targets": "distinct next tokens there",
    "entropy_mean": "mean entropy of each held-out prediction, nats: high when logits are flat",
    "entropy_marginal": "entropy of the mean held-out prediction, nats",
    "entropy_argmax": "entropy of the distribution of held-out argmaxes, nats: low when all are the same",
    "top1_prob": "mean probability of the held-out argmax",
    "logit_mean": "mean of the held-out logits",
    "logit_std": "standard deviation of the held-out logits",
    # to 1/256 of its distance from the median logit at the first held-out position, so that a tiny spread still shows
    **{f"logit_p{p}": f"percentile {p} of the held-out logits (8 bits of its distance from their middle)" for p in PERCENTILES},
    "logit_skewness": "third standardised moment of the held-out logits",
    "logit_kurtosis": "fourth standardised moment (3 for a normal distribution)",
    "logit_bimodality": "(skewness^2 + 1) / kurtosis: 1/3 for a normal distribution, 5/9 for a uniform one, 1 for two points",
    "logit_max_abs": "largest magnitude of a held-out logit",
    "logsumexp_mean": "mean over held-out positions of the softmax's log normaliser",
    "logsumexp_std": "its standard deviation",
    "rep_16": "share of held-out argmaxes that occur in the 16 tokens before them",
    "rep_32": "in the 32 tokens before them",
    "rep_128": "in the 128 tokens before them",
    **{f"{how}_{name}": f"{what}, {how} continuations of held-out prompts" for how in HOW for name, what in TEXT_NUMBERS.items()},
    "ternary_neg": "share of -1 among the ternary codes",
    "ternary_zero": "share of 0",
    "ternary_pos": "share of +1",
    "flip_rate": "share of codes that changed since the last evaluation",
    "latent_embedding": "mean magnitude of the embedding",
    "latent_attention": "mean magnitude of the latent attention projections",
    "latent_ffn": "mean magnitude of the latent FFN projections",
    "latent_head": "mean magnitude of the head",
    "latent_norm": "mean magnitude of the norm gains",
    "outside_codes": "ternary codes outside -1, 0, 1",
    "outside_latents": "latent parameters outside [-1, 1], embedding, head and gains included: the study's count",
    **{f"outside_{part}": f"those of them in the {part}" for part in PARTS},
    "outside_scaled_attention": "share of latent attention weights above mean(abs w), which clipping brings back",
    "outside_scaled_ffn": "the same for the FFN",
}

COLUMNS: tuple[str, ...] = (*STUDY_COLUMNS, *OTHER_COLUMNS)

INTEGERS = frozenset(
    {"Step", "UniquePredictions", "tokens"}
    | {c for c in OTHER_COLUMNS if c.endswith(("_uniq", "_positions", "_distinct_targets")) or "_uniq_" in c}
    | {c for c in OTHER_COLUMNS if c.startswith("outside_") and "scaled" not in c}
)

FIXED_FORMATS = {"Loss": "{:.4f}", "LR": "{:.6f}", "WD": "{:.2f}"}


def format_value(column: str, value: float | int | None) -> str:
    """A cell of `metrics.csv`: the study's format in its columns, the shortest exact text in the others.

    Empty for None, and for what is not defined: the skewness of logits that are all equal, say.
    """
    if value is None or math.isnan(value):
        return ""
    if column in FIXED_FORMATS:
        return FIXED_FORMATS[column].format(value)
    return str(int(value)) if column in INTEGERS else repr(float(value))

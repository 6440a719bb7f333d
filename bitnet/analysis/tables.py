"""The study's tables from run records: pure functions from frames to frames, in numbers.

`runs` and `metrics` are those of `frames.Records`, `published` is `published.match(runs)`, both of this package. An arm is what
runs that differ by seed only share. Rules that hold in every table:

- mean, min, max and sd (n - 1; NaN at n = 1) are over the seeds of one arm.
- `n` counts the runs behind a value that did not diverge, `n_diverged` those that did; both are in the mean.
- What was not measured or not reported is NaN. An arm without a single value keeps its row.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from bitnet.analysis.published import BASELINE_SUMMARY, PRINTED_PARAMETERS, formula_parameters
from bitnet.runs.columns import PARTS
from bitnet.runs.statuses import DIVERGED, DONE, FINAL, UNREADABLE

AFTER_BOUNDARY = 0.1  # of the run: the study compares step 5,000 with 6,000 of 10,000

SEVERE = 3  # fewer distinct tokens than this is the study's "severe collapse"

BASELINE_STATISTICS = (
    "unique_mean",
    "unique_min",
    "unique_max",
    "unique_stage1",
    "unique_stage2",
    "share_under_3",
    "unique_final",
    "loss_min",
    "loss_mean",
    "loss_final",
)

BOUNDARY_MEASURES = (
    "loss_before",
    "loss_after",
    "drop",
    "drop_percent",
    "unique_before",
    "unique_after",
    "unique_final",
    "recovery",
    "final_over_before",
    "heldout_before",
    "heldout_after",
)

LEARNING_MEASURES = (
    "heldout_loss",
    "heldout_uniq",
    "heldout_positions",
    "heldout_distinct_targets",
    "entropy_mean",
    "entropy_argmax",
    "logit_std",
    "top1_prob",
)


# Everything that the tables need of metrics.csv.
METRICS = (
    "Step",
    "Loss",
    "UniquePredictions",
    "contexts_positions",
    "first_batch_positions",
    *LEARNING_MEASURES,
)


# ---------------------------------------------------------------------------------------------------------------- arms
SHARED_ONLY = "nothing more"  # the name of an arm that was given only what all were given


def arms(runs: pd.DataFrame) -> pd.DataFrame:
    """One row an arm, indexed by arm_id and ordered by size, length and name.

    Columns: arm (a name no other arm has), hidden_size, steps, boundary_step, metric, ceiling, runs, done, diverged,
    unfinished (running, failed, queued or missing).
    """
    first = runs.drop_duplicates("arm_id").set_index("arm_id")
    table = first[["hidden_size", "steps", "boundary_step", "metric"]].copy()
    table.insert(0, "arm", _names(runs, first))
    by_arm = runs.groupby("arm_id")
    table["ceiling"] = by_arm["ceiling"].max()
    table["runs"] = by_arm.size()
    for status in FINAL:
        table[status] = (runs["status"] == status).groupby(runs["arm_id"]).sum()
    table["unfinished"] = table["runs"] - table["done"] - table["diverged"]
    return table.sort_values(["hidden_size", "steps", "arm"], kind="stable")


def shared_overrides(runs: pd.DataFrame) -> list[str]:
    """The overrides that the name of no arm repeats, in their order: what every run of several arms was given.

    Of an arm that is alone it is what it was given, where its sweep has a name for it.
    """
    if runs["arm_id"].nunique() < 2 and not (_sweeps_own(runs) != "").any():
        return []
    return _shared(list(runs["overrides"]))


def _shared(given: Sequence[Sequence[str]]) -> list[str]:
    everywhere = set.intersection(*map(set, given)) if given else set()
    return [o for o in given[0] if o in everywhere and not o.startswith("seed=")] if given else []


def _sweeps_own(runs: pd.DataFrame) -> pd.Series:
    """What the sweep calls the arm of each run; empty where several sweeps or none are looked at, or it has no name for one.

    One name for several arms, along a grid of the sweep, is none.
    """
    common = set.intersection(*map(set, runs["sweeps"])) if len(runs) else set()
    own = runs["arm"].fillna("").astype(str)
    one_for_all = runs["arm_id"].nunique() > 1 and own.nunique() == 1
    return own if common and (own != "").all() and not one_for_all else own.where(own == "", "")


def _names(runs: pd.DataFrame, first: pd.DataFrame) -> pd.Series:
    """The sweep's own names for its arms, with what tells apart those of one name; without such names what each was given."""
    names = _sweeps_own(runs.drop_duplicates("arm_id")).set_axis(first.index)
    if (names == "").any():
        return _given(first)
    for _, same in first.groupby(names):
        if len(same) > 1:
            names[same.index] += ", " + _given(same)
    return names


def _given(first: pd.DataFrame) -> pd.Series:
    """What each arm was given beyond the others, with size, length, data or at last the id where two would read the same."""
    names = first["label"].where(first["label"] != "", "defaults")
    shared = _shared(list(first["overrides"])) if len(first) > 1 else []
    if shared:
        own = first["overrides"].map(lambda given: [o for o in given if o not in shared and not o.startswith("seed=")])
        if own.map(len).any():
            names = own.map(lambda given: ",".join(given) or SHARED_ONLY)
    for text in ("h=" + _whole(first["hidden_size"]), "steps=" + _whole(first["steps"]), first["data"].fillna("?")):
        # only what differs among the arms that share a name helps to tell them apart
        helps = names.duplicated(keep=False) & (text.groupby(names).transform("nunique") > 1)
        names = names.mask(helps, names + "," + text)
    return names.mask(names.duplicated(keep=False), names + "," + pd.Series(first.index, first.index))


def _whole(numbers: pd.Series) -> pd.Series:
    return numbers.astype("int64").astype(str)


def _of_runs(metrics: pd.DataFrame, runs: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """`metrics` with `columns` of each one's run."""
    return metrics.join(runs[columns], on="run")


def _spread(per_run: pd.DataFrame, measures: tuple[str, ...], names: pd.DataFrame) -> pd.DataFrame:
    """Mean and sd over seeds of each measure, a row an arm.

    `per_run` has one row a run with arm_id, status and the measures. A run counts where it has any of them.
    """
    there = per_run[list(measures)].notna().any(axis=1)
    diverged = per_run["status"] == DIVERGED
    by_arm = per_run.groupby("arm_id")[list(measures)]
    table = names[["arm", "hidden_size", "steps"]].copy()
    table["n"] = (there & ~diverged).groupby(per_run["arm_id"]).sum()
    table["n_diverged"] = (there & diverged).groupby(per_run["arm_id"]).sum()
    table = table.join(names[["runs", "diverged", "unfinished"]])
    mean, sd = by_arm.mean(), by_arm.std()
    for measure in measures:
        table[measure], table[f"{measure}_sd"] = mean[measure], sd[measure]
    return table


# -------------------------------------------------------------------------------------------------------------- tables
def tokens_by_step(runs: pd.DataFrame, metrics: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Distinct predicted tokens at each evaluated or published step of each arm.

    Returns:
        arm_id, arm, hidden_size, steps, step, mean, sd, min, max, n, n_diverged, ceiling, published.
    """
    evaluated = _of_runs(metrics.dropna(subset="UniquePredictions"), runs, ["arm_id", "status"])
    evaluated["n_diverged"] = (evaluated["status"] == DIVERGED).astype("int64")
    groups = evaluated.groupby(["arm_id", "Step"])
    table = groups["UniquePredictions"].agg(mean="mean", sd="std", min="min", max="max", n="count")
    table["n_diverged"] = groups["n_diverged"].sum()
    table["n"] -= table["n_diverged"]
    theirs = published.dropna(subset="unique").set_index(["arm_id", "step"])["unique"].astype("float64")
    table = table.join(theirs.rename("published").rename_axis(["arm_id", "Step"]), how="outer")
    table[["n", "n_diverged"]] = table[["n", "n_diverged"]].fillna(0).astype("int64")
    names = arms(runs)
    table = table.reset_index().rename(columns={"Step": "step"})
    table = table.join(names[["arm", "hidden_size", "steps", "ceiling"]], on="arm_id")
    order = table["arm_id"].map({arm_id: i for i, arm_id in enumerate(names.index)})
    table = table.assign(order=order).sort_values(["order", "step"], kind="stable")
    measured = ["mean", "sd", "min", "max", "n", "n_diverged", "ceiling"]
    columns = ["arm_id", "arm", "hidden_size", "steps", "step", *measured, "published"]
    return table[columns].reset_index(drop=True)


def around_boundary(runs: pd.DataFrame, metrics: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Loss and distinct tokens at the boundary and a tenth of the run after it, per arm.

    Before: the last evaluated step at or before the boundary. After: the first evaluated step at least 0.1 x steps past
    it. Differences and ratios are taken within a run, then averaged. Only a finished run has a final value.

    Returns:
        arm_id, arm, hidden_size, steps, n, n_diverged, runs, diverged, unfinished, step_before, step_after, then mean
        and `_sd` of `BOUNDARY_MEASURES` (`drop` = before - after; `recovery` = unique after / before), and
        published_loss_before, published_loss_after, published_unique_before, published_unique_after,
        published_unique_final (at the same steps).
    """
    per_run = _boundary_of_each(runs, metrics)
    names = arms(runs)
    table = _spread(per_run, BOUNDARY_MEASURES, names)
    for when in ("before", "after"):
        # a run that never reached the later step doesn't say where the comparison is made
        table[f"step_{when}"] = per_run.groupby("arm_id")[f"step_{when}"].min()
    theirs = published.set_index(["arm_id", "step"])
    for value in ("loss", "unique"):
        for when in ("before", "after"):
            keys = pd.MultiIndex.from_arrays([table.index, table[f"step_{when}"]])
            table[f"published_{value}_{when}"] = theirs[value].reindex(keys).to_numpy(dtype="float64")
    ends = pd.MultiIndex.from_arrays([table.index, table["steps"]])
    table["published_unique_final"] = theirs["unique"].reindex(ends).to_numpy(dtype="float64")
    return table.reset_index()


def _boundary_of_each(runs: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    evaluated = _of_runs(metrics, runs, ["boundary_step", "steps"])
    measured = {"Loss": "loss", "UniquePredictions": "unique", "heldout_loss": "heldout", "Step": "step"}
    evaluated = evaluated[["run", "boundary_step", "steps", *measured]].rename(columns=measured)
    later = evaluated["boundary_step"] + AFTER_BOUNDARY * evaluated["steps"]
    # whole rows: groupby's own first and last take another step's value for an empty cell
    before = evaluated[evaluated["step"] <= evaluated["boundary_step"]].groupby("run").tail(1).set_index("run")
    after = evaluated[evaluated["step"] >= later].groupby("run").head(1).set_index("run")
    both = before.add_suffix("_before").join(after.add_suffix("_after"), how="inner")
    last = evaluated.groupby("run").tail(1).set_index("run")["unique"]
    per_run = runs[["arm_id", "status"]].join(both)
    finished = (runs["status"] == DONE) & per_run["step_before"].notna()
    per_run["unique_final"] = last.reindex(runs.index).where(finished)
    per_run["drop"] = per_run["loss_before"] - per_run["loss_after"]
    per_run["drop_percent"] = 100 * per_run["drop"] / per_run["loss_before"]
    per_run["recovery"] = per_run["unique_after"] / per_run["unique_before"]
    per_run["final_over_before"] = per_run["unique_final"] / per_run["unique_before"]
    return per_run


def parameters(runs: pd.DataFrame) -> pd.DataFrame:
    """Measured parameters of each model and vocabulary, beside the study's formula and its printed figure.

    Returns:
        hidden_size, num_layers, ffn_size, vocab_size, total, embedding, attention, ffn, head, norm, formula (NaN unless
        the layout is the study's), difference (total - formula), published (same layout, whatever the vocabulary).
    """
    shape = ["hidden_size", "num_layers", "num_heads", "num_kv_heads", "ffn_size", "gated_ffn", "tied_head"]
    shape += ["fused_projections", "norm_placement", "vocab_size"]
    parts = ["total", *PARTS]
    measured = runs[runs["parameters_total"].notna()].drop_duplicates([*shape, *(f"parameters_{p}" for p in parts)])
    table = measured[shape + [f"parameters_{p}" for p in parts]].rename(columns={f"parameters_{p}": p for p in parts})
    study_layout = (
        (table["num_layers"] == 4)
        & (table["ffn_size"] == 2 * table["hidden_size"])
        & (table["num_kv_heads"] == table["num_heads"])
        & table["gated_ffn"].eq(True)
        & table["tied_head"].eq(False)
        & table["fused_projections"].eq(True)
        & (table["norm_placement"] == "block_and_bitlinear")
    )
    table["formula"] = formula_parameters(table["hidden_size"], table["vocab_size"]).where(study_layout)
    table["difference"] = table["total"] - table["formula"]
    table["published"] = table["hidden_size"].map(PRINTED_PARAMETERS).where(study_layout).astype("float64")
    keep = ["hidden_size", "num_layers", "ffn_size", "vocab_size", *parts, "formula", "difference", "published"]
    return table[keep].sort_values(["hidden_size", "vocab_size", "total"]).reset_index(drop=True)


def baseline(runs: pd.DataFrame, metrics: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Each run's whole course in a few statistics, averaged over the seeds of an arm.

    Runs that answer to the study's baseline (`published` names `track`), or all where there are none. Only finished and
    diverged runs without a missing evaluation: the course of the others is not known. Stage 1 is up to and including the
    boundary. Points are the evaluated steps; a diverged run has no final value.

    Returns:
        arm_id, arm, hidden_size, steps, n, n_diverged, runs, diverged, unfinished, mean and `_sd` of each of
        `BASELINE_STATISTICS`, and `published_` of each.
    """
    track = runs["published"].map(lambda sources: "track" in sources).astype(bool)
    chosen = runs[track] if track.any() else runs
    whole = chosen[chosen["status"].isin(FINAL) & (chosen["holes"].map(len) == 0)]
    per_run = chosen[["arm_id", "status"]].join(_course(metrics[metrics["run"].isin(whole.index)], whole))
    for final in ("unique_final", "loss_final"):
        per_run[final] = per_run[final].where(per_run["status"] == DONE)
    table = _spread(per_run, BASELINE_STATISTICS, arms(runs).loc[lambda t: t.index.isin(chosen["arm_id"])])
    answers = table.index.isin(published.loc[published["source"] == "track", "arm_id"])
    summary = pd.DataFrame(BASELINE_SUMMARY).T.reindex(columns=list(BASELINE_STATISTICS))
    for statistic in BASELINE_STATISTICS:
        table[f"published_{statistic}"] = table["steps"].map(summary[statistic]).where(answers)
    return table.reset_index()


def _course(metrics: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """`BASELINE_STATISTICS` of each run."""
    points = _of_runs(metrics.dropna(subset="UniquePredictions"), runs, ["boundary_step"])
    unique, run = points["UniquePredictions"], points["run"]
    stage1 = points["Step"] <= points["boundary_step"]
    losses = points.dropna(subset="Loss").groupby("run")["Loss"]
    return pd.DataFrame(
        {
            "unique_mean": unique.groupby(run).mean(),
            "unique_min": unique.groupby(run).min(),
            "unique_max": unique.groupby(run).max(),
            "unique_stage1": unique[stage1].groupby(run[stage1]).mean(),
            "unique_stage2": unique[~stage1].groupby(run[~stage1]).mean(),
            "share_under_3": (unique < SEVERE).groupby(run).mean(),
            "unique_final": unique.groupby(run).last(),
            "loss_min": losses.min(),
            "loss_mean": losses.mean(),
            "loss_final": losses.last(),
        }
    )


def learning(runs: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    """What finished runs ended with on held-out text, per arm, beside ln V and the unigram entropy (nats).

    A model that learned nothing sits at ln V, one that learned only frequencies at the unigram entropy.

    Returns:
        arm_id, arm, hidden_size, steps, n, n_diverged (always 0: no final value), runs, diverged, unfinished, mean and
        `_sd` of each of `LEARNING_MEASURES`, ln_vocab, unigram_entropy.
    """
    finals = metrics.groupby("run").tail(1).set_index("run")[list(LEARNING_MEASURES)]
    done = finals[finals.index.isin(runs.index[runs["status"] == DONE])]
    table = _spread(runs[["arm_id", "status"]].join(done), LEARNING_MEASURES, arms(runs))
    return table.join(runs.groupby("arm_id")[["ln_vocab", "unigram_entropy"]].first()).reset_index()


def not_done(runs: pd.DataFrame, unreadable: pd.DataFrame) -> pd.DataFrame:
    """Every run that is not done, or ended early, or has something wrong in its records, and every unreadable folder.

    Returns:
        arm, seed, status, step, steps, reason, folder.
    """
    columns = ["arm", "seed", "status", "step", "steps", "reason", "folder"]
    lost = unreadable.assign(status=UNREADABLE)
    if not len(runs):
        return lost.reindex(columns=columns)
    named = runs.assign(arm=runs["arm_id"].map(arms(runs)["arm"]))
    # a done run has a reason when it ended before its last step
    odd = named[(named["status"] != DONE) | (named["note"] != "") | (named["reason"].fillna("") != "")]
    reasons = odd["reason"].fillna("").astype(str)
    both = reasons.where(odd["note"] == "", (reasons + "; " + odd["note"]).str.removeprefix("; "))
    odd = odd.assign(reason=both).sort_values(["status", "arm", "seed"], kind="stable")
    return pd.concat([odd[columns], lost], ignore_index=True).reindex(columns=columns)


def statuses(runs: pd.DataFrame, unreadable: pd.DataFrame) -> dict[str, int]:
    """How many runs have each status, unreadable folders among them; only those that occur."""
    counts = runs["status"].value_counts().to_dict() if len(runs) else {}
    return counts | ({UNREADABLE: len(unreadable)} if len(unreadable) else {})

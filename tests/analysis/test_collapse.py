"""Collapse classes and the facts of a run, over evaluations whose class is known by construction."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from run_folders import make_run

from bitnet.analysis.collapse import FEW, FLAT_SPREAD, classify, is_collapsed, run_facts
from bitnet.analysis.frames import read_runs
from bitnet.config.claims import RUN_FACTS

LN_V, UNIGRAM = 9.01, 6.9  # what `make_run` records
HEALTHY = {"heldout_loss": 5.5, "heldout_uniq": 130, "heldout_distinct_targets": 460, "logit_std": 2.0, "greedy_seq_rep_4": 0.1}
FLAT = HEALTHY | {"heldout_loss": 8.95, "heldout_uniq": 2, "logit_std": 0.03}
FREQUENCY = HEALTHY | {"heldout_loss": 7.0, "heldout_uniq": 3, "logit_std": 1.6}
LOOPING = HEALTHY | {"greedy_seq_rep_4": 0.9}


def judged(tmp_path, *kinds, first_step=1000, **record):
    """Runs and metrics of one run with these evaluations, 1000 steps apart."""
    rows = [{"Step": first_step + 1000 * i} | kind for i, kind in enumerate(kinds)]
    make_run(tmp_path, rows=rows, **record)
    records = read_runs([tmp_path])
    return records.runs, records.metrics


@pytest.mark.parametrize(
    ("evaluation", "kind"),
    [
        (FLAT, "flat logits"),
        (FREQUENCY, "frequency"),
        (LOOPING, "repetition"),
        # what the greedy continuations of sound small models do
        (HEALTHY | {"greedy_seq_rep_4": 0.53}, "none"),
        (HEALTHY | {"greedy_seq_rep_4": 0.82}, "none"),
        (HEALTHY, "none"),
        # flat, and still many different argmaxes: noise
        (FLAT | {"heldout_uniq": 300}, "flat logits"),
        # a spread just short of flat, near ln V, with few tokens: no flat logits any more, but no use of context either
        (FLAT | {"logit_std": FLAT_SPREAD}, "frequency"),
        # sure of few wrong tokens: worse than frequencies, and not flat
        (FREQUENCY | {"heldout_loss": 12.0, "logit_std": 5.0}, "frequency"),
        # few tokens, but a loss that only context can give
        (FREQUENCY | {"heldout_loss": 6.5}, "none"),
        # a small spread with a loss near the unigram entropy says something other than flat
        (FREQUENCY | {"logit_std": 0.3}, "frequency"),
        (HEALTHY | {"heldout_uniq": FEW * 460, "heldout_loss": 6.85}, "frequency"),
        (HEALTHY | {"heldout_uniq": FEW * 460 + 1, "heldout_loss": 6.95}, "none"),
        # circles, at a loss that does not use context: the cause is not the decoding
        (LOOPING | {"heldout_loss": 7.5}, "none"),
    ],
)
def test_class(tmp_path, evaluation, kind):
    runs, metrics = judged(tmp_path, evaluation)
    assert classify(runs, metrics).tolist() == [kind]


def test_one_token_is_few_whatever_the_text(tmp_path):
    runs, metrics = judged(tmp_path, FREQUENCY | {"heldout_uniq": 1, "heldout_distinct_targets": 20})
    assert classify(runs, metrics).tolist() == ["frequency"]


@pytest.mark.parametrize(("step", "kind"), [(1, "warm-up"), (374, "warm-up"), (375, "flat logits")])
def test_warm_up_is_not_judged(tmp_path, step, kind):
    runs, metrics = judged(tmp_path, FLAT, first_step=step)
    assert classify(runs, metrics).tolist() == [kind]


def test_step_1_is_not_judged_without_a_warm_up(tmp_path):
    config = {"lr": {"kind": "constant", "peak": 1e-3, "warmup_steps": 0}}
    runs, metrics = judged(tmp_path, FLAT, FLAT, first_step=1, config=config)
    assert classify(runs, metrics).tolist() == ["warm-up", "flat logits"]


@pytest.mark.parametrize("lost", ["heldout_loss", "heldout_uniq", "logit_std"])
def test_a_missing_number_gives_no_class(tmp_path, lost):
    runs, metrics = judged(tmp_path, {k: v for k, v in FLAT.items() if k != lost})
    assert classify(runs, metrics).isna().all()
    assert run_facts(runs, metrics).drop(columns=["diverged", "depth"]).isna().all(axis=None)


def test_one_evaluation_without_a_class_leaves_open_what_the_others_say_together(tmp_path):
    """Nine evaluations near ln V that lack a number, and a sound one, are no run that never collapsed."""
    lacking = {k: v for k, v in FLAT.items() if k != "logit_std"}
    runs, metrics = judged(tmp_path, *[lacking] * 9, HEALTHY)
    facts = run_facts(runs, metrics).iloc[0]
    assert facts.drop(["diverged", "depth"]).isna().all()
    assert facts["depth"] == pytest.approx(FLAT["heldout_loss"] - UNIGRAM)


def test_unknown_entropy_gives_no_class(tmp_path):
    runs, metrics = judged(tmp_path, FLAT, data={"vocab_size": 8192, "ln_vocab": LN_V})
    assert classify(runs, metrics).isna().all()


def test_without_continuations_repetition_is_not_looked_for(tmp_path):
    quiet = {k: v for k, v in HEALTHY.items() if k != "greedy_seq_rep_4"}
    runs, metrics = judged(tmp_path, quiet, FLAT)
    assert classify(runs, metrics).tolist() == ["none", "flat logits"]


def test_repetition_is_no_collapse():
    kinds = pd.Series(["flat logits", "frequency", "repetition", "none", "warm-up", None])
    assert is_collapsed(kinds).fillna(-1).tolist() == [1, 1, 0, 0, -1, -1]


def test_facts_of_a_collapse_and_a_recovery(tmp_path):
    warm = FLAT | {"heldout_loss": 9.5}
    rows = [{"Step": 1} | warm, *({"Step": s} | e for s, e in zip(range(1000, 6000, 1000), COURSE, strict=True))]
    make_run(tmp_path, rows=rows)
    records = read_runs([tmp_path])
    (facts,) = run_facts(records.runs, records.metrics).to_dict("records")
    assert facts.pop("depth") == pytest.approx(8.95 - UNIGRAM)  # the worst after warm-up, not the 9.5 of step 1
    assert facts == {
        "onset_step": 2000,
        "collapsed_share": 0.6,
        "duration_steps": 3000,
        "recovery_step": 5000,
        "collapsed_at_end": 0,
        "diverged": 0,
    }


COURSE = [HEALTHY, FLAT, FLAT, FREQUENCY, LOOPING]


def test_a_relapse_is_no_recovery(tmp_path):
    runs, metrics = judged(tmp_path, FLAT, HEALTHY, FREQUENCY, HEALTHY, FLAT)
    facts = run_facts(runs, metrics).iloc[0]
    assert math.isnan(facts["recovery_step"])
    assert (facts["onset_step"], facts["duration_steps"], facts["collapsed_at_end"]) == (1000, 4000, 1)


def test_a_run_that_never_collapsed(tmp_path):
    runs, metrics = judged(tmp_path, HEALTHY, HEALTHY)
    facts = run_facts(runs, metrics).iloc[0]
    assert facts[["onset_step", "recovery_step"]].isna().all()
    assert facts[["collapsed_share", "duration_steps", "collapsed_at_end"]].tolist() == [0, 0, 0]
    assert facts["depth"] == pytest.approx(HEALTHY["heldout_loss"] - UNIGRAM) and facts["depth"] < 0


def test_every_run_has_a_row_with_every_fact(tmp_path):
    make_run(tmp_path, arm="wd=paper", rows=[{"Step": 1000} | HEALTHY])
    make_run(tmp_path, arm="wd=wd005", rows=[{"Step": 1} | FLAT])
    make_run(tmp_path, arm="wd=wd01", status="queued")
    make_run(tmp_path, arm="wd=wd02", status="diverged", rows=[{"Step": 1000} | FLAT, {"Step": 2000}])
    records = read_runs([tmp_path])
    facts = run_facts(records.runs, records.metrics)
    assert list(facts.columns) == list(RUN_FACTS)
    assert list(facts.index) == list(records.runs.index)
    by_arm = facts.set_index(records.runs["label"])
    assert by_arm.loc["wd=wd005"].drop("diverged").isna().all()  # only evaluated during warm-up
    assert by_arm.loc["wd=wd01"].isna().all()
    assert by_arm.loc["wd=wd02", ["diverged", "collapsed_share"]].tolist() == [1, 1]


def test_runs_are_told_apart(tmp_path):
    make_run(tmp_path, arm="wd=paper", rows=[{"Step": s} | HEALTHY for s in (1000, 2000)])
    make_run(tmp_path, arm="wd=wd005", rows=[{"Step": s} | FLAT for s in (1000, 2000)])
    records = read_runs([tmp_path])
    share = run_facts(records.runs, records.metrics)["collapsed_share"]
    assert share.set_axis(records.runs["label"]).to_dict() == {"wd=paper": 0.0, "wd=wd005": 1.0}


def test_no_runs():
    nothing = pd.DataFrame({"run": pd.Series(dtype="object"), "Step": [], "heldout_loss": []})
    assert run_facts(pd.DataFrame(), nothing).empty

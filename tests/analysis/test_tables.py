"""Each table against numbers worked out by hand from a few runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from run_folders import baseline_config, evaluations, make_run

from bitnet.analysis import frames, published, tables, verification

STEPS = [1, 2000, 5000, 6000, 10000]


def read(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Runs, metrics and the published rows that belong to them."""
    found = frames.read_runs([folder], tables.METRICS)
    return found.runs, found.metrics, published.match(found.runs)


def row(table: pd.DataFrame, **wanted) -> pd.Series:
    """The one row with these values."""
    for column, value in wanted.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


# ---------------------------------------------------------------------------------------------------------------- arms
def test_arms_that_share_a_label_are_told_apart_by_what_differs(tmp_path):
    for hidden, steps in ((64, 100), (128, 100), (128, 200)):
        make_run(tmp_path, hidden=hidden, steps=steps)
    names = tables.arms(read(tmp_path)[0])["arm"].tolist()
    assert len(set(names)) == 3
    assert names[0] == "wd=paper,h=64"


def test_arms_that_differ_in_nothing_shown_get_their_id(tmp_path):
    make_run(tmp_path, seed=0, arm_id="aaaaaaaaaa")
    make_run(tmp_path, seed=1, arm_id="bbbbbbbbbb")
    assert tables.arms(read(tmp_path)[0])["arm"].tolist() == ["wd=paper,aaaaaaaaaa", "wd=paper,bbbbbbbbbb"]


def test_arms_are_named_by_what_they_do_not_share(tmp_path):
    make_run(tmp_path, arm="data=text,wd=paper,optimizer=adamw")
    make_run(tmp_path, arm="data=text,wd=none")
    make_run(tmp_path, arm="data=text")
    found = read(tmp_path)[0]
    assert set(tables.arms(found)["arm"]) == {"wd=paper,optimizer=adamw", "wd=none", tables.SHARED_ONLY}
    assert tables.shared_overrides(found) == ["data=text"]


def test_arms_have_the_names_that_their_sweep_gave_them(tmp_path):
    for optimizer in ("adam_l2", "adamw"):
        for name, steps in (("short", 100), ("long", 200)):
            folder = make_run(tmp_path / "s", arm=f"data=text,optimizer={optimizer}", steps=steps)
            record = json.loads((folder / "run.json").read_text()) | {"arm": name}
            (folder / "run.json").write_text(json.dumps(record))
    names = set(tables.arms(read(tmp_path)[0])["arm"])
    assert names == {f"{n}, optimizer={o}" for n in ("short", "long") for o in ("adam_l2", "adamw")}


def test_an_arm_that_is_alone_has_its_sweep_s_name_and_what_it_was_given_is_said_once(tmp_path):
    folder = make_run(tmp_path / "s", arm="data=text,wd=wd01")
    (folder / "run.json").write_text(json.dumps(json.loads((folder / "run.json").read_text()) | {"arm": "stage 1 only"}))
    found = read(tmp_path)[0]
    assert tables.arms(found)["arm"].tolist() == ["stage 1 only"]
    assert tables.shared_overrides(found) == ["data=text", "wd=wd01"]


# ------------------------------------------------------------------------------------------------------ tokens by step
def test_tokens_by_step_over_seeds_one_of_which_diverged_and_one_is_missing(tmp_path):
    make_run(tmp_path, seed=0, rows=evaluations(STEPS, [20, 8, 2, 10, 13]))
    make_run(tmp_path, seed=1, rows=evaluations(STEPS, [18, 6, 2, 12, 14]))
    make_run(tmp_path, seed=2, status="diverged", rows=evaluations(STEPS[:2], [19, 4]))
    make_run(tmp_path, seed=3, status="queued")
    table = tables.tokens_by_step(*read(tmp_path))
    start, end = row(table, step=2000), row(table, step=10000)
    assert (start["mean"], start["min"], start["max"], start["n"], start["n_diverged"]) == (6, 4, 8, 2, 1)
    assert start["sd"] == pytest.approx(2)
    assert (end["mean"], end["n"], end["n_diverged"]) == (13.5, 2, 0)
    assert end["sd"] == pytest.approx(math.sqrt(0.5))


def test_one_seed_has_no_spread(tmp_path):
    make_run(tmp_path, rows=evaluations(STEPS, [20, 8, 2, 10, 13]))
    table = tables.tokens_by_step(*read(tmp_path))
    assert table["sd"].isna().all()
    assert (table["n"] == 1).all()


def test_published_tokens_stand_beside_and_where_only_the_study_evaluated(tmp_path):
    make_run(tmp_path, rows=evaluations(STEPS, [20, 8, 2, 10, 13]), published=["scaling"])
    table = tables.tokens_by_step(*read(tmp_path))
    assert row(table, step=6000)["published"] == 10
    assert math.isnan(row(table, step=1)["published"])
    alone = row(table, step=3000)
    assert (alone["published"], alone["n"]) == (2, 0)
    assert math.isnan(alone["mean"])


@pytest.mark.parametrize(
    "changed",
    [
        {"published": []},
        {"published": ["track"]},
        {"arm": "wd=wd005"},
        {"arm": "wd=paper,optimizer=adamw"},
        {"hidden": 128},
        {"steps": 9000},
        {"config": {"wd": {"kind": "two_stage", "stage1": 0.1, "stage2": 0.2, "boundary": 0.5}}},
        {"config": {"batch_size": 8}},
    ],
)
def test_a_published_row_belongs_to_no_other_arm(tmp_path, changed):
    make_run(tmp_path, **({"published": ["scaling"], "rows": evaluations(STEPS, [20, 8, 2, 10, 13])} | changed))
    assert not len(read(tmp_path)[2])


def test_a_published_arm_that_names_a_group_needs_just_that_option(tmp_path):
    make_run(tmp_path, arm="wd=wd01,clip=norm01", published=["phase4"])
    make_run(tmp_path, arm="wd=wd01,smoothing=ls01", published=["phase4"])
    theirs = read(tmp_path)[2].set_index(["arm_id", "step"])["unique"]
    assert theirs["wd=wd01,clip=norm01-256-10000", 1000] == 12
    assert theirs["wd=wd01,smoothing=ls01-256-10000", 1000] == 20


# ------------------------------------------------------------------------------------------------------------ boundary
def test_before_and_after_the_boundary(tmp_path):
    for seed, (before, after, later) in enumerate([(2, 10, 14), (4, 10, 12)]):
        losses = [11, 10.5, 10.0 + seed, 7.0 + seed, 7.0]
        make_run(tmp_path, seed=seed, rows=evaluations(STEPS, [20, 8, before, after, later], losses), published=["scaling"])
    table = row(tables.around_boundary(*read(tmp_path)), arm="wd=paper")
    assert (table["step_before"], table["step_after"], table["n"]) == (5000, 6000, 2)
    assert (table["loss_before"], table["loss_after"], table["drop"]) == (10.5, 7.5, 3)
    assert table["drop_sd"] == 0
    assert table["drop_percent"] == pytest.approx((30 + 300 / 11) / 2)
    assert (table["recovery"], table["final_over_before"]) == ((5 + 2.5) / 2, (7 + 3) / 2)
    assert (table["published_loss_before"], table["published_loss_after"]) == (10.34, 7.32)
    assert (table["published_unique_before"], table["published_unique_after"]) == (2, 10)
    assert table["published_unique_final"] == 13


def test_the_steps_around_a_boundary_that_no_evaluation_hits(tmp_path):
    make_run(tmp_path, steps=70, rows=evaluations([1, 20, 30, 40, 42, 60, 70], [20, 8, 2, 3, 6, 7, 8]))
    table = row(tables.around_boundary(*read(tmp_path)), arm="wd=paper")
    assert (table["step_before"], table["step_after"], table["recovery"]) == (30, 42, 3)


def test_runs_that_did_not_get_past_the_boundary_count_but_give_no_numbers(tmp_path):
    make_run(tmp_path, seed=0, status="diverged", rows=evaluations([1, 5000], [20, 2]))
    make_run(tmp_path, seed=1, status="failed", rows=None)
    table = row(tables.around_boundary(*read(tmp_path)), arm="wd=paper")
    assert (table["n"], table["n_diverged"], table["diverged"], table["unfinished"]) == (0, 0, 1, 1)
    assert table[["loss_before", "drop", "recovery", "step_before"]].isna().all()


def test_only_a_finished_run_has_a_final_value(tmp_path):
    make_run(tmp_path, status="running", rows=evaluations(STEPS[:4], [20, 8, 2, 10]))
    table = row(tables.around_boundary(*read(tmp_path)), arm="wd=paper")
    assert table["recovery"] == 5
    assert math.isnan(table["final_over_before"])


# ---------------------------------------------------------------------------------------------------------- parameters
def test_measured_parameters_stand_beside_the_formula_and_the_printed_figure(tmp_path):
    measured = {"total": 28_360_448, "embedding": 12_865_792, "norm": 7_424}
    data = {"name": "wikitext2", "vocab_size": 50257}
    make_run(tmp_path, seed=0, parameters=measured, data=data)
    make_run(tmp_path, seed=1, parameters=measured, data=data)
    table = row(tables.parameters(read(tmp_path)[0]), hidden_size=256)
    assert (table["total"], table["formula"], table["difference"], table["published"]) == (
        28_360_448,
        28_360_448,
        0,
        28e6,
    )
    assert table["norm"] == 29 * 256
    assert math.isnan(table["head"])


def test_another_layout_has_no_formula_and_no_published_figure(tmp_path):
    run = make_run(tmp_path, parameters={"total": 1000})
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("num_kv_heads: 4", "num_kv_heads: 2"))
    table = tables.parameters(read(tmp_path)[0])
    assert table[["formula", "difference", "published"]].isna().all(axis=None)


# ------------------------------------------------------------------------------------------------------------ baseline
def test_the_course_of_a_run_in_statistics(tmp_path):
    rows = evaluations(STEPS, [20, 2, 2, 12, 5], [11, 9, 10, 8, 9])
    make_run(tmp_path, arm="wd=wd005", rows=rows, config=baseline_config(), published=["track"])
    make_run(tmp_path, arm="wd=paper", rows=evaluations(STEPS, [20, 8, 2, 10, 13]), published=["scaling"])
    table = tables.baseline(*read(tmp_path))
    assert table["arm"].tolist() == ["wd=wd005"]
    ours = table.iloc[0]
    assert (ours["unique_mean"], ours["unique_min"], ours["unique_max"]) == (8.2, 2, 20)
    assert (ours["unique_stage1"], ours["unique_stage2"]) == (8, 8.5)
    assert (ours["share_under_3"], ours["unique_final"]) == (0.4, 5)
    assert (ours["loss_min"], ours["loss_mean"], ours["loss_final"]) == (8, 9.4, 9)
    assert (ours["published_unique_mean"], ours["published_share_under_3"]) == (28.6, 0.007)
    assert (ours["published_loss_min"], ours["published_loss_mean"], ours["published_loss_final"]) == (
        8.71,
        10.52,
        9.74,
    )
    assert math.isnan(ours["published_unique_stage1"])


def test_without_runs_of_the_baseline_every_arm_has_its_course(tmp_path):
    make_run(tmp_path, arm="wd=wd005", rows=evaluations(STEPS, [20, 2, 2, 12, 5]))
    make_run(tmp_path, arm="wd=paper", rows=evaluations(STEPS, [20, 8, 2, 10, 13]))
    assert tables.baseline(*read(tmp_path))["arm"].tolist() == ["wd=paper", "wd=wd005"]


def test_a_diverged_run_is_in_the_course_without_a_final_value_and_a_failed_one_is_not(tmp_path):
    make_run(tmp_path, seed=0, rows=evaluations(STEPS, [20, 8, 2, 10, 10]))
    make_run(tmp_path, seed=1, status="diverged", rows=evaluations(STEPS[:2], [20, 16]))
    make_run(tmp_path, seed=2, status="failed", rows=evaluations(STEPS[:1], [1]))
    table = row(tables.baseline(*read(tmp_path)), arm="wd=paper")
    assert (table["unique_mean"], table["unique_final"]) == ((10 + 18) / 2, 10)
    assert (table["n"], table["n_diverged"], table["unfinished"]) == (1, 1, 1)


# ------------------------------------------------------------------------------------------------------------ learning
def test_what_was_learned_is_read_at_the_end_of_finished_runs(tmp_path):
    for seed, loss in enumerate((7.0, 7.4)):
        rows = [{"Step": 1, "heldout_loss": 9.0}, {"Step": 100, "heldout_loss": loss, "heldout_uniq": 30}]
        make_run(tmp_path, seed=seed, rows=rows)
    make_run(tmp_path, seed=2, status="diverged", rows=[{"Step": 1, "heldout_loss": 9.0}])
    table = row(tables.learning(*read(tmp_path)[:2]), arm="wd=paper")
    assert table["heldout_loss"] == pytest.approx(7.2)
    assert table["heldout_loss_sd"] == pytest.approx(math.sqrt(0.08))
    assert (table["heldout_uniq"], table["n"], table["diverged"]) == (30, 2, 1)
    assert (table["ln_vocab"], table["unigram_entropy"]) == (9.01, 6.9)
    assert math.isnan(table["logit_std"])


# -------------------------------------------------------------------------------------------------------- verification
GOOD = {1000: 16, 5000: 2, 6000: 10, 10000: 60, 20000: 60, 30000: 70}


def judged(folder: Path, unique: dict[int, float], **run) -> pd.Series:
    rows = evaluations(list(unique), list(unique.values()))
    make_run(folder / "verification4", steps=30_000, rows=rows, **run)
    table = verification.verification(*read(folder))
    assert len(table) == 1
    return table.iloc[0]


def test_a_run_passes_when_every_success_criterion_is_met(tmp_path):
    run = judged(tmp_path, GOOD)
    assert (run["verdict"], run["step_1000"], run["step_30000"], run["seconds"]) == ("Pass", 16, 70, 100)


@pytest.mark.parametrize(
    ("step", "unique", "why"),
    [
        (5000, 6, "failure 5k > 5"),
        (6000, 4, "failure 6k < 5"),
        (10000, 4, "failure 10k < 5"),
        (20000, 9, "failure 20k < 10"),
        (1000, 10, "success 1k > 10 missed"),
        (6000, 8, "success 6k > 8 missed"),
        (20000, 50, "success 20k > 50 missed"),
        (30000, 50, "success 30k > 50 missed"),
    ],
)
def test_a_run_fails_on_each_criterion_and_says_which(tmp_path, step, unique, why):
    run = judged(tmp_path, GOOD | {step: unique})
    assert run["verdict"] == "Fail"
    assert why in run["why"]


def test_a_step_that_was_not_reached_leaves_the_run_undecided(tmp_path):
    run = judged(tmp_path, {step: unique for step, unique in GOOD.items() if step <= 20_000})
    assert (run["verdict"], run["success 30k > 50"], run["why"]) == (
        "undecided",
        "not reached",
        "not reached: 30k > 50",
    )
    assert math.isnan(run["step_30000"])


def test_a_step_that_was_not_reached_does_not_hide_a_failure(tmp_path):
    assert judged(tmp_path, {1000: 16, 5000: 9})["verdict"] == "Fail"


@pytest.mark.parametrize(("dip", "answer"), [(30, "no"), (29, "yes")])
def test_volatile_is_a_fall_below_half_of_the_maximum_after_the_boundary(tmp_path, dip, answer):
    # 100 at 15,000, the boundary, does not count
    run = judged(tmp_path, GOOD | {15_000: 100, 25_000: dip})
    assert run["failure volatile"] == answer


def test_the_overall_answer_and_what_it_rests_on(tmp_path):
    judged(tmp_path / "a", GOOD)
    passed = verification.verification(*read(tmp_path / "a"))
    assert verification.overall(passed).startswith("Fix verified: yes. Rests on 1 decided of 1 run(s), 1 passed")
    judged(tmp_path / "b", {1000: 16})
    undecided = verification.verification(*read(tmp_path / "b"))
    assert verification.overall(undecided).startswith("Fix verified: undecided. Rests on 0 decided of 1")
    judged(tmp_path / "c", GOOD | {5000: 9})
    failed = verification.verification(*read(tmp_path / "c"))
    assert verification.overall(pd.concat([passed, failed])).startswith("Fix verified: no. Rests on 2 decided of 2")


def test_a_bound_above_the_ceiling_is_remarked(tmp_path):
    judged(tmp_path, GOOD)
    table = verification.verification(*read(tmp_path))
    assert "ceiling of 20" in verification.ceiling_remark(table)
    assert verification.ceiling_remark(table.assign(ceiling=128)) == ""


def test_runs_of_other_sweeps_are_not_judged(tmp_path):
    make_run(tmp_path / "phase5_scaling", rows=evaluations([1000], [16]))
    assert not len(verification.verification(*read(tmp_path)))


# ------------------------------------------------------------------------------------------------------------ not done
def test_every_run_that_is_not_done_is_listed(tmp_path):
    make_run(tmp_path, seed=0, rows=evaluations([1], [20]))
    make_run(tmp_path, seed=1, status="diverged", reason="loss is nan", rows=evaluations([1], [20]), step=1)
    make_run(tmp_path, seed=2, status="failed", reason="out of memory", rows=None)
    make_run(tmp_path, seed=3, status="running", rows=evaluations([1], [20]))
    make_run(tmp_path, seed=4, status="queued")
    make_run(tmp_path, seed=5, rows=None)
    (make_run(tmp_path, seed=6) / "run.json").write_text("{")
    found = frames.read_runs([tmp_path])
    table = tables.not_done(found.runs, found.unreadable).set_index("seed")
    assert table.loc[1, ["status", "step", "reason"]].tolist() == ["diverged", 1, "loss is nan"]
    assert table.loc[2, "reason"] == "out of memory; metrics.csv is missing"
    assert (table.loc[3, "status"], table.loc[4, "status"]) == ("running", "missing")
    assert table.loc[5, ["status", "reason"]].tolist() == ["done", "metrics.csv is missing"]
    assert table["status"].iloc[-1] == "unreadable"
    assert 0 not in table.index
    counts = {"done": 2, "diverged": 1, "failed": 1, "running": 1, "missing": 1, "unreadable": 1}
    assert tables.statuses(found.runs, found.unreadable) == counts

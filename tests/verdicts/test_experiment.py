"""Sweeps read from disk and judged: which declaration counts, whose runs, which factors are crossed."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import run_folders
import yaml
from run_folders import Row, declare, evaluations, make_run, metrics_text

from bitnet import report
from bitnet.analysis import frames, grouping
from bitnet.reporting import wording
from bitnet.verdicts.experiment import READ, Experiment, arm_names, experiments_by_table, experiments_in, records_of

STEPS = (100, 5000, 10_000)
CLAIM: dict[str, Any] = {
    "kind": "contrast",
    "says": "More is left, more is lost",
    "metric": "heldout_loss",
    "arm": {"wd": "wd01"},
    "against": {"wd": "paper"},
    "expected": "higher",
    "margin": 0.5,
}
FILE = ("2024-12-31T00:00:00+00:00", {"more": CLAIM})  # what a sweep claimed before its first run


def losses(*values: float) -> list[Row]:
    return run_folders.losses(STEPS, values, UniquePredictions=5)


def pair(folder: Path, *, seeds: int = 3, apart: float = 1.0, **record: Any) -> None:
    """Two arms, wd=wd01 with a loss that much higher; a little of it differs by seed."""
    for seed in range(seeds):
        make_run(folder, seed=seed, rows=losses(9, 8, 7 + 0.01 * seed), **record)
        make_run(folder, arm="wd=wd01", seed=seed, rows=losses(9, 8, 7 + apart + 0.02 * seed), **record)


def read(*folders: Path) -> list[Experiment]:
    return experiments_in(frames.read_runs(folders, READ), folders)


def crossed(folder: Path, seeds: int = 3) -> None:
    """Optimizer x stage-2 decay, where the optimizer alone makes a loss 2 lower."""
    for seed in range(seeds):
        for wd in ("paper", "wd01"):
            make_run(folder, arm=f"wd={wd}", seed=seed, rows=losses(9, 8, 7 + 0.01 * seed))
            low = losses(9, 6, 5 + 0.01 * seed + 0.001 * (wd == "paper"))
            make_run(folder, arm=f"optimizer=adamw,wd={wd}", seed=seed, rows=low)
    declare(folder, ("2024-12-31T00:00:00+00:00", {}), grid={"optimizer": ["adam_l2", "adamw"], "wd": ["paper", "wd01"]})


def test_a_sweep_is_judged_by_what_its_folder_declares(tmp_path):
    pair(tmp_path / "s")
    declare(tmp_path / "s", FILE)
    (found,) = read(tmp_path)
    (verdict,) = found.verdicts
    assert (verdict.word, verdict.n) == ("reproduced", 3)
    assert verdict.mean == pytest.approx(1.01)
    assert found.declaration.notes == ()


@pytest.mark.parametrize(("metric", "value"), [("heldout_below_uniform", 9.01 - 8.03), ("heldout_below_unigram", 6.9 - 8.03)])
def test_a_number_that_holds_for_any_vocabulary_is_computed_from_the_run_s_record(tmp_path, metric, value):
    pair(tmp_path / "s")
    bound = {"kind": "bound", "says": "x", "metric": metric, "arm": {"wd": "wd01"}, "expected": "at_most", "bound": 2}
    declare(tmp_path / "s", ("2024-12-31T00:00:00+00:00", {"knows_little": bound}))
    (found,) = read(tmp_path)
    (verdict,) = found.verdicts
    assert (verdict.word, verdict.margin) == ("reproduced", None)
    assert verdict.mean == pytest.approx(value + 0.01)
    assert wording.effect_text(verdict, found.claims["knows_little"]).endswith("nats")
    assert wording.margin_text(verdict, found.claims["knows_little"]) == "\u2013"


def test_claims_that_changed_after_the_first_run_began_are_named(tmp_path):
    pair(tmp_path / "s")
    later = {"more": CLAIM | {"margin": 1.5}, "same": CLAIM}
    declare(tmp_path / "s", ("2024-12-31T00:00:00+00:00", {"more": CLAIM, "same": CLAIM}), ("2025-02-01T00:00:00+00:00", later))
    (found,) = read(tmp_path)
    assert found.declaration.late == ("more",)
    assert "changed or withdrawn after the first run began" in found.declaration.notes[0]
    more, same = found.verdicts
    assert more.margin == 1.5 and more.word == "not reproduced", "the newest version counts"
    assert "declared or changed after the first run began" in more.warnings
    assert "declared or changed after the first run began" not in same.warnings


def test_a_claim_that_is_only_told_in_other_words_is_not_late(tmp_path):
    """Nor is one whose published figure is quoted differently; the newest words are shown, and no number of versions is."""
    pair(tmp_path / "s")
    once, later = CLAIM | {"published": "about one nat"}, CLAIM | {"says": "More stays, more is lost", "published": "1 nat"}
    declare(tmp_path / "s", ("2024-12-31T00:00:00+00:00", {"more": once}), ("2025-02-01T00:00:00+00:00", {"more": later}))
    (found,) = read(tmp_path)
    assert (found.declaration.late, found.declaration.known, found.declaration.notes) == ((), (), ())
    assert found.verdicts[0].says == "More stays, more is lost"
    assert not any("declared or changed" in warning for warning in found.verdicts[0].warnings)
    declare(
        tmp_path / "s",
        ("2024-12-31T00:00:00+00:00", {"more": once}),
        ("2025-02-01T00:00:00+00:00", {"more": later | {"published": 1.0}}),
    )
    assert read(tmp_path)[0].declaration.late == ("more",), "a number is compared with what is measured"


def test_claims_that_changed_before_any_run_began_need_no_remark(tmp_path):
    pair(tmp_path / "s")
    declare(
        tmp_path / "s",
        ("2024-12-30T00:00:00+00:00", {"more": CLAIM | {"margin": 9.0}}),
        ("2024-12-31T00:00:00+00:00", {"more": CLAIM}),
    )
    (found,) = read(tmp_path)
    assert found.declaration.late == () and found.declaration.notes == ()


def test_claims_that_were_first_declared_after_the_first_run_began_are_late_too(tmp_path):
    pair(tmp_path / "s")
    declare(tmp_path / "s", ("2025-01-01T00:00:01+00:00", {"more": CLAIM}))
    (found,) = read(tmp_path)
    assert found.declaration.late == ("more",)
    assert "declared or changed after the first run began" in found.verdicts[0].warnings
    assert "1 claim was declared or changed after the first run began." in wording.answer([found])
    declare(tmp_path / "s", ("2025-01-01T00:00:00+00:00", {"more": CLAIM}))
    assert read(tmp_path)[0].declaration.late == (), "written in the second that the first run began"


def test_a_claim_that_was_taken_back_or_changed_to_and_fro_is_late(tmp_path):
    pair(tmp_path / "s")
    other = CLAIM | {"margin": 0.1}
    declare(
        tmp_path / "s",
        ("2024-12-31T00:00:00+00:00", {"more": CLAIM, "gone": CLAIM}),
        ("2025-02-01T00:00:00+00:00", {"more": other}),
        ("2025-03-01T00:00:00+00:00", {"more": CLAIM}),
    )
    assert read(tmp_path)[0].declaration.late == ("more", "gone")


def test_seeds_that_were_added_when_a_run_was_over_are_told(tmp_path):
    pair(tmp_path / "s", finished="2025-01-02T00:00:00+00:00")
    for record in (tmp_path / "s").glob("*-2/run.json"):  # written down when the first runs were over
        record.write_text(record.read_text().replace("2025-01-01", "2025-01-03"))
    claims = {"more": CLAIM}
    declared = [
        {"at": at, "scale": None, "sweep": {"name": "s", "claims": claims, "seeds": seeds}}
        for at, seeds in (("2024-12-31T00:00:00+00:00", [0, 1]), ("2025-01-03T00:00:00+00:00", [0, 1, 2]))
    ]
    (tmp_path / "s" / "sweep.json").write_text(json.dumps({"declared": declared}))
    (found,) = read(tmp_path)
    assert found.declaration.late == ()
    assert found.declaration.notes[0].startswith("seed 2 added after the first run had ended: if results prompted this")
    assert found.declaration.added == {2: 4}
    (verdict,) = found.verdicts
    assert verdict.warnings[0].startswith("seed 2 added when 4 runs of this sweep had results: adding seeds until a claim holds")


def test_seeds_that_no_version_declares_are_as_old_as_their_runs(tmp_path):
    pair(tmp_path / "s", finished="2025-01-02T00:00:00+00:00")
    declare(tmp_path / "s", FILE)
    assert read(tmp_path)[0].declaration.added == {}, "written down before the first was over"
    for record in (tmp_path / "s").glob("*-2/run.json"):
        record.write_text(record.read_text().replace("2025-01-01", "2025-01-03"))
    assert read(tmp_path)[0].declaration.added == {2: 4}


def test_seeds_of_runs_that_were_written_down_again_are_as_old_as_their_declaration(tmp_path):
    pair(tmp_path / "s", finished="2025-01-02T00:00:00+00:00")
    declare(tmp_path / "s", FILE, seeds=[0, 1, 2])
    for record in (tmp_path / "s").glob("*-2/run.json"):  # repeated with overwrite=true
        record.write_text(record.read_text().replace("2025-01-01", "2025-01-03"))
    (found,) = read(tmp_path)
    assert found.declaration.added == {}
    assert not any("added when" in warning for warning in found.verdicts[0].warnings)


def test_versions_that_claim_the_same_are_one_of_them(tmp_path):
    pair(tmp_path / "s")
    other = {"more": CLAIM | {"margin": 0.1}}
    days = [f"2025-02-0{i}T00:00:00+00:00" for i in range(1, 4)]
    declare(tmp_path / "s", (days[0], {"more": CLAIM}), (days[1], other), (days[2], other))
    note = read(tmp_path)[0].declaration.notes[0]
    assert note.endswith(f"The newest version ({days[1]}) is the one judged; sweep.json keeps every version (2)")


def test_results_that_another_sweep_had_before_a_claim_was_declared_are_named(tmp_path):
    taken = {"taken_from": "other/x", "finished": "2025-01-05T00:00:00+00:00"}
    pair(tmp_path / "s", **taken)
    declare(
        tmp_path / "s",
        ("2025-01-04T00:00:00+00:00", {"early": CLAIM}),
        ("2025-01-06T00:00:00+00:00", {"early": CLAIM, "more": CLAIM}),
    )
    (found,) = read(tmp_path)
    assert (found.declaration.late, found.declaration.known) == ((), ("more",)), "runs of another sweep began for that one"
    early, more = found.verdicts
    assert any("declared when some of its runs already had results" in w for w in more.warnings)
    assert not any("already had" in w for w in early.warnings)
    assert "6 of 6 runs had already finished in another sweep" in found.declaration.notes[0]
    assert any("1 claim was declared when some of the results already existed" in text for text in wording.answer([found]))


@pytest.mark.parametrize(
    ("other", "kind"),
    [
        ({"steps": 20}, "20 steps"),
        ({"scale": "ci", "steps": 20}, "scale=ci, 20 steps"),
        ({"data": {"sha256": "c0ffee"}}, "data c0ffee"),
    ],
)
def test_runs_of_another_length_scale_or_text_are_judged_apart(tmp_path, other, kind):
    own = {"started": "2025-01-02T00:00:00+00:00"}  # the newer, where neither is larger
    pair(tmp_path / "s", scale=None, data={"sha256": "beef"}, **own)
    declare(tmp_path / "s", FILE)
    (alone,) = read(tmp_path)
    for arm in ("wd=paper", "wd=wd01"):
        record = {"data": {"sha256": "beef"}, "arm_id": f"{arm}-other", "step": 10_000} | other
        make_run(tmp_path / "s", arm=arm, seed=10, rows=losses(9, 9, 9), **record)
    leader, apart = read(tmp_path)
    assert leader.verdicts == alone.verdicts
    assert (leader.name, apart.name) == ("sweep s", f"sweep s ({kind})")
    assert len(leader.records.runs) == 6 and len(apart.records.runs) == 2
    assert (apart.verdicts[0].n, apart.verdicts[0].mean) == (1, 0)
    assert f"also holds 2 runs with {kind}, judged separately" in leader.declaration.notes[-1]
    said = wording.answer([leader, apart])
    assert said[0].startswith("1 claim of 1 sweep: 1 reproduced")
    apart_text = "2 more runs in these folders differ in scale, length, data or overrides; they are judged separately"
    assert f"{apart_text} and not counted above." in said


def test_each_scale_is_judged_by_what_was_declared_for_it(tmp_path):
    for scale, hidden in (("laptop", 256), ("ci", 64)):
        pair(tmp_path / "s", scale=scale, hidden=hidden, seeds=3 if scale == "laptop" else 2)
    declared = [
        {"at": f"2024-12-3{i}T00:00:00+00:00", "scale": scale, "sweep": {"name": "s", "claims": {"more": CLAIM}, "seeds": seeds}}
        for i, (scale, seeds) in enumerate([("laptop", [0, 1, 2]), ("ci", [0, 1])])
    ]
    (tmp_path / "s" / "sweep.json").write_text(json.dumps({"declared": declared}))
    laptop, ci = read(tmp_path)
    assert (laptop.declaration.scale, ci.declaration.scale) == ("laptop", "ci")
    assert [e.verdicts[0].n for e in (laptop, ci)] == [3, 2]
    assert not any("missing in" in w for e in (laptop, ci) for w in e.verdicts[0].warnings)


def variant(folder: Path, typed: str, seeds: tuple[int, ...], arm_id: str = "-256-10000", **config: Any) -> None:
    """Both arms of `pair` with an override beside them, whose loss is 3 lower."""
    for arm, seed in itertools.product(("wd=paper", "wd=wd01"), seeds):
        own = {"id": f"{arm}-{typed}-{seed}", "overrides": [arm, typed], "arm_id": f"{arm}{arm_id}"}
        own |= {"started": "2025-03-01T00:00:00+00:00", "step": 10_000, "name": own["id"]}
        make_run(folder, arm=arm, seed=seed, rows=losses(9, 8, 4 + 0.01 * seed), config=config, **own)


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2), (0, 1, 2, 3)])
@pytest.mark.parametrize(
    ("typed", "config"),
    [
        ("lr.peak=0.003", {"lr": {"kind": "constant", "peak": 0.003}}),
        ("batch_size=8", {"batch_size": 8}),
        ("steps=20000", {"steps": 20_000}),
    ],
)
def test_runs_with_an_override_beside_the_sweep_s_do_not_take_its_verdicts_over(tmp_path, typed, config, seeds):
    pair(tmp_path / "s")
    declare(tmp_path / "s", FILE)
    variant(tmp_path / "s", typed, seeds, "-other", **config)
    leader, apart = read(tmp_path)
    assert leader.verdicts[0].mean == pytest.approx(1.01)
    assert len(apart.records.runs) == 2 * len(seeds)


def test_a_seed_that_was_given_the_file_s_own_value_is_one_of_its_runs(tmp_path):
    pair(tmp_path / "s", seeds=2)
    declare(tmp_path / "s", FILE)
    variant(tmp_path / "s", "lr.peak=0.0015", (7,))
    variant(tmp_path / "s", "lr.peak=0.003", (0, 1, 2, 3), "-fast", lr={"kind": "constant", "peak": 0.003})
    leader, apart = read(tmp_path)
    assert leader.verdicts[0].n == 3 and len(apart.records.runs) == 8


def test_an_override_that_changes_no_result_parts_no_seeds(tmp_path):
    pair(tmp_path / "s", seeds=2)
    declare(tmp_path / "s", FILE)
    variant(tmp_path / "s", "checkpoint.keep=1", (7,), checkpoint={"keep": 1})
    (found,) = read(tmp_path)
    assert found.verdicts[0].n == 3


def test_runs_that_read_the_same_tokens_in_another_order_are_judged_apart(tmp_path):
    pair(tmp_path / "s", config={"data": {"order": "sequential"}})
    declare(tmp_path / "s", FILE)
    variant(tmp_path / "s", "data.order=random", (0, 1, 2), "-random", data={"order": "random"})
    leader, apart = read(tmp_path)
    assert leader.verdicts[0].mean == pytest.approx(1.01) and "data.order=random" in apart.name


def test_lengths_that_the_sweep_is_about_stay_together(tmp_path):
    for seed in range(3):
        for steps, loss in ((10_000, 7.0), (20_000, 8.0)):
            own = {"written": {"steps": str(steps)}, "step": 10_000}
            make_run(tmp_path / "s", seed=seed, steps=steps, rows=losses(9, 8, loss + 0.01 * seed * (steps > 10_000)), **own)
    claim = CLAIM | {"arm": {"steps": 20_000}, "against": {"steps": 10_000}}
    arms = {"10k": "wd=paper steps=10000", "20k": "wd=paper steps=20000"}
    declare(tmp_path / "s", ("2024-12-31T00:00:00+00:00", {"longer": claim}), arms=arms)
    (found,) = read(tmp_path)
    assert found.verdicts[0].mean == pytest.approx(1.01)


@pytest.mark.parametrize("content", [None, "{", '{"declared": []}', '{"declared": [{"at": "x"}]}', "[]"])
def test_without_a_sound_declaration_a_sweep_is_judged_by_what_its_runs_were_frozen_with(tmp_path, content):
    pair(tmp_path / "s", config={"sweep": {"name": "s", "claims": {"more": CLAIM}}})
    if content is not None:
        (tmp_path / "s" / "sweep.json").write_text(content)
    (found,) = read(tmp_path)
    assert found.verdicts[0].word == "reproduced"
    assert "taken from the newest run's own configuration" in found.declaration.notes[0]


def test_a_claim_that_is_none_is_a_problem_of_its_sweep_and_of_no_other(tmp_path):
    for name in ("s", "t"):
        pair(tmp_path / name)
    declare(tmp_path / "s", ("2024-12-31T00:00:00+00:00", {"more": CLAIM | {"metric": "heldout_los"}}))
    declare(tmp_path / "t", ("2024-12-31T00:00:00+00:00", {"more": CLAIM}))
    bad, good = read(tmp_path)
    assert bad.verdicts == [] and "heldout_los" in str(bad.problem)
    assert good.verdicts[0].word == "reproduced"


def test_a_run_of_two_sweeps_has_in_each_the_arm_that_the_sweep_calls_it_by(tmp_path):
    for name, arm in (("s", "control"), ("t", "treated")):
        make_run(tmp_path / name, rows=losses(9, 8, 7), sweep=name, **{"choices": {"wd": "paper"}, "id": "same"})
        record = next((tmp_path / name).glob("*/run.json"))
        record.write_text(json.dumps(json.loads(record.read_text()) | {"arm": arm}))
    assert [list(e.records.runs["arm"]) for e in read(tmp_path)] == [["control"], ["treated"]]


def test_the_same_sweep_in_two_folders_is_two_experiments(tmp_path):
    for out, apart in (("a", 1.0), ("b", 0.1)):
        pair(tmp_path / out / "s", apart=apart, **({"steps": 20_000} if out == "b" else {}))
        declare(tmp_path / out / "s", ("2024-12-31T00:00:00+00:00", {"more": CLAIM | {"at": 10_000}}))
    first, second = read(tmp_path)
    assert first.name != second.name
    assert [e.verdicts[0].word for e in (first, second)] == ["reproduced", "not reproduced"]


def test_one_run_that_was_named_alone_does_not_judge_its_sweep(tmp_path):
    pair(tmp_path / "s")
    declare(tmp_path / "s", FILE)
    (found,) = read(next((tmp_path / "s").glob("wd=paper*")))
    assert found.verdicts == () and len(found.records.runs) == 1


def test_arms_whose_stage_2_begins_elsewhere_are_not_compared_at_their_boundaries(tmp_path):
    crossed(tmp_path / "s")
    for config in (tmp_path / "s").glob("*adamw*/config.yaml"):
        values = yaml.safe_load(config.read_text())
        config.write_text(yaml.safe_dump(values | {"wd": values["wd"] | {"boundary": 0.4}}))
    (found,) = read(tmp_path)
    boundary, end = found.effects
    assert boundary.problem == "Stage 2 begins at different fractions of the run (0.4, 0.5): there is no common moment"
    assert boundary.table is None and end.table is not None


def test_runs_that_are_evaluated_over_other_positions_have_no_common_analysis_of_variance(tmp_path):
    crossed(tmp_path / "s")
    for config in (tmp_path / "s").glob("*adamw*/config.yaml"):
        values = yaml.safe_load(config.read_text())
        config.write_text(yaml.safe_dump(values | {"probe": values["probe"] | {"heldout_sequences": 64}}))
    for config in (tmp_path / "s").glob("wd=*/config.yaml"):
        values = yaml.safe_load(config.read_text())
        config.write_text(yaml.safe_dump(values | {"probe": values["probe"] | {"heldout_sequences": 32}}))
    (found,) = read(tmp_path)
    assert all(effects.table is None for effects in found.effects)
    assert "heldout_loss at different probe.heldout_sequences (32, 64)" in found.effects[1].problem


def test_shares_of_a_spread_that_is_no_larger_than_the_error_are_no_answer(tmp_path):
    crossed(tmp_path / "s")
    declare(tmp_path / "s", FILE, grid={"optimizer": ["adam_l2", "adamw"], "wd": ["paper", "wd01"]})
    assert any("optimizer accounts for" in text for text in wording.answer(read(tmp_path)))
    for n, record in enumerate(sorted((tmp_path / "s").glob("*/metrics.csv"))):
        record.write_text(metrics_text(losses(9, 8 + 0.001 * n, 7 + 0.001 * n)))
    assert not any("of the variance" in text for text in wording.answer(read(tmp_path)))


def test_the_factor_that_does_it_has_the_variance(tmp_path):
    crossed(tmp_path / "s")
    (found,) = read(tmp_path)
    assert found.factors == {"optimizer": ["adam_l2", "adamw"], "wd": ["paper", "wd01"]}
    boundary, end = found.effects
    assert boundary.seeds == end.seeds == 3
    assert end.table.set_index("effect")["share"]["optimizer"] > 0.99
    assert end.contrasts["effect"][0] == "optimizer"
    assert end.contrasts["mean"][0] == pytest.approx(-2, abs=0.01)
    assert arm_names(found).to_list()[0] == "optimizer=adam_l2, wd=paper"


def test_a_factor_that_has_not_acted_at_the_boundary_is_left_out_there_and_it_says_so(tmp_path):
    crossed(tmp_path / "s")  # wd acts in stage 2 alone
    (found,) = read(tmp_path)
    boundary, end = found.effects
    assert (boundary.inert, end.inert) == (("wd",), ())
    assert "wd" not in set(boundary.table["effect"])
    assert "Wd has had no effect by then: runs that differ only in it are identical and count once." in wording.shares_text(
        boundary
    )
    assert "no effect" not in wording.shares_text(end)


def test_a_grid_with_a_missing_combination_is_not_crossed(tmp_path):
    crossed(tmp_path / "s")
    for run in (tmp_path / "s").glob("optimizer=adamw,wd=wd01*"):
        for file in run.iterdir():
            file.unlink()
    (found,) = read(tmp_path)
    assert found.factors == {} and found.effects == []


def test_runs_without_a_number_are_counted_and_too_few_say_why(tmp_path):
    crossed(tmp_path / "s", seeds=1)
    record = next((tmp_path / "s").glob("optimizer=adamw,wd=wd01*/run.json"))
    record.write_text(json.dumps(json.loads(record.read_text()) | {"status": "diverged"}))
    end = read(tmp_path)[0].effects[1]
    assert end.table is None and end.lost == {"diverged": 1}
    assert str(end.problem).startswith("Some runs ended without this number (1 diverged)")


def test_a_factor_s_share_is_of_seeds_that_have_every_cell_and_has_a_p_from_six_of_them_on(tmp_path):
    crossed(tmp_path / "s", seeds=6)
    (found,) = read(tmp_path)
    assert found.effects[1].seeds == 6 and found.effects[1].contrasts["p_holm"].notna().all()
    record = next((tmp_path / "s").glob("optimizer=adamw,wd=wd01*-5/run.json"))
    record.write_text(json.dumps(json.loads(record.read_text()) | {"status": "running"}))
    (found,) = read(tmp_path)
    end = found.effects[1]
    assert (end.seeds, end.lost, set(end.contrasts["n"])) == (5, {"running": 1}, {5})
    assert end.table[["p", "p_holm"]].isna().all(axis=None) and end.contrasts[["p", "p_holm"]].isna().all(axis=None)


# ------------------------------------------------------------------------------------------------- what was lost or mixed
def test_a_torn_file_has_no_end(tmp_path):
    """What can still be read ends where the arm that is worse in truth was better."""
    for seed in range(6):
        make_run(tmp_path / "s", seed=seed, rows=losses(9, 8, 8 + 0.01 * seed))
        torn = make_run(tmp_path / "s", arm="wd=wd01", seed=seed, rows=losses(9, 6 + 0.02 * seed, 9 + 0.02 * seed))
        lines = (torn / "metrics.csv").read_text().splitlines(keepends=True)
        (torn / "metrics.csv").write_text("".join(lines)[:-4])
    declare(tmp_path / "s", ("2024-12-31T00:00:00+00:00", {"less": CLAIM | {"expected": "lower"}}))
    verdict = read(tmp_path)[0].verdicts[0]
    assert verdict.word == "inconclusive" and verdict.why.startswith("no number from seed 0 of arm (done)")
    assert "seed 0 of arm: metrics.csv: last line torn, left out" in verdict.warnings


def test_runs_that_can_t_be_read_are_not_left_out(tmp_path):
    pair(tmp_path / "s", seeds=6)
    declare(tmp_path / "s", FILE)
    assert read(tmp_path)[0].verdicts[0].word == "reproduced"
    for seed in (3, 4, 5):
        next((tmp_path / "s").glob(f"wd=paper*-{seed}/run.json")).write_text("{")
    (found,) = read(tmp_path)
    assert found.verdicts[0].word == "inconclusive" and "can't be read" in found.verdicts[0].why
    assert "3 more folders can't be read as runs." in wording.answer([found])[-1]


def test_runs_with_another_typed_override_are_judged_apart(tmp_path):
    pair(tmp_path / "s", apart=0.0)
    declare(tmp_path / "s", FILE)
    word = read(tmp_path)[0].verdicts[0].word
    for seed in range(3):
        typed = {"overrides": ["wd=wd01", "batch_size=64"], "arm_id": "large", "id": f"large-{seed}"}
        make_run(tmp_path / "s" / "x", arm="wd=wd01", seed=seed, rows=losses(9, 8, 12 + 0.02 * seed), **typed | {"sweep": "s"})
    for place in (tmp_path / "s" / "x").iterdir():
        config = yaml.safe_load((place / "config.yaml").read_text()) | {"batch_size": 64}
        (place / "config.yaml").write_text(yaml.safe_dump(config))
        place.rename(tmp_path / "s" / f"{place.name}-large")
    leader, apart = read(tmp_path)
    assert (leader.verdicts[0].word, len(leader.records.runs)) == (word, 6)
    assert (apart.name, len(apart.records.runs)) == ("sweep s (batch_size=64)", 3)


def test_a_run_that_is_longer_does_not_speak_for_the_sweep(tmp_path):
    pair(tmp_path / "s", seeds=6)
    declare(tmp_path / "s", FILE)
    make_run(tmp_path / "s", steps=50_000, status="failed")
    leader, apart = read(tmp_path)
    assert leader.verdicts[0].word == "reproduced" and len(apart.records.runs) == 1


def test_a_claim_can_t_explain_itself(tmp_path):
    pair(tmp_path / "s")
    declare(tmp_path / "s", ("2024-12-31T00:00:00+00:00", {"more": CLAIM | {"explained_by": ["more"]}}))
    assert "explain itself" in read(tmp_path)[0].problem


def test_a_length_that_was_typed_beside_the_sweep_is_said(tmp_path):
    pair(tmp_path / "s", overrides=["steps=10000"])
    declare(tmp_path / "s", FILE)
    assert "Run with steps=10000 on the command line, which overrides the sweep files." in wording.answer(read(tmp_path))


def test_nothing_but_queued_runs_is_judged_as_not_yet(tmp_path):
    for arm in ("wd=paper", "wd=wd01"):
        make_run(tmp_path / "s", arm=arm, status="queued")
    declare(tmp_path / "s", FILE)
    (found,) = read(tmp_path)
    assert found.verdicts[0].word == "inconclusive" and found.verdicts[0].why.startswith("not yet")


# ------------------------------------------------------------------------------------------------------ what was made how
def made(torch: str = "2.8.0", device: str = "cpu", threads: int = 2) -> dict[str, Any]:
    return {"sessions": [{"versions": {"torch": torch}, "device": device, "threads": threads}]}


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (made(), made(torch="2.7.0"), "different versions of torch: arm 2.8.0, against 2.7.0"),
        (made(), made(device="cuda:1 (NVIDIA H100)"), "different devices: arm cpu, against cuda"),
        (made(), made(threads=4), "different numbers of threads: arm 2, against 4"),
        (made(), made() | {"config": {"precision": "bf16"}}, "different precision: arm fp32, against bf16"),
    ],
)
def test_sides_that_were_made_with_different_things_carry_a_warning(tmp_path, first, second, said):
    for seed in range(3):
        make_run(tmp_path / "s", arm="wd=wd01", seed=seed, rows=losses(9, 8, 8 + 0.02 * seed), **first)
        make_run(tmp_path / "s", seed=seed, rows=losses(9, 8, 7 + 0.01 * seed), **second)
    declare(tmp_path / "s", FILE)
    (verdict,) = read(tmp_path)[0].verdicts
    assert f"the sides were made with {said}" in verdict.warnings


def test_threads_are_no_circumstance_of_a_gpu(tmp_path):
    for seed in range(3):
        make_run(tmp_path / "s", arm="wd=wd01", seed=seed, rows=losses(9, 8, 8 + 0.02 * seed), **made(device="cuda:0", threads=1))
        make_run(tmp_path / "s", seed=seed, rows=losses(9, 8, 7 + 0.01 * seed), **made(device="cuda:0", threads=4))
    declare(tmp_path / "s", FILE)
    (verdict,) = read(tmp_path)[0].verdicts
    assert not any("made with" in warning for warning in verdict.warnings)


def test_what_the_sweep_itself_sets_is_no_circumstance(tmp_path):
    for seed in range(3):
        for wd, precision in (("wd01", "fp32"), ("paper", "bf16")):
            own = made() | {"config": {"precision": precision}, "written": {"precision": precision}}
            make_run(tmp_path / "s", arm=f"wd={wd}", seed=seed, rows=losses(9, 8, 7 + (wd == "wd01") + 0.01 * seed), **own)
    declare(tmp_path / "s", FILE)
    (verdict,) = read(tmp_path)[0].verdicts
    assert not any("made with" in warning for warning in verdict.warnings)


def test_a_claim_never_takes_the_next_evaluation_for_a_missing_one(tmp_path):
    """The claim is about step 5000, whose row one run has lost: the next row is another step's."""
    steps = (1, 5000, 10_000)
    for seed in range(3):
        for wd, loss in (("paper", 7.0), ("wd01", 8.0)):
            rows = run_folders.losses(steps, (9, loss + 0.01 * seed, loss), UniquePredictions=5)
            if (seed, wd) == (1, "paper"):
                del rows[1]
            make_run(tmp_path / "s", arm=f"wd={wd}", seed=seed, rows=rows, config={"eval_every": 5000})
    declare(tmp_path / "s", ("2024-12-31T00:00:00+00:00", {"more": CLAIM | {"at": 5000}}))
    (verdict,) = read(tmp_path)[0].verdicts
    assert verdict.word == "inconclusive" and "no number from seed 1 of against (done)" in verdict.why
    assert any("lacks the evaluation at step 5000" in warning for warning in verdict.warnings)


# ------------------------------------------------------------------------------------- which runs a set of tables is about
ROWS = evaluations([1, 5000, 6000, 10_000], [20, 2, 10, 13])
DECAY = "python -m bitnet.train -m wd=paper,wd005"
SMOOTHING = "/opt/bin/python -m bitnet.train -m smoothing=none,ls01"


def free(folder: Path, arm: str, command: str | None, seed: int = 0, **facts: object) -> Path:
    """A run of no sweep."""
    return make_run(folder, arm=arm, seed=seed, rows=ROWS, sweep=None, command=command, **facts)


def groups(*folders: Path) -> dict[str, list[str]]:
    """The arms of each group, by its name."""
    found = frames.read_runs(folders, READ)
    by_table = experiments_by_table(experiments_in(found, folders), folders)
    return {name: sorted(records_of(group, found).runs["label"]) for name, group in by_table.items()}


def test_a_day_s_commands_are_experiments_of_their_own(tmp_path):
    for arm in ("wd=paper", "wd=wd005"):
        free(tmp_path, arm, DECAY)
    for arm in ("smoothing=ls01", "smoothing=none"):
        free(tmp_path, arm, SMOOTHING)
    assert groups(tmp_path) == {
        "-m wd=paper,wd005": ["wd=paper", "wd=wd005"],
        "-m smoothing=none,ls01": ["smoothing=ls01", "smoothing=none"],
    }


def test_seeds_that_were_added_later_join_the_earlier_ones(tmp_path):
    free(tmp_path, "wd=paper", DECAY)
    free(tmp_path, "wd=wd005", DECAY)
    free(tmp_path, "wd=paper", f"{DECAY} seed=1", seed=1)
    free(tmp_path, "clip=norm01", "python -m bitnet.train clip=norm01")
    free(tmp_path, "smoothing=ls01", None)
    assert groups(tmp_path) == {
        "-m wd=paper,wd005": ["wd=paper", "wd=paper", "wd=wd005"],
        grouping.ONE_BY_ONE: ["clip=norm01", "smoothing=ls01"],
    }


def test_sweeps_below_one_folder_stand_apart_and_named_ones_together(tmp_path):
    make_run(tmp_path / "a", rows=ROWS)
    make_run(tmp_path / "b", rows=ROWS, arm="wd=wd005")
    make_run(tmp_path / "b", rows=ROWS)
    assert groups(tmp_path) == {"sweep a": ["wd=paper"], "sweep b": ["wd=paper", "wd=wd005"]}, "a shared run is in both"
    assert groups(tmp_path / "a", tmp_path / "b") == {"sweep a + sweep b": ["wd=paper", "wd=wd005"]}
    assert groups(tmp_path / "b") == {"sweep b": ["wd=paper", "wd=wd005"]}


def test_each_experiment_has_its_tables_and_the_rest_is_over_all(tmp_path, capsys):
    make_run(tmp_path / "a", arm="wd=paper,clip=norm01", rows=ROWS)
    make_run(tmp_path / "a", arm="wd=wd005,clip=norm01", rows=ROWS)
    make_run(tmp_path / "b", arm="smoothing=ls01", rows=ROWS, status="failed", reason="broken")
    assert report.main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert text.index("2 experiments") < text.index("\nsweep a\n") < text.index("\nsweep b\n") < text.index("broken")
    first, second = text.split("\nsweep b\n")
    assert "Common to all arms, and omitted from their names: clip=norm01" in first and "clip=norm01" not in second
    assert text.count("Runs that did not finish") == 1
    table = pd.read_csv(tmp_path / "tables" / "learning.csv")
    assert table["experiment"].tolist() == ["sweep a", "sweep a", "sweep b"]

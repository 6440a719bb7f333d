"""What is said of a run: the kind, its course, the numbers beside, and arms for which the record holds evidence."""

from __future__ import annotations

import json

import pytest
from run_folders import make_run, study_config

from bitnet import diagnose
from bitnet.analysis import diagnosis
from bitnet.common.errors import UserError
from bitnet.reporting import diagnosis_text

HEALTHY = {
    "heldout_loss": 5.5,
    "heldout_uniq": 130,
    "heldout_positions": 1024,
    "heldout_distinct_targets": 460,
    "logit_std": 2.0,
    "entropy_mean": 5.4,
    "greedy_seq_rep_4": 0.1,
    "sampled_seq_rep_4": 0.0,
    "latent_embedding": 0.8,
    "latent_head": 0.06,
    "lr_applied": 1e-3,
    "wd_applied": 0.1,
    "WD": 0.1,
    "grad_norm": 2.0,
    "tokens": 128_000,
    "UniquePredictions": 12,
}
SHRUNK = {"latent_embedding": 0.08, "latent_head": 6e-5}
FLAT = HEALTHY | SHRUNK | {"heldout_loss": 8.98, "heldout_uniq": 50, "logit_std": 0.002, "entropy_mean": 9.01}
FREQUENCY = HEALTHY | {"heldout_loss": 7.0, "heldout_uniq": 3, "logit_std": 1.6}
OFF = {"wd_applied": 0.0, "WD": 0.0}
START = {"Step": 1} | HEALTHY | {"heldout_loss": 9.1, "logit_std": 0.57}


def one(tmp_path, *evaluations, arm="wd=paper", every=1000, **record):
    """The diagnosis of a run with these evaluations after step 1."""
    rows = [START, *({"Step": every * (i + 1)} | e for i, e in enumerate(evaluations))]
    make_run(tmp_path, arm=arm, rows=rows, **record)
    (found,) = diagnosis.diagnose(tmp_path)
    return found


def arms(found) -> list[str | None]:
    return [h.arm for h in found.hints]


def test_flat_logits_that_recover(tmp_path):
    course = [FLAT] * 4 + [FLAT | {"WD": 0.0}] + [HEALTHY | OFF] * 5
    found = one(tmp_path, *course, heldout_text={"seq_rep_4": 0.01, "distinct_1": 0.61, "diversity": 0.96})
    assert found.headline.startswith("Flat logits already at step 1,000, the first evaluation after warm-up")
    assert "worst at step 1,000, 2.08 nats above the unigram entropy" in found.headline
    assert found.headline.endswith("recovered at step 6,000, after 5,000 steps.")
    assert found.stretches == [("flat logits", 1000, 5000), ("none", 6000, 10000)]
    assert arms(found) == ["optimizer=adamw", "optimizer.decay_scope=bitlinear"]
    why = found.hints[0].why
    assert "the head's mean magnitude fell 1,000-fold" in why
    assert "at step 5,000 weight decay dropped to 0, and the model had recovered by step 6,000" in why


def test_the_numbers_stand_beside_what_they_are_held_against(tmp_path):
    found = one(tmp_path, FLAT, HEALTHY, heldout_text={"seq_rep_4": 0.01})
    by_name = {row[0]: row[1:] for row in diagnosis.numbers(found)}
    assert by_name["held-out loss"] == (8.98, 5.5, "ln V 9.01, unigram entropy 6.90")
    assert by_name["distinct predictions"] == (50, 130, "460 distinct targets at 1,024 positions")
    beside = "0.01 in the held-out text (lower: noise, higher: circles)"
    assert by_name["repeated 4-grams, greedy"] == (0.1, 0.1, beside)
    # neither measured nor recorded: no number is made up
    assert by_name["diversity, greedy"] == (None, None, "noise has the highest; the held-out text's own is not recorded")
    said = diagnosis_text.diagnosis_text(found)
    assert "ln V 9.01, unigram entropy 6.90" in said and "\u2013" in said


def test_the_tests_of_each_kind_say_which_holds(tmp_path):
    held = {kind: holds for kind, _, holds in diagnosis.tests(one(tmp_path, FLAT).case)}
    assert held == {"flat logits": True, "frequency": False, "repetition": False}


def test_not_recovered(tmp_path):
    found = one(tmp_path, HEALTHY, FLAT, FREQUENCY)
    assert found.headline.startswith("Flat logits from step 2,000 on;")
    assert found.headline.endswith("not recovered by step 3,000, now frequency, +0.10 nats from the unigram entropy.")


def test_a_collapse_that_outlives_the_drop_of_weight_decay(tmp_path):
    found = one(tmp_path, *[FLAT] * 4, *[FLAT | {"WD": 0.05, "wd_applied": 0.05, "heldout_loss": 8.5}] * 6, arm="wd=wd005")
    assert "dropped to 0.05, and the model was still collapsed at step 10,000" in found.hints[0].why


def test_a_drop_of_weight_decay_that_ends_one_kind_of_collapse_and_leaves_another(tmp_path):
    low = FREQUENCY | {"WD": 0.0, "heldout_loss": 6.95}
    found = one(tmp_path, *[FLAT] * 4, *[FLAT | {"WD": 0.0}] * 2, *[low] * 4)
    still = "the model was still collapsed at step 10,000, now as frequency at a held-out loss of 6.95"
    assert f"at step 5,000 weight decay dropped to 0, and {still}" in found.hints[0].why


def test_where_tokens_are_equally_frequent_two_kinds_are_one(tmp_path):
    found = one(tmp_path, FLAT, data={"name": "synthetic", "vocab_size": 64, "ln_vocab": 4.16, "unigram_entropy": 4.13})
    assert "ln V is 0.03 nats above the unigram entropy), so flat logits can't be told apart from" in found.headline
    assert "can't be told" not in one(tmp_path / "text", FLAT).headline


def test_evaluations_without_a_class_leave_open_when_a_collapse_began(tmp_path):
    lacking = {k: v for k, v in FLAT.items() if k != "logit_std"}
    found = one(tmp_path, HEALTHY, lacking, FLAT, HEALTHY)
    assert found.headline.startswith("Flat logits at step 3,000, none at step 4,000; when it began and ended is unknown.")
    assert "1 more evaluation lacks the numbers needed to classify it." in found.headline
    assert " 2 more evaluations lack the numbers" in one(tmp_path / "none", lacking, lacking, HEALTHY).headline


def test_a_loss_that_is_too_high_is_said_without_a_collapse(tmp_path):
    worse = HEALTHY | {"heldout_loss": 14.0}
    found = one(tmp_path, HEALTHY, worse)
    assert "is above ln V" in found.headline and [h.arm for h in found.hints] == ["lr=reduced"]
    assert "does not use the context yet" in one(tmp_path / "early", HEALTHY | {"heldout_loss": 7.5}).headline


def test_runs_that_can_t_be_read_are_named(tmp_path, capsys):
    one(tmp_path, HEALTHY)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.json").write_text("{")
    assert diagnose.main([str(tmp_path)]) == 0
    assert "torn: can't be read as a run, skipped" in capsys.readouterr().err


def test_no_collapse(tmp_path):
    found = one(tmp_path, HEALTHY, HEALTHY)
    assert found.headline == "No collapse in 2 evaluations after warm-up, up to step 2,000."
    assert found.hints == []
    assert "Nothing here suggests trying another arm." in diagnosis_text.diagnosis_text(found)


def test_repetition_is_a_problem_of_decoding(tmp_path):
    found = one(tmp_path, HEALTHY | {"greedy_seq_rep_4": 0.9})
    assert "which is a decoding problem" in found.headline
    assert arms(found) == [None]
    assert "0% of the 4-grams are repeats" in found.hints[0].why
    beside = one(tmp_path / "text", HEALTHY | {"greedy_seq_rep_4": 0.9}, heldout_text={"seq_rep_4": 0.02})
    assert "0% of the 4-grams are repeats, 2% in the held-out text: a decoding problem" in beside.hints[0].why


def config(**parts):
    base = study_config("wd=paper", 10_000, 256)
    return {name: base.get(name, {}) | values for name, values in parts.items()}


@pytest.mark.parametrize(
    ("parts", "rows", "expected"),
    [
        # coupled, but of the BitLinear weights only: embedding and head are out of it already
        ({"optimizer": {"decay_scope": "bitlinear"}}, FLAT, ["optimizer=adamw"]),
        # decoupled, at values that hardly move a weight: said so, and the controls instead
        ({"optimizer": {"kind": "adamw"}}, FLAT, [None, "lr=reduced", "quant=float"]),
        # decoupled, and strong enough
        ({"optimizer": {"kind": "adamw"}}, FLAT | {"wd_applied": 5.0}, ["wd=none"]),
        # no decay at all
        ({}, FLAT | OFF, ["lr=reduced", "quant=float"]),
        ({"quant": {"weights": "float"}}, FLAT | OFF, ["lr=reduced"]),
        ({"smoothing": {"epsilon": 0.1}}, FLAT | OFF, ["smoothing=none"]),
        ({"regularizer": {"kind": "entropy", "weight": 0.1}}, FLAT | OFF, ["regularizer=none"]),
        ({"clip": {"max_norm": 0.1}}, FLAT, ["optimizer=adamw", "optimizer.decay_scope=bitlinear", "clip=norm1"]),
    ],
)
def test_arms_follow_the_evidence(tmp_path, parts, rows, expected):
    assert arms(one(tmp_path, rows, config=config(**parts))) == expected


def test_frequency_that_still_improves_needs_more_tokens(tmp_path):
    falling = [FREQUENCY | OFF | {"heldout_loss": x} for x in (8.5, 8.0, 7.5, 7.0)]
    found = one(tmp_path, *falling, parameters={"total": 28_360_448})
    assert found.headline.startswith("Frequency")
    assert arms(found) == ["steps=20000"]
    assert (
        "was still falling (by 0.50 from step 3,000 to 4,000) after 128,000 tokens for 28,360,448 parameters"
        in found.hints[0].why
    )


def test_frequency_that_stands_still(tmp_path):
    found = one(tmp_path, *[FREQUENCY] * 4)
    assert arms(found) == ["optimizer=adamw", "lr=reduced"]


def test_a_run_that_diverged(tmp_path):
    found = one(tmp_path, HEALTHY, status="diverged", step=1500, config=config(clip={"max_norm": None}))
    assert found.headline.endswith("The loss was not finite at step 1,500: the run diverged.")
    assert arms(found) == ["lr=reduced", "clip=norm1"]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"status": "queued"}, "the run has not begun"),
        ({"rows": [START]}, "no evaluation after warm-up (375 steps)"),
        ({"rows": [{"Step": 1000, "UniquePredictions": 3}]}, "lack the held-out loss"),
    ],
)
def test_nothing_can_be_said_yet(tmp_path, record, said):
    make_run(tmp_path, **record)
    (found,) = diagnosis.diagnose(tmp_path)
    assert said in found.headline
    assert "None" not in diagnosis_text.diagnosis_text(found) and "nan" not in diagnosis_text.diagnosis_text(found)


# ----------------------------------------------------------------------------------------------- checkpoints, the command
def with_checkpoint(tmp_path, step):
    run = make_run(tmp_path, rows=[START, {"Step": 1000} | FLAT, {"Step": 2000} | HEALTHY])
    path = run / "checkpoints" / f"step-{step:08d}-0123456789abcdef.safetensors"
    path.parent.mkdir()
    path.touch()
    return path


def test_of_a_checkpoint_the_run_is_told_up_to_its_step(tmp_path):
    (found,) = diagnosis.diagnose(with_checkpoint(tmp_path, 1000))
    assert "not recovered by step 1,000" in found.headline
    assert found.case.last["Step"] == 1000


def test_a_checkpoint_without_an_evaluation(tmp_path):
    with pytest.raises(UserError, match=r"not evaluated at step 1,500 \(nearest: 1,000 and 2,000\).*checkpoint.every"):
        diagnosis.diagnose(with_checkpoint(tmp_path, 1500))


def test_what_is_no_run(tmp_path, capsys):
    stray = tmp_path / "step-00000001-0123456789abcdef.safetensors"
    stray.touch()
    for path, said in ((tmp_path / "gone", "no such run"), (stray, "not a checkpoint in a run's folder")):
        assert diagnose.main([str(path)]) == 2
        assert said in capsys.readouterr().err


def test_a_broken_record_is_named(tmp_path, capsys):
    run = make_run(tmp_path)
    (run / "run.json").write_text("{")
    assert diagnose.main([str(run)]) == 2
    assert "run.json" in capsys.readouterr().err


def test_a_sweep_is_a_line_a_run(tmp_path, capsys):
    make_run(tmp_path, arm="wd=paper", rows=[{"Step": 1000} | HEALTHY])
    make_run(tmp_path, arm="wd=wd005", rows=[{"Step": 1000} | FLAT])
    assert diagnose.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "wd=paper-256-10000-0: No collapse" in out and "wd=wd005-256-10000-0: Flat logits" in out


def test_json_has_no_value_for_what_is_missing(tmp_path, capsys):
    make_run(tmp_path, rows=[{"Step": 1000} | {k: v for k, v in FLAT.items() if k != "sampled_seq_rep_4"}])
    assert diagnose.main([str(tmp_path), "--format", "json"]) == 0
    printed = capsys.readouterr().out
    (found,) = json.loads(printed, parse_constant=pytest.fail)  # NaN is no JSON
    assert found["worst"] == {"step": 1000, "class": "flat logits"}
    assert found["facts"]["recovery_step"] is None and found["facts"]["collapsed_share"] == 1
    sampled = next(n for n in found["numbers"] if n["what"] == "repeated 4-grams, sampled")
    assert sampled["worst"] is None

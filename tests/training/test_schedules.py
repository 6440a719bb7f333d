"""Schedules at their first step, their boundary and their end, against values worked out by hand."""

from __future__ import annotations

import itertools
import math

import pytest

from bitnet.config.base import boundary_step
from bitnet.config.run import (
    ConstantLR,
    CosineDecay,
    CosineLR,
    FaqLinear,
    TwoStageDecay,
    TwoStageLinear,
    auto_warmup_steps,
    load_config,
)
from bitnet.training import schedules

STUDY = TwoStageLinear(kind="two_stage_linear", peak=1.5e-3, warmup_steps=375)
FAQ = FaqLinear(kind="faq", peak=1.5e-3, second_peak=1e-3, end=3e-5, warmup_steps=375)


# ------------------------------------------------------------------------------------------------------- learning rates
@pytest.mark.parametrize(
    ("step", "published"),
    [(1, "0.000004"), (1000, "0.001432"), (2000, "0.001324"), (5000, "0.001000"), (6000, "0.000800")],
)
def test_study_lr_is_the_published_column(step, published):
    assert f"{schedules.lr_schedule(STUDY, 10_000, 256)(step):.6f}" == published


def test_study_lr_at_its_turning_points():
    lr = schedules.lr_schedule(STUDY, 10_000, 256)
    assert lr(374) == pytest.approx(1.496e-3, rel=1e-12)  # 1.5e-3 x 374 / 375
    assert lr(375) == 1.5e-3
    assert lr(376) == pytest.approx(1.5e-3 - 0.5e-3 / 4625, rel=1e-12)
    assert lr(4999) == pytest.approx(1e-3 + 0.5e-3 / 4625, rel=1e-12)
    assert lr(5000) == pytest.approx(1e-3, rel=1e-12)
    assert lr(5001) == pytest.approx(1e-3 - 0.9985e-3 / 5000, rel=1e-12)
    assert lr(10_000) == pytest.approx(1.5e-6, rel=1e-9)


def test_study_lr_is_continuous_at_the_boundary():
    lr = schedules.lr_schedule(STUDY, 10_000, 256)
    slopes = [lr(t) - lr(t + 1) for t in (4998, 4999, 5000, 5001)]
    assert max(slopes) < 2.1e-7  # 1.08e-7 a step before, 2.0e-7 after: no jump


def test_faq_lr_drops_at_the_boundary():
    lr = schedules.lr_schedule(FAQ, 100_000, 256)
    assert lr(1) == pytest.approx(4e-6, rel=1e-12)
    assert lr(375) == pytest.approx(1.5e-3, rel=1e-12)
    assert lr(49_999) == pytest.approx(7.68e-4, abs=5e-7)
    assert lr(50_000) == pytest.approx(5.16e-4, abs=1e-6)
    # 3e-5 + 0.97e-3 x 50,000 / 99,625, and one line's slope further
    assert lr(50_000) == pytest.approx(5.168256e-4, rel=1e-6)
    assert lr(50_001) == pytest.approx(5.168159e-4, rel=1e-6)
    assert lr(100_000) == pytest.approx(3e-5, rel=1e-12)


def test_reduced_lr_is_a_third_of_the_study(values):
    config = load_config(values("lr=reduced"))
    lr = schedules.lr_schedule(config.lr, 10_000, 256)
    assert lr(375) == pytest.approx(5e-4)
    assert lr(5000) == pytest.approx(3.333333e-4, rel=1e-6)
    assert lr(10_000) == pytest.approx(5e-7)


@pytest.mark.parametrize(("hidden", "peak"), [(64, 3e-3), (256, 1.5e-3), (1024, 0.75e-3), (512, 1.0606602e-3)])
def test_inv_sqrt_hidden_scales_the_peak(hidden, peak, values):
    config = load_config(values("lr=inv_sqrt_hidden"))
    lr = schedules.lr_schedule(config.lr, 10_000, hidden)
    assert lr(375) == pytest.approx(peak, rel=1e-7)
    assert lr(5000) == pytest.approx(peak * 2 / 3, rel=1e-7)
    assert schedules.peak_lr(config.lr, hidden) == pytest.approx(peak, rel=1e-7)


def test_scaling_by_width_moves_the_whole_faq_curve():
    scaled = FAQ.model_copy(update={"reference_hidden_size": 256})
    plain, quarter = (schedules.lr_schedule(c, 10_000, 4096) for c in (FAQ, scaled))
    for step in (1, 375, 4999, 5000, 10_000):
        assert quarter(step) == pytest.approx(plain(step) / 4, rel=1e-12)


def test_cosine_lr():
    lr = schedules.lr_schedule(CosineLR(kind="cosine", peak=1e-3, warmup_steps=100, end_fraction=0.1), 1100, 256)
    assert lr(50) == pytest.approx(5e-4)
    assert lr(100) == pytest.approx(1e-3)
    assert lr(350) == pytest.approx(8.681981e-4, rel=1e-6)  # (0.1 + 0.9 (1 + cos 45 deg) / 2) peak
    assert lr(600) == pytest.approx(5.5e-4)
    assert lr(1100) == pytest.approx(1e-4)


def test_constant_lr():
    lr = schedules.lr_schedule(ConstantLR(kind="constant", peak=2e-3, warmup_steps=4), 10, 256)
    assert [lr(t) for t in range(1, 11)] == pytest.approx([5e-4, 1e-3, 1.5e-3] + [2e-3] * 7)


def test_no_warm_up_starts_at_the_peak_or_on_its_line():
    for config in (ConstantLR(kind="constant", peak=1.0, warmup_steps=0), CosineLR(kind="cosine", peak=1.0, warmup_steps=1)):
        assert schedules.lr_schedule(config, 10, 256)(1) == 1.0
    line = TwoStageLinear(kind="two_stage_linear", peak=1.0, warmup_steps=0)
    assert schedules.lr_schedule(line, 10, 256)(1) == pytest.approx(1 - (1 / 3) / 5)


def test_the_boundary_is_a_knob():
    early = STUDY.model_copy(update={"boundary": 0.1})
    lr = schedules.lr_schedule(early, 10_000, 256)
    assert lr(1000) == pytest.approx(1e-3, rel=1e-12)
    assert lr(999) > 1e-3 > lr(1001)


@pytest.mark.parametrize("kind", ["two_stage_linear", "faq", "cosine", "constant"])
def test_no_lr_is_negative_or_above_its_peak(kind):
    """Every step of many short runs; the warm-up goes from none to the whole first half."""
    made = {
        "two_stage_linear": lambda w: TwoStageLinear(kind=kind, peak=1.5e-3, warmup_steps=w),
        "faq": lambda w: FaqLinear(kind=kind, peak=1.5e-3, second_peak=1e-3, end=3e-5, warmup_steps=w),
        "cosine": lambda w: CosineLR(kind=kind, peak=1.5e-3, warmup_steps=w),
        "constant": lambda w: ConstantLR(kind=kind, peak=1.5e-3, warmup_steps=w),
    }[kind]
    for steps in (*range(1, 12), 97, 100):
        for warmup in range(steps // 2 + 1):
            lr = schedules.lr_schedule(made(warmup), steps, 256)
            got = [lr(t) for t in range(1, steps + 1)]
            assert all(0 < v <= 1.5e-3 * (1 + 1e-12) for v in got), (steps, warmup)
            assert all(a <= b * (1 + 1e-12) for a, b in itertools.pairwise(got[: max(0, warmup - 1)])), (steps, warmup)


# --------------------------------------------------------------------------------------------------------- weight decay
@pytest.mark.parametrize(
    ("option", "stage1", "stage2"),
    [
        ("paper", 0.1, 0.0),
        ("wd005", 0.1, 0.05),
        ("wd01", 0.1, 0.1),
        ("wd02", 0.1, 0.2),
        ("wd03", 0.1, 0.3),
        ("wd05", 0.1, 0.5),
        ("none", 0.0, 0.0),
    ],
)
def test_two_stage_weight_decay_turns_at_half(option, stage1, stage2, values):
    wd = schedules.wd_schedule(load_config(values(f"wd={option}")).wd, 10_000)
    assert [wd(t) for t in (1, 4999, 5000, 5001, 10_000)] == [stage1, stage1, stage2, stage2, stage2]


def test_the_turn_of_an_odd_run_is_the_first_step_past_half():
    wd = schedules.wd_schedule(TwoStageDecay(kind="two_stage", stage1=0.1, stage2=0.0), 7)
    assert [wd(t) for t in range(1, 8)] == [0.1, 0.1, 0.1, 0.0, 0.0, 0.0, 0.0]


def test_cosine_weight_decay_rises_to_its_peak_and_is_off_from_the_boundary():
    wd = schedules.wd_schedule(CosineDecay(kind="cosine", peak=0.1), 10_000)
    assert wd(2500) == pytest.approx(0.05)
    assert wd(1250) == pytest.approx(0.1 * 0.14644661, rel=1e-6)  # (1 - cos 45 deg) / 2
    assert wd(4999) == pytest.approx(0.1, rel=1e-6)
    assert wd(5000) == wd(10_000) == 0.0
    assert 0 < wd(1) < 1e-7


# ------------------------------------------------------------------------------------------------------------- boundary
@pytest.mark.parametrize(
    ("boundary", "steps", "first"),
    [
        (0.5, 10_000, 5000),
        (0.5, 7, 4),
        (0.07, 100, 7),  # the product is 7.000000000000001
        (0.29, 100, 29),  # 28.999999999999996
        (1 / 3, 30_000, 10_000),
        (2 / 3, 3, 2),
        (0.001, 7, 1),
        (0.999, 7, 7),
        (0.1, 10**9, 10**8),
        (0.5, 10**9 + 1, 500_000_001),
    ],
)
def test_stage_two_begins_at_the_boundary(boundary, steps, first):
    assert boundary_step(boundary, steps) == first


def test_no_percentage_of_a_run_is_off_by_a_step():
    for percent, steps in itertools.product(range(1, 100), (100, 1000, 700, 12_300)):
        assert boundary_step(percent / 100, steps) == percent * steps // 100


def test_every_schedule_turns_at_a_boundary_that_floating_point_misses():
    decay = schedules.wd_schedule(TwoStageDecay(kind="two_stage", stage1=0.1, stage2=0.0, boundary=0.07), 100)
    assert [decay(t) for t in (6, 7)] == [0.1, 0.0]
    rising = schedules.wd_schedule(CosineDecay(kind="cosine", peak=0.1, boundary=0.07), 100)
    assert rising(6) > 0.09 and rising(7) == 0
    knobs = {"peak": 1.0, "warmup_steps": 0, "boundary": 0.07}
    faq = schedules.lr_schedule(FaqLinear(kind="faq", second_peak=0.5, end=0.0, **knobs), 100, 256)
    assert [faq(t) for t in (6, 7)] == pytest.approx([0.94, 0.465])
    study = schedules.lr_schedule(TwoStageLinear(kind="two_stage_linear", **knobs), 100, 256)
    assert study(7) == pytest.approx(2 / 3, rel=1e-12)


# ------------------------------------------------------------------------------------------------------------------ lag
def test_under_a_lag_each_update_uses_the_step_before_and_the_first_the_full_peak():
    lr = schedules.lr_schedule(STUDY, 10_000, 256)
    used = schedules.applied(lr, 1, schedules.peak_lr(STUDY, 256))
    assert used(1) == 1.5e-3
    assert [used(t) for t in (2, 375, 5001)] == [lr(1), lr(374), lr(5000)]
    assert schedules.applied(lr, 0, math.nan)(1) == lr(1)


def test_what_the_optimizer_was_built_with():
    paper = TwoStageDecay(kind="two_stage", stage1=0.1, stage2=0.0)
    assert schedules.first_weight_decay(paper) == 0.1
    assert schedules.first_weight_decay(paper.model_copy(update={"first_step": 0.0})) == 0.0
    assert schedules.first_weight_decay(CosineDecay(kind="cosine", peak=0.1)) == 0.0


def test_under_a_lag_the_decay_of_stage_one_reaches_one_step_further():
    wd = schedules.wd_schedule(TwoStageDecay(kind="two_stage", stage1=0.1, stage2=0.0), 10)
    used = schedules.applied(wd, 1, 0.1)
    assert [used(t) for t in (4, 5, 6)] == [0.1, 0.1, 0.0]


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (20, 0), (27, 1), (100, 3), (749, 28), (750, 375), (10_000, 375)])
def test_automatic_warm_up(steps, warmup):
    assert auto_warmup_steps(steps) == warmup

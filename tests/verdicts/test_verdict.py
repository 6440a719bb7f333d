"""Claims against runs whose numbers are known: the four words, what they rest on, and what keeps them from being said."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from run_folders import evaluations, make_run
from scipy import stats as scipy_stats

from bitnet.analysis import frames, rates, stats
from bitnet.common.errors import UserError
from bitnet.verdicts import decision, verdict

STEPS = (1, 500, 1000)
SIGMA = math.sqrt(0.05 * 0.95 / 1000)  # of a rate of 5 % in 1,000 draws
NOISE = (0.02, -0.01, 0.03, 0.0, -0.02, 0.01, 0.015, -0.025)


@pytest.fixture(autouse=True)
def _no_full_collection(monkeypatch):
    """statsmodels collects garbage at every adjustment, which takes longer than all else here."""
    monkeypatch.setattr("gc.collect", lambda: 0)


class World:
    """Runs in memory: the columns of `bitnet.analysis.frames.Records` that verdicts read."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.metrics: list[dict[str, Any]] = []

    def run(self, arm: str, seed: int, loss: float | Sequence[float] | None, **other: Any) -> World:
        """A run whose held-out loss is `loss` at each of STEPS, or 9 at all but the last of them."""
        size = other.pop("hidden_size", 64)
        row = {"id": f"{arm}-{size}-{seed}-{len(self.rows)}", "arm": arm, "arm_id": f"{arm}-{size}", "seed": float(seed)}
        row |= {"status": "done", "step": 1000.0, "steps": 1000.0, "boundary_step": 500, "hidden_size": size}
        row |= {"choices": {"wd": arm}, "config": {"eval_every": 500, "wd": {"stage2": 0.1}}, "written": {}}
        self.rows.append(row | other)
        if loss is not None:
            values = loss if isinstance(loss, Sequence) else (9.0 + seed, 9.0 + seed, loss)
            extra = {"heldout_uniq": 2.0, "UniquePredictions": 3.0}
            self.metrics += [
                {"run": row["id"], "Step": float(s), "heldout_loss": v, **extra} for s, v in zip(STEPS, values, strict=False)
            ]
        return self

    def arm(self, arm: str, losses: Sequence[float], **other: Any) -> World:
        for seed, loss in enumerate(losses):
            self.run(arm, seed, loss, **other)
        return self

    def judge(self, facts: pd.DataFrame | None = None, sweep: Mapping[str, Any] | None = None, **claims: Any) -> Any:
        """The verdict on one claim, or on several by name."""
        frame = pd.DataFrame(self.rows).set_index("id", drop=False).rename_axis("run") if self.rows else pd.DataFrame()
        metrics = pd.DataFrame(self.metrics, columns=["run", "Step", "heldout_loss", "heldout_uniq", "UniquePredictions"])
        found = verdict.judge({"claims": claims, **(sweep or {})}, frame, metrics, facts)
        return found[0] if len(found) == 1 else {v.claim: v for v in found}


def around(mean: float, n: int, shift: int = 0) -> list[float]:
    """n losses around a mean, scattered by a hundredth or so."""
    return [mean + NOISE[(i + shift) % len(NOISE)] for i in range(n)]


def contrast(expected: str = "lower", margin: float = 0.5, **other: Any) -> dict[str, Any]:
    claim = {"kind": "contrast", "says": "x", "metric": "heldout_loss", "arm": "a", "against": "b"}
    return claim | {"expected": expected, "margin": margin} | other


def bound(expected: str, bound: float, metric: str = "heldout_loss", **other: Any) -> dict[str, Any]:
    claim = {"kind": "bound", "says": "x", "metric": metric, "arm": "a", "expected": expected, "bound": bound}
    return claim | {"margin": 0.5} | other


def two_arms(first: float, second: float, n: int) -> World:
    return World().arm("a", around(first, n)).arm("b", around(second, n, 3))


# ------------------------------------------------------------------------------------------------------------ the words
@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"c": {k: v for k, v in contrast().items() if k != "margin"}}, "sweep.claims.c.margin: missing"),
        ({"c": contrast(arm=None)}, "sweep.claims.c.arm=None: input should be a valid string"),
        ({"c": contrast(expected="more")}, "sweep.claims.c.expected='more': allowed are lower, higher, equal"),
        ([contrast()], "sweep.claims=[{'kind'"),
    ],
)
def test_what_is_no_claim_is_refused_by_its_key(claims, said):
    with pytest.raises(UserError) as refused:
        verdict.parse({"claims": claims})
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    ("first", "said"), [(5.0, "an effect smaller than 0.5 is excluded"), (6.49, "the true effect may still be smaller")]
)
def test_a_reproduced_effect_says_whether_a_smaller_one_is_excluded(first, said):
    found = two_arms(first, 7, 6).judge(x=contrast())
    assert found.word == "reproduced"
    assert found.why.endswith(said)


def test_large_numbers_are_written_out():
    found = World().arm("a", [41_690.0, 41_700.0, 41_710.0]).judge(x=bound("at_least", 40_000))
    assert found.why.startswith("mean 41,700, 95 % interval 41,675 to 41,725: ")


@pytest.mark.parametrize("n", [3, 6])
@pytest.mark.parametrize(
    ("expected", "first", "second", "word"),
    [
        ("lower", 5, 7, "reproduced"),
        ("lower", 7, 5, "not reproduced"),  # the opposite
        ("lower", 5, 5, "not reproduced"),  # an effect of 0.5 is excluded
        ("lower", 5, 5.3, "not reproduced"),  # there is one, too small to matter
        ("higher", 7, 5, "reproduced"),
        ("equal", 5, 5.1, "reproduced"),
        ("equal", 5, 7, "not reproduced"),
    ],
)
def test_words_of_a_contrast(n, expected, first, second, word):
    found = two_arms(first, second, n).judge(x=contrast(expected))
    assert (found.word, found.n) == (word, n)


def test_the_numbers_behind_a_word():
    world = World().arm("a", [5.0, 5.2, 5.1]).arm("b", [7.0, 7.1, 7.3])
    found = world.judge(x=contrast(published="2 nats"))
    differences = [-2.0, -1.9, -2.2]
    by_hand = stats.one_sample(differences)
    assert found.numbers == pytest.approx(dict(enumerate(differences)))
    assert found.sides["against"] == pytest.approx({0: 7.0, 1: 7.1, 2: 7.3})
    assert (found.mean, found.low, found.high) == pytest.approx((by_hand.mean, *by_hand.interval()))
    assert (found.p, found.test, found.margin, found.published) == (0.25, "sign-flip", 0.5, "2 nats")
    assert found.detectable == pytest.approx(by_hand.detectable())
    assert found.runs == {"arm": 3, "against": 3}
    assert found.fisher_p == 1
    few = "n = 3 seeds: too few for a sign-flip p-value below 0.05; the interval decides, is wide, and takes it that seeds "
    assert f"{few}scatter normally" in found.warnings


@pytest.mark.parametrize(
    ("n", "gate"), [(1, "one seed: anecdotal, nothing can be concluded"), (2, "two seeds: only a direction")]
)
def test_one_and_two_seeds_are_never_a_verdict(n, gate):
    found = two_arms(5, 9, n).judge(x=contrast())
    assert (found.word, found.n, found.low, found.p) == ("inconclusive", n, None, None)
    assert gate in found.why
    assert found.mean == pytest.approx(-4, abs=0.1)


def test_a_wide_interval_is_inconclusive_and_says_what_could_have_been_seen():
    found = World().arm("a", [5.0, 6.5, 4.0]).arm("b", [6.0, 6.0, 6.1]).judge(x=contrast())
    assert found.word == "inconclusive"
    assert f"{found.detectable:.4g}" in found.why


def test_an_effect_that_may_be_too_small_to_matter_is_inconclusive():
    found = World().arm("a", [5.0, 5.0, 5.1, 5.1]).arm("b", [5.3, 5.6, 5.6, 5.4]).judge(x=contrast())
    assert found.high < 0
    assert found.word == "inconclusive"


@pytest.mark.parametrize(
    ("expected", "limit", "word"),
    [
        ("at_most", 6, "reproduced"),
        ("at_most", 4, "not reproduced"),
        ("at_least", 4, "reproduced"),
        ("at_least", 6, "not reproduced"),
        ("at_least", 5.005, "inconclusive"),
        ("equal", 5.1, "reproduced"),
        ("equal", 7, "not reproduced"),
    ],
)
def test_words_of_a_bound(expected, limit, word):
    assert World().arm("a", around(5, 4)).judge(x=bound(expected, limit)).word == word


def test_a_value_of_nothing_is_not_what_a_subtraction_leaves_of_it():
    none = stats.one_sample([0.0 - 0.05] * 3, resolution=0.025)
    assert decision.decide(none, "at_most", 0.0, 0.0, 1, 0.05)[1].startswith("mean 0, ")


def test_words_of_a_change_and_of_a_relative_one():
    world = World()
    for seed, wobble in enumerate(NOISE[:4]):
        world.run("a", seed, (10.0, 10.0 + wobble, 7.0))
    claim = {"kind": "change", "says": "x", "metric": "heldout_loss", "arm": "a", "since": "boundary", "margin": 2.0}
    found = world.judge(x=claim | {"expected": "lower"})
    assert (found.word, found.mean) == ("reproduced", pytest.approx(-3 - np.mean(NOISE[:4])))
    share = world.judge(x=claim | {"expected": "lower", "relative": True, "margin": 0.29})
    assert share.word == "reproduced"
    assert share.mean == pytest.approx(np.mean([-(3 + w) / (10 + w) for w in NOISE[:4]]))
    assert world.judge(x=claim | {"expected": "higher"}).word == "not reproduced"


def test_an_interaction_is_a_difference_of_differences():
    world = two_arms(5, 7, 4).arm("c", around(5, 4, 1)).arm("d", around(5.5, 4, 2))
    claim = {"kind": "interaction", "other_arm": "c", "other_against": "d"}
    found = world.judge(x=contrast() | claim)
    assert found.mean == pytest.approx((5 - 7) - (5 - 5.5), abs=0.05)
    assert (found.word, set(found.sides)) == ("reproduced", {"arm", "against", "other_arm", "other_against"})


# -------------------------------------------------------------------------------------------------- seeds and lost runs
def test_only_complete_pairs_count_and_the_missing_seed_is_named():
    world = World().arm("a", around(5, 4)).arm("b", around(7, 3, 3))
    found = world.judge(x=contrast())
    assert (found.word, list(found.numbers)) == ("reproduced", [0, 1, 2])
    assert "seed 3 missing in against" in found.warnings


def test_a_declared_seed_that_was_never_run_is_named():
    found = two_arms(5, 7, 3).judge(x=contrast(), sweep={"seeds": [0, 1, 2, 3]})
    assert {"seed 3 missing in arm", "seed 3 missing in against"} <= set(found.warnings)


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_lost_runs_are_counted_tested_and_make_it_inconclusive(status):
    world = World().arm("a", around(5, 3))
    for seed in range(3):
        world.run("b", seed, (9.0,), status=status)
    found = world.judge(x=contrast())
    assert found.word == "inconclusive"
    assert getattr(found, status) == {"arm": 0, "against": 3}
    assert found.fisher_p == pytest.approx(0.1)
    assert f"against: of 3 runs, 3 {status}" in found.warnings


def test_one_lost_run_is_not_dropped():
    world = two_arms(5, 7, 6)
    world.run("a", 6, 5.0)
    world.run("b", 6, (9.0,), status="diverged")
    found = world.judge(x=contrast())
    assert (found.word, found.n) == ("inconclusive", 6)
    assert "seed 6 of against (diverged)" in found.why


def test_a_run_that_diverged_later_keeps_what_it_had():
    world = World().arm("a", [(9.0, 5.0 + w, 4.0) for w in NOISE[:3]])
    for seed, wobble in enumerate(NOISE[3:6]):
        world.run("b", seed, (9.0, 7.0 + wobble), status="diverged")
    found = world.judge(x=contrast(at=500))
    assert (found.word, found.diverged) == ("reproduced", {"arm": 0, "against": 3})


def test_whether_runs_diverge_can_itself_be_claimed():
    world = World().arm("a", around(5, 6))
    for seed in range(6):
        world.run("b", seed, (9.0 + seed,), status="diverged")
    found = world.judge(x=contrast(metric="diverged"))
    assert (found.word, found.mean) == ("reproduced", -1)
    world.run("a", 6, 5.0)
    world.run("b", 6, None, status="failed")
    assert world.judge(x=contrast(metric="diverged")).word == "inconclusive"


@pytest.mark.parametrize("status", ["running", "queued", "missing"])
def test_unfinished_runs_leave_it_open(status):
    world = two_arms(5, 7, 3)
    world.run("b", 3, None, status=status)
    found = world.judge(x=contrast())
    assert (found.word, found.why) == ("inconclusive", "not yet decided: 6 of 7 runs ended")


def test_a_finished_run_without_the_number_is_not_left_out():
    """An onset that never came: the seeds that collapsed would speak for all."""
    world = two_arms(5, 7, 4)
    onset = {row["id"]: math.nan if (row["arm"], row["seed"]) == ("a", 2) else 100.0 * (row["seed"] + 1) for row in world.rows}
    facts = pd.DataFrame({"onset_step": onset})
    found = world.judge(x=contrast(metric="onset_step", margin=10), facts=facts)
    assert found.word == "inconclusive"
    assert "seed 2 of arm (done)" in found.why


# ----------------------------------------------------------------------------------------------------------- no spread
@pytest.mark.parametrize("second", [(9.0, 9.0, 7.0), None], ids=["both", "one"])
@pytest.mark.parametrize("metric", ["heldout_loss", "heldout_uniq"])
def test_runs_of_several_seeds_with_the_same_losses_throughout_are_copies(metric, second):
    world = World()
    for seed in range(6):
        world.run("a", seed, (9.0, 9.0, 5.0)).run("b", seed, second or 7.0 + 0.01 * seed)
    found = world.judge(x=contrast(metric=metric, margin=0.1))
    assert found.word == "inconclusive"
    assert found.why.startswith("runs of different seeds of arm ")
    assert found.why.endswith("have the same losses throughout, so they count as one run")
    assert any("check that these are different runs" in w for w in found.warnings)


def test_one_seed_that_is_a_copy_of_another_is_seen_among_others():
    world = two_arms(5, 7, 4)
    world.run("a", 4, (9.0, 9.0, 5.0)).run("a", 5, (9.0, 9.0, 5.0)).run("b", 4, 7.0).run("b", 5, 7.01)
    assert "runs of different seeds of arm have the same losses" in world.judge(x=contrast()).why


@pytest.mark.parametrize("ends", [around(5, 3), [7.625] * 3])
def test_two_arms_that_are_the_same_runs_are_no_comparison(ends):
    found = World().arm("a", ends).arm("b", ends).judge(x=contrast("equal", 0.25))
    assert found.word == "inconclusive"
    assert "the runs of arm and against have the same losses throughout" in found.why
    assert any("check that these are different runs" in w for w in found.warnings)


def test_losses_that_end_equal_to_the_last_bit_are_judged_with_an_alarm():
    """Models so flat that fp32 shows ln V for each are not one run: their losses differed before."""
    found = World().arm("c", around(5.5, 3))
    for seed in range(3):
        found.run("a", seed, (9.1 + seed, 9.0, 7.625)).run("b", seed, (9.2 + seed, 9.0, 7.625))
    claims = (contrast("equal", 0.25), contrast("higher", 0.5, against="c"), bound("at_least", 7))
    equal, higher, same = (found.judge(x=claim) for claim in claims)
    assert [v.word for v in (equal, higher, same)] == ["reproduced"] * 3
    off = "judged as if one value differed by 1e-05, the smallest difference that this metric can show"
    assert f"identical values for every seed in arm, against; {off}" in equal.warnings
    assert f"identical values for every seed in arm; {off}" in same.warnings
    spread = "judged by the spread of the difference between the sides"
    assert f"identical values for every seed in arm; {spread}" in higher.warnings


def test_of_numbers_whose_least_difference_is_not_known_equal_ones_decide_nothing():
    world = World().arm("a", around(5, 3))
    frame = pd.DataFrame(world.rows).set_index("id", drop=False).rename_axis("run")
    metrics = pd.DataFrame(world.metrics).assign(entropy_argmax=0.0)
    (found,) = verdict.judge({"claims": {"x": bound("at_most", 0.001, "entropy_argmax")}}, frame, metrics)
    assert found.word == "inconclusive"
    assert "identical values for every seed in arm: check that these are different runs" in found.warnings


def test_a_difference_that_is_the_same_for_every_seed_of_two_arms_that_vary_is_an_alarm_and_no_verdict():
    found = World().arm("a", around(5, 6)).arm("b", around(7, 6)).judge(x=contrast())
    assert found.word == "inconclusive"
    alarm = "identical values for every seed in the difference: check that these are different runs"
    assert alarm in found.warnings


def test_a_count_that_falls_to_nothing_in_every_seed_has_fallen():
    world = World().arm("a", around(5, 3))
    for row in world.metrics:
        row["heldout_uniq"] = 40.0 + row["heldout_loss"] // 1 if row["Step"] == 1 else 0.0
    change = {"kind": "change", "says": "x", "metric": "heldout_uniq", "arm": "a", "since": 1, "expected": "lower"}
    found = world.judge(x=change | {"margin": 0.9, "relative": True})
    assert (found.word, found.mean) == ("reproduced", -1)
    assert any(f"differed by {1 / 49:.4g}" in w for w in found.warnings)


@pytest.mark.parametrize(("limit", "word"), [(5, "reproduced"), (2, "inconclusive"), (1, "not reproduced")])
def test_equal_counts_get_the_spread_of_counts_of_which_one_is_a_step_off(limit, word):
    found = World().arm("a", around(5, 6)).judge(x=bound("at_most", limit, "heldout_uniq"))  # 2 from every seed
    half = 2.570581836 / 6  # t(5) at 97.5 %; sd 1 / sqrt(6), so an error of 1 / 6
    assert found.word == word
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half))
    assert any("identical values for every seed" in w for w in found.warnings)


def collapsed(world: World, **by_arm: Sequence[int]) -> pd.DataFrame:
    """`collapsed_at_end` of each run of a world."""
    return pd.DataFrame({"collapsed_at_end": {row["id"]: float(by_arm[row["arm"]][int(row["seed"])]) for row in world.rows}})


@pytest.mark.parametrize(("limit", "word"), [(0.5, "reproduced"), (0.4, "inconclusive")])
def test_none_of_six_shows_a_rate_below_46_percent_and_no_lower_one(limit, word):
    world = World().arm("a", around(5, 6))
    found = world.judge(collapsed(world, a=[0] * 6), x=bound("at_most", limit, "collapsed_at_end"))
    assert (found.word, found.test) == (word, "binomial")
    assert (found.low, found.high) == pytest.approx((0, 0.4593), abs=1e-4)
    assert not any("identical values" in warning for warning in found.warnings), "equal facts are what facts are like"


def test_a_fact_that_mostly_differs_is_judged_by_mcnemar_s_exact_test():
    """Seven of eight pairs differ, all to one side: p = 2 / 2^7."""
    world = two_arms(5, 7, 8)
    found = world.judge(collapsed(world, a=[0] * 8, b=[1] * 7 + [0]), x=contrast(metric="collapsed_at_end"))
    assert (found.word, found.test, found.p) == ("reproduced", "McNemar", pytest.approx(2 / 128))
    beside = {f"y{i}": contrast(arm="planned") for i in range(8)}
    assert world.judge(collapsed(world, a=[0] * 8, b=[1] * 7 + [0]), x=contrast(metric="collapsed_at_end"), **beside)[
        "x"
    ].word == ("inconclusive")


def test_facts_of_two_sizes_are_judged_by_fisher_s_exact_test_and_those_of_several_arms_not_at_all():
    world = World().arm("a", around(5, 6), hidden_size=64).arm("b", around(7, 6), hidden_size=128)
    facts = collapsed(world, a=[0] * 6, b=[1] * 6)
    found = world.judge(facts, x=contrast(metric="collapsed_at_end"))
    assert (found.word, found.test) == ("reproduced", "Fisher")
    world = two_arms(5, 7, 6)
    facts = collapsed(world, a=[0] * 6, b=[1] * 6)
    assert (
        "which has no exact interval; select one arm" in world.judge(facts, x=bound("at_most", 1, "collapsed_at_end", arm={})).why
    )


def false_words(draw: Any, n: int, word: str, draws: int = 1000, **claim: Any) -> float:
    """How often the one seed number that `draw` gives is called `word`."""
    rng = np.random.default_rng(n)
    return float(np.mean([decision.decide(draw(rng, n), **claim)[0] == word for _ in range(draws)]))


@pytest.mark.parametrize("n", [3, 8, 15, 30])
@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_a_fact_as_frequent_as_its_bound_seldom_gets_a_false_word(rate, n):
    """Over every outcome. By t intervals it is 6 and 9 % at n = 8 and 15 for the worst rate."""
    false = dict.fromkeys(itertools.product(("at_most", "at_least"), ("reproduced", "not reproduced")), 0.0)
    for happened in range(n + 1):
        estimate = rates.one_rate([1.0] * happened + [0.0] * (n - happened), rate)
        for expected in ("at_most", "at_least"):
            word = decision.decide(estimate, expected, 0.0, 0.0)[0]
            if word != "inconclusive":
                false[expected, word] += scipy_stats.binom.pmf(happened, n, rate)
    assert max(false.values()) <= 0.025


@pytest.mark.parametrize(("n", "most"), [(6, 0.1), (10, 0.08), (20, 0.05)])
def test_of_1000_draws_of_skewed_values_without_effect_fewer_get_a_false_word_than_by_t_alone(n, most):
    """Exponential values: 11, 10 and 8 % by t alone."""
    claim = {"expected": "lower", "margin": 1e-9, "least": 1e-9}
    own = false_words(lambda rng, n: stats.mean_of(rng.exponential(size=n) - 1), n, "reproduced", **claim)
    by_t = false_words(lambda rng, n: replace(stats.mean_of(rng.exponential(size=n) - 1), gamma=0.0), n, "reproduced", **claim)
    assert own < most and own < 0.85 * by_t


def test_skewed_numbers_and_the_seed_that_stands_apart_are_named():
    world = World().arm("a", [5.0, 5.01, 5.02, 4.99, 5.03, 6.0]).arm("b", [7.0, 7.02, 6.99, 7.01, 7.01, 7.0])
    found = world.judge(x=contrast())
    assert any(w.startswith("the seeds' numbers are skewed (+2.") for w in found.warnings)
    assert "seed 5 stands apart from the others (Grubbs's test)" in found.warnings
    plain = replace(stats.one_sample(list(found.numbers.values())), gamma=0.0).interval()
    assert found.high > plain[1] and found.low == pytest.approx(plain[0])
    assert not any("skewed" in w for w in two_arms(5, 7, 5).judge(x=contrast()).warnings), "five can't show it"


def test_equal_counts_of_one_seed_stay_an_anecdote():
    assert World().arm("a", [5.0]).judge(x=bound("at_most", 5, "heldout_uniq")).word == "inconclusive"


# --------------------------------------------------------------------------------------------------- sizes and averages
def test_sizes_are_compared_unpaired():
    world = World().arm("a", around(5, 4), hidden_size=64).arm("b", around(7, 5), hidden_size=128)
    found = world.judge(x=contrast())
    by_hand = stats.two_sample(around(5, 4), around(7, 5))
    assert (found.test, found.n, found.numbers) == ("permutation", 4, {})
    assert (found.mean, found.low, found.high, found.p) == pytest.approx((by_hand.mean, *by_hand.interval(), by_hand.p))
    assert found.word == "reproduced"


def test_an_interaction_of_sizes_pairs_within_each():
    world = World().arm("a", around(5, 4), hidden_size=64).arm("b", around(7, 4), hidden_size=64)
    world.arm("c", around(5, 4, 2), hidden_size=128).arm("d", around(5.5, 4, 5), hidden_size=128)
    found = world.judge(x=contrast() | {"kind": "interaction", "other_arm": "c", "other_against": "d"})
    assert found.mean == pytest.approx(-1.5, abs=0.05)
    assert found.test == "permutation"


def test_several_runs_of_a_seed_are_averaged_and_it_says_so():
    world = two_arms(5, 7, 3)
    for row in world.rows:
        row["choices"] = {"optimizer": "adamw"} if row["arm"] == "a" else {"optimizer": "adam_l2"}
    world.arm("c", around(6, 3), choices={"optimizer": "adamw"}).arm("d", around(8, 3), choices={"optimizer": "adam_l2"})
    found = world.judge(x=contrast(arm={"optimizer": "adamw"}, against={"optimizer": "adam_l2"}))
    assert found.sides["arm"][0] == pytest.approx((around(5, 1)[0] + around(6, 1)[0]) / 2)
    assert {"arm averages 2 runs per seed", "against averages 2 runs per seed"} <= set(found.warnings)


def test_a_claim_names_runs_by_what_their_file_wrote_whatever_the_scale_made_of_it():
    world = two_arms(5, 7, 3)
    for row in world.rows:
        row["written"] = {"model": "1024" if row["arm"] == "a" else "256"}
        row["choices"] = {"model": "tiny"}
    sides = world.judge(x=contrast(arm={"model": 1024}, against={"arm": "b"})).sides
    assert sides["arm"] == dict(enumerate(around(5, 3))) and min(sides["against"].values()) > 6


def test_a_seed_of_which_an_averaged_arm_is_missing_does_not_count():
    world = World().arm("a", around(5, 4), choices={"o": "x"}).arm("c", around(9, 3), choices={"o": "x"})
    found = world.arm("b", around(8, 4)).judge(x=contrast(arm={"o": "x"}))
    assert list(found.numbers) == [0, 1, 2]
    assert "seed 3 missing in arm" in found.warnings


# ------------------------------------------------------------------------------------------------- selectors and moments
@pytest.mark.parametrize(
    ("selector", "said"),
    [
        ("aa", "no such arm; did you mean 'a'?"),
        ("planned", "arm 'planned': it has no run"),
        ({"wd": "wd0"}, "none of these runs has this value; they have a, b"),
        ({"optimiser": "adamw"}, "no run has this group or key"),
    ],
)
def test_a_selector_that_matches_nothing_says_so(selector, said):
    found = two_arms(5, 7, 3).judge(x=contrast(arm=selector), sweep={"arms": {"a": "", "b": "", "planned": ""}})
    assert found.word == "inconclusive"
    assert said in found.why


def test_runs_are_selected_by_option_and_by_dotted_key():
    world = two_arms(5, 7, 3)
    for row in world.rows:
        row["config"] = {"eval_every": 500, "wd": {"stage2": 0 if row["arm"] == "a" else 0.05}}
    found = world.judge(x=contrast(arm={"wd.stage2": 0.0}, against={"wd": "b"}))
    assert found.mean == pytest.approx(-2, abs=0.05)


def test_no_run_at_all_and_one_run_on_both_sides():
    assert World().judge(x=contrast()).why == "not yet decided: there are no runs"
    assert "both sides" in two_arms(5, 7, 3).judge(x=contrast(against="a")).why


@pytest.mark.parametrize(
    ("at", "value"),
    [(1, 10), (2, 7), (500, 7), (0.5, 7), (0.3, 7), ("boundary", 7), (1000, 5), ("end", 5), (0.9, 5), (2000, None)],
)
def test_moments(at, value):
    world = World().arm("a", [(10.0, 7.0, 5.0)] * 2)
    found = world.judge(x=bound("at_most", 6, at=at))
    assert found.sides["arm"] == ({} if value is None else {0: value, 1: value})


def test_a_moment_that_no_evaluation_is_near_has_no_number():
    world = World().arm("a", [(10.0, 7.0, 5.0)], config={"eval_every": 100})
    assert world.judge(x=bound("at_most", 6, at=350)).sides["arm"] == {}
    assert world.judge(x=bound("at_most", 6, at=450)).sides["arm"] == {0: 7.0}


def test_a_run_whose_data_ended_first_has_an_end():
    found = World().arm("a", [(10.0, 7.0)], step=500.0).judge(x=bound("at_most", 6))
    assert found.sides["arm"] == {0: 7.0}


def test_numbers_of_whole_runs_come_from_the_facts():
    world = two_arms(5, 7, 3)
    depth = {row["id"]: world.metrics[3 * i + 2]["heldout_loss"] - 5 for i, row in enumerate(world.rows)}
    facts = pd.DataFrame({"depth": depth})
    assert world.judge(x=contrast(metric="depth"), facts=facts).word == "reproduced"
    assert "not computed" in world.judge(x=contrast(metric="depth")).why
    change = {"kind": "change", "says": "x", "metric": "depth", "arm": "a", "since": 1, "expected": "lower", "margin": 1}
    assert "whole run" in world.judge(x=change, facts=facts).why


def test_a_share_that_every_seed_has_the_same_of_has_the_steps_of_what_it_is_a_share_of():
    probe = {"prompts": 8, "new_tokens": 32, "heldout_sequences": 32}
    world = World().arm("a", around(5, 3), config={"eval_every": 500, "seq_len": 32, "probe": probe})
    for row in world.metrics:
        row |= {"heldout_uniq": 1.0, "UniquePredictions": 1.0}
    frame = pd.DataFrame(world.rows).set_index("id", drop=False).rename_axis("run")
    metrics = pd.DataFrame(world.metrics).assign(greedy_seq_rep_4=1.0, sampled_distinct_2=0.1, rep_32=0.5, top1_prob=0.5)
    shares = ("greedy_seq_rep_4", "sampled_distinct_2", "rep_32", "top1_prob")
    claims = {name: bound("at_least", 0.001, name) for name in shares}
    found = {v.claim: v.word for v in verdict.judge({"claims": claims}, frame, metrics)}
    assert found == dict.fromkeys(shares, "reproduced") | {"top1_prob": "inconclusive"}


def test_numbers_that_hold_for_any_vocabulary():
    world = World()
    for seed in range(3):  # of ln V 9 and a unigram entropy of 7
        world.run("a", seed, (9.0, 8.0, 5.0 + NOISE[seed]), ln_vocab=9.0, unigram_entropy=7.0)
    for row in world.metrics:
        row["UniquePredictions"] = 1.0
    off = np.mean(NOISE[:3])
    uniform = world.judge(x=bound("at_least", 1, "heldout_below_uniform"))
    assert (uniform.word, uniform.mean) == ("reproduced", pytest.approx(4 - off))
    assert world.judge(x=bound("at_least", 1, "heldout_below_unigram", at=500)).sides["arm"] == {0: -1, 1: -1, 2: -1}
    change = {"kind": "change", "says": "x", "metric": "heldout_below_unigram", "arm": "a", "since": 500, "margin": 1}
    assert world.judge(x=change | {"expected": "higher"}).mean == pytest.approx(3 - off)
    assert "metric=entropy_mean: this column was not read" in world.judge(x=bound("at_least", 1, "entropy_below_uniform")).why
    claims = {"x": bound("at_least", 1, "entropy_below_uniform"), "y": bound("at_least", 1, "heldout_below_unigram")}
    assert verdict.columns(verdict.parse({"claims": claims})) == ["entropy_mean", "heldout_loss"]
    world.rows[0]["ln_vocab"] = math.nan
    assert "seed 0 of arm (done)" in world.judge(x=bound("at_least", 1, "heldout_below_uniform")).why


# --------------------------------------------------------------------------------------------------- what may be averaged
@pytest.mark.parametrize(("column", "values"), [("steps", (1000.0, 20.0)), ("data_sha256", ("a" * 64, "b" * 64))])
def test_runs_of_another_length_or_text_are_not_averaged_and_not_compared(column, values):
    world = two_arms(5, 7, 3)
    for row in world.rows:
        row[column] = values[0]
    for seed in range(3):
        world.run("a", seed, 9.0, **{column: values[1], "arm_id": "short"})
    found = world.judge(x=contrast())
    assert found.word == "inconclusive"
    assert found.why.startswith("arm: its runs have different")
    world.rows = [row | {column: values[row["arm"] == "b"]} for row in world.rows]
    assert world.judge(x=contrast()).why.startswith("the sides have different")
    correlation = CORRELATION | {"expected": "higher"}
    assert world.judge(x=correlation).why.startswith("arm: its runs have different")


def test_lengths_that_the_sweep_s_file_varies_may_be_compared_and_averaged():
    world = two_arms(5, 7, 3)
    for row in world.rows:
        long = row["arm"] == "b"
        row |= {"steps": 2000.0 if long else 1000.0, "written": {"steps": "20000"} if long else {}}
        row["config"] = {"steps": row["steps"]}
    assert world.judge(x=contrast()).word == "reproduced", "what is not written is the sweep's own length"
    assert world.judge(x=contrast(arm={"steps": 1000.0}, against="b")).word == "reproduced"
    for row in world.rows:
        row["written"] = {"steps": str(int(row["steps"]))}
    assert world.judge(x=bound("at_least", 5, arm={})).word == "reproduced"


@pytest.mark.parametrize(
    ("metric", "column", "word"),
    [
        ("UniquePredictions", {"probe": {"contexts": 200}}, "at different probe.contexts (20, 200)"),
        ("heldout_uniq", {"probe": {"contexts": 200}}, None),  # counted over the same positions all the same
        ("heldout_uniq", {"probe": {"heldout_sequences": 64}}, "at different probe.heldout_sequences (32, 64)"),
        ("heldout_loss", {"seq_len": 64}, "at different seq_len (32, 64)"),
        ("heldout_loss", {"vocab_size": 50257.0}, "at different vocab_size (2,048, 50,257)"),
        ("heldout_below_unigram", {"vocab_size": 50257.0}, None),
    ],
)
def test_numbers_with_another_ceiling_or_denominator_are_not_compared_whatever_the_arms_are_about(metric, column, word):
    world = two_arms(5, 7, 4)
    for row in world.rows:
        probe = {"metric": "random_contexts", "contexts": 20, "context_length": 8, "heldout_sequences": 32}
        other = column if row["arm"] == "b" else {}
        row["config"] = {"eval_every": 500, "seq_len": other.get("seq_len", 32), "probe": probe | other.get("probe", {})}
        row |= {"vocab_size": other.get("vocab_size", 2048.0), "unigram_entropy": 6.0}
        row["written"] = {"probe.contexts": "x", "probe.heldout_sequences": "x", "seq_len": "x", "tokenizer": "x"}
    for i, row in enumerate(world.metrics):
        row |= {"heldout_uniq": 10.0 + i % 4, "UniquePredictions": 10.0 + i % 4}
    found = world.judge(x=contrast(metric=metric))
    assert (word or "") in found.why
    assert ("can't be compared" in found.why) == (word is not None)
    if word is not None:
        assert found.word == "inconclusive"
        claim = CORRELATION | {"metric": metric, "other": "heldout_uniq", "expected": "higher"}
        assert metric == "heldout_below_unigram" or "can't be averaged" in world.judge(x=claim).why


# --------------------------------------------------------------------------------------------------- several claims, p
def test_p_values_are_adjusted_for_all_declared_claims_run_or_not():
    world = two_arms(5, 7, 7)
    found = world.judge(x=contrast(), y=contrast(against="planned"), z=contrast("higher"))
    assert found["x"].p == pytest.approx(2 / 128)
    assert found["x"].p_holm == pytest.approx(3 * 2 / 128)
    assert (found["y"].p, found["y"].p_holm) == (None, None)
    assert found["x"].word == "reproduced"


@pytest.mark.parametrize("n", [3, 6])
@pytest.mark.parametrize(("expected", "word"), [("higher", "reproduced"), ("lower", "not reproduced")])
def test_beside_other_claims_the_wider_interval_decides_both_words(n, expected, word):
    """A mean between the half-widths of the 95 % and the 99.44 % interval."""
    spread = np.linspace(-1, 1, n)
    zero = stats.one_sample(spread)
    mean = (zero.interval()[1] + zero.interval(1 - 0.05 / 9)[1]) / 2
    estimate = stats.one_sample(mean + spread)
    assert estimate.interval()[0] > 0 > estimate.interval(1 - 0.05 / 9)[0]
    assert decision.decide(estimate, expected, 0.1, 0.1, 1)[0] == word
    beside, why = decision.decide(estimate, expected, 0.1, 0.1, 9)
    assert beside == "inconclusive"
    assert "95 % interval" in why and "99.44 % interval" in why and "9 claims" in why


def test_beside_other_claims_equal_takes_a_smaller_p_too():
    estimate = stats.one_sample([-0.1, 0.0, 0.1, 0.05, -0.05])
    margin = (estimate.interval(0.9)[1] + estimate.interval(1 - 0.1 / 9)[1]) / 2
    assert decision.decide(estimate, "equal", margin, margin, 1)[0] == "reproduced"
    assert decision.decide(estimate, "equal", margin, margin, 9)[0] == "inconclusive"


@pytest.mark.parametrize("claims", [1, 3, 9])
def test_the_sixth_seed_does_not_take_away_what_five_had_shown(claims):
    five = [1.0, 1.05, 0.95, 1.0, 1.1]
    assert decision.decide(stats.one_sample(five), "higher", 0.1, 0.1, claims)[0] == "reproduced"
    assert decision.decide(stats.one_sample([*five, 0.9]), "higher", 0.1, 0.1, claims)[0] == "reproduced"
    both = two_arms(5, 7, 6).judge(x=contrast(), y=contrast("higher"))
    assert (both["x"].word, both["y"].word) == ("reproduced", "not reproduced")
    assert both["x"].warnings == both["y"].warnings == ()


# ---------------------------------------------------------------------------------------------------------- explanations
@pytest.mark.parametrize(("other", "word"), [("higher", "reproduced"), ("lower", "explained otherwise")])
def test_a_claim_that_holds_together_with_its_explanation(other, word):
    found = two_arms(5, 7, 4).judge(x=contrast(explained_by=["y"]), y=contrast(other))
    assert found["x"].word == word


def test_an_open_explanation_is_a_warning_and_an_unknown_one_is_named():
    world = two_arms(5, 7, 4)
    found = world.judge(x=contrast(explained_by=["y"]), y=contrast(against="planned"))
    assert found["x"].word == "reproduced"
    assert "whether y explains it is still open" in found["x"].warnings
    found = world.judge(x=contrast(explained_by=["optimiser"]), optimizer=contrast())
    assert (found["x"].word, "did you mean 'optimizer'" in found["x"].why) == ("inconclusive", True)


def test_a_declaration_that_is_no_claim_is_refused():
    with pytest.raises(UserError, match="margin"):
        World().judge(x=contrast(margin=-1))


def test_a_bound_needs_a_margin_only_where_it_is_to_be_equal():
    without = {k: v for k, v in bound("at_most", 6).items() if k != "margin"}
    found = World().arm("a", around(5, 4)).judge(x=without)
    assert (found.word, found.margin) == ("reproduced", None)
    with pytest.raises(UserError, match="expected=equal: it needs a margin"):
        World().judge(x=without | {"expected": "equal"})


# ---------------------------------------------------------------------------------------------------------- correlations
def correlated(seeds: int, slope: float, copies: int = 1) -> World:
    """`copies` arms of each seed, the same run under several names."""
    world, generator = World(), np.random.default_rng(0)
    for seed in range(seeds):
        losses = list(generator.normal(size=3))
        unique = [slope * loss + 0.3 * generator.normal() for loss in losses]
        for copy in range(copies):
            world.run(f"a{copy}", seed, losses)
            for row, count in zip(world.metrics[-3:], unique, strict=True):
                row["UniquePredictions"] = count
    return world


CORRELATION = {"kind": "correlation", "says": "x", "metric": "UniquePredictions", "other": "heldout_loss", "bound": 0.5}


@pytest.mark.parametrize(
    ("seeds", "slope", "word"),
    [(8, 1.0, "reproduced"), (8, -1.0, "not reproduced"), (8, 0.25, "inconclusive"), (5, 1.0, "inconclusive")],
)
def test_words_of_a_correlation(seeds, slope, word):
    found = correlated(seeds, slope).judge(x=CORRELATION | {"expected": "higher"})
    assert (found.word, found.n) == (word, seeds)
    assert found.low <= found.mean <= found.high


def test_runs_of_one_seed_are_one_run_to_a_correlation():
    once, copied = (correlated(8, 1.0, copies).judge(x=CORRELATION | {"expected": "higher"}) for copies in (1, 6))
    assert (copied.n, copied.low, copied.high) == pytest.approx((8, once.low, once.high))
    few = correlated(3, 1.0, copies=6).judge(x=CORRELATION | {"expected": "higher"})
    assert (few.word, few.n) == ("inconclusive", 3)
    assert "3 seeds: too few for a correlation; 6 are needed" in few.why


def test_a_perfect_correlation_has_no_interval_to_judge_by():
    world = correlated(8, 1.0)
    for row in world.metrics:
        row["UniquePredictions"] = row["heldout_loss"]
    found = world.judge(x=CORRELATION | {"expected": "higher"})
    assert (found.word, found.mean, found.low) == ("inconclusive", pytest.approx(1), None)
    assert found.why.startswith("no interval")


def test_beside_other_claims_a_correlation_is_judged_by_the_wider_interval():
    world = correlated(8, 1.0)
    low = world.judge(x=CORRELATION | {"expected": "higher"}).low
    near = CORRELATION | {"expected": "higher", "bound": low - 1e-3}
    assert world.judge(x=near).word == "reproduced"
    assert world.judge(x=near, **{f"y{i}": contrast(arm="a0") for i in range(30)})["x"].word == "inconclusive"


def test_a_correlation_below_a_bound_and_one_without_spread():
    assert correlated(12, -1.0).judge(x=CORRELATION | {"expected": "lower", "bound": -0.5}).word == "reproduced"
    assert correlated(8, 1.0).judge(x=CORRELATION | {"expected": "higher", "other": "heldout_uniq"}).mean is None


def test_a_correlation_is_over_distinct_evaluations_after_warm_up():
    """Runs that begin alike share evaluations, and those of a learning rate that rises are of no state that is asked about."""
    alone = correlated(8, 1.0).judge(x=CORRELATION | {"expected": "higher"})
    assert "over 16 evaluations of 8 runs" in alone.why  # of three, one is step 1
    assert "over 16 evaluations of 16 runs" in correlated(8, 1.0, copies=2).judge(x=CORRELATION | {"expected": "higher"}).why


@pytest.mark.parametrize("status", ["done", "failed"])
def test_a_correlation_waits_for_runs_that_are_over_without_an_evaluation(status):
    world = correlated(8, 1.0)
    world.run("a1", 0, None, status=status)
    found = world.judge(x=CORRELATION | {"expected": "higher"})
    assert found.word == "inconclusive" and found.why.startswith(f"no number from seed 0 ({status})")


# -------------------------------------------------------------------------------------------------------------- on disk
def test_verdicts_of_run_folders(tmp_path):
    for seed, (arm, unique) in itertools.product(range(3), (("wd=paper", 11), ("wd=wd005", 2))):
        rows = evaluations([1, 5000, 10000], [20, 2, unique + seed % 2])
        make_run(tmp_path, arm=arm, seed=seed, rows=rows, config={"eval_every": 5000})
    claim = contrast("higher", 5, metric="UniquePredictions", arm={"wd": "paper"}, against={"wd.stage2": 0.05})
    found = frames.read_runs([tmp_path], ["UniquePredictions"])
    claims = {"off": claim, "change": {**bound("at_least", 8, "UniquePredictions"), "arm": {"wd": "paper"}}}
    judged = verdict.judge({"claims": claims}, found.runs, found.metrics)
    assert [v.word for v in judged] == ["reproduced", "reproduced"]
    assert verdict.columns(verdict.parse({"claims": claims})) == ["UniquePredictions"]
    table = verdict.rows(judged)
    assert table["mean"].tolist() == pytest.approx([9, 11 + 1 / 3])
    half = 4.302652730 / 3  # 9 from every seed: the error of counts of which one is a step off
    assert table["low"].iloc[0] == pytest.approx(9 - half)


# -------------------------------------------------------------------------------------------------- error rates by draws
def estimates(x: np.ndarray) -> list[stats.Estimate]:
    """`one_sample` of every row, without its p, which no word depends on."""
    return [stats.mean_of(row) for row in x]


def words(effect: float, n: int, expected: str, margin: float, claims: int = 1, draws: int = 1000) -> list[list[str]]:
    """What each draw of `claims` independent claims, of spread 1, is called."""
    x = np.random.default_rng(n).normal(effect, 1.0, size=(draws * claims, n))
    drawn = estimates(x)
    assert drawn[0].interval() == pytest.approx(stats.one_sample(x[0]).interval())
    found = []
    for i in range(0, len(drawn), claims):
        own = drawn[i : i + claims]
        found.append([decision.decide(e, expected, margin, margin, claims)[0] for e in own])
    return found


def rate(found: list[list[str]], word: str) -> float:
    return float(np.mean([word in of_draw for of_draw in found]))


@pytest.mark.parametrize("n", [3, 6])
def test_of_1000_draws_without_effect_few_are_called_reproduced(n):
    assert rate(words(0.0, n, "higher", 0.2), "reproduced") < 0.025 + 3 * SIGMA


@pytest.mark.parametrize("n", [3, 6])
def test_of_1000_draws_with_the_effect_that_matters_few_are_called_not_reproduced(n):
    assert rate(words(2.0, n, "higher", 2.0), "not reproduced") < 0.025 + 3 * SIGMA


@pytest.mark.parametrize("n", [3, 6])
def test_of_1000_draws_with_a_difference_of_the_margin_few_are_called_equal(n):
    assert rate(words(2.0, n, "equal", 2.0), "reproduced") < 0.05 + 3 * SIGMA


def test_a_known_effect_is_mostly_found():
    assert rate(words(3.0, 6, "higher", 1.0), "reproduced") > 0.9


@pytest.mark.parametrize("n", [3, 6])
@pytest.mark.parametrize(("effect", "expected", "word"), [
    (0.0, "higher", "reproduced"), (2.0, "higher", "not reproduced"), (2.0, "equal", "reproduced"),
])  # fmt: skip
def test_of_sweeps_of_nine_claims_few_have_any_false_word(n, effect, expected, word):
    margin = effect or 0.1
    assert rate(words(effect, n, expected, margin, claims=9, draws=300), word) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)

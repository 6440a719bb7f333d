"""Factorial designs with effects that are known because they were put in."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from bitnet.analysis import factors
from bitnet.common.errors import UserError

LEVELS = {"coupling": ["adamw", "adam_l2"], "wd": ["paper", "wd005", "wd01"], "quant": ["b158", "float"]}


def design(seeds: int = 4, noise: float = 0.1) -> pd.DataFrame:
    """Loss 6; +1 when coupled, +0.5 more where quantised and coupled; seeds differ by a whole unit."""
    generator = np.random.default_rng(0)
    rows = []
    for seed, (coupling, wd, quant) in itertools.product(range(seeds), itertools.product(*LEVELS.values())):
        coupled = coupling == "adam_l2"
        loss = 6 + seed + coupled + 0.5 * (coupled and quant == "float") + noise * generator.normal()
        rows.append({"seed": seed, "coupling": coupling, "wd": wd, "quant": quant, "loss": loss})
    return pd.DataFrame(rows)


def test_shares_go_to_the_factors_that_act_and_the_seed_is_taken_out():
    table = factors.anova(design(), "loss", LEVELS).set_index("effect")
    assert table["share"].sum() == pytest.approx(1)  # balanced: type II sums are a partition
    assert table.loc["seed", "share"] > 0.5
    assert table.loc["coupling", "p_holm"] < 1e-6
    assert table.loc["coupling x quant", "p_holm"] < 1e-3
    assert table.loc[["wd", "coupling x wd", "wd x quant", "coupling x wd x quant"], "p_holm"].min() > 0.05
    assert table.loc[["seed", "residual"], "p"].isna().all()


def test_two_factors_against_sums_of_squares_by_hand():
    """Means 1, 2, 3, 6 of a 2 x 2 with two seeds that differ by 2: SS a = 8 x 1.5^2 = 18, b = 8, ab = 2, seed = 8."""
    cells = {(0, 0): 1.0, (0, 1): 2.0, (1, 0): 3.0, (1, 1): 6.0}
    wobble = {(0, 0): 0.1, (0, 1): -0.1, (1, 0): -0.1, (1, 1): 0.1}
    rows = [
        {"seed": s, "a": a, "b": b, "y": mean + 2 * s - 1 + (2 * s - 1) * wobble[a, b]}
        for s in (0, 1)
        for (a, b), mean in cells.items()
    ]
    table = factors.anova(pd.DataFrame(rows), "y", {"a": [0, 1], "b": [0, 1]}).set_index("effect")
    assert table["sum_sq"].to_dict() == pytest.approx({"a": 18, "b": 8, "a x b": 2, "seed": 8, "residual": 0.08})
    assert table.loc["a", "F"] == pytest.approx(18 / (0.08 / 3))
    assert table.loc["a", "p"] == pytest.approx(scipy_stats.f.sf(18 / (0.08 / 3), 1, 3))


def test_order_leaves_larger_interactions_in_the_residual():
    table = factors.anova(design(), "loss", LEVELS, order=1)
    assert table["effect"].tolist() == ["coupling", "wd", "quant", "seed", "residual"]


def test_contrasts_are_in_the_unit_of_the_response_and_per_seed():
    table = factors.contrasts(design(), "loss", LEVELS).set_index("effect")
    assert set(table.index) == {"coupling", "quant", "coupling x quant"}  # wd has three levels
    assert table.loc["coupling", "mean"] == pytest.approx(1.25, abs=0.1)
    assert table.loc["quant", "mean"] == pytest.approx(0.25, abs=0.1)
    assert table.loc["coupling x quant", "mean"] == pytest.approx(0.5, abs=0.1)
    assert list(table.loc["coupling", "per_seed"]) == [0, 1, 2, 3]
    assert table.loc["coupling", "low"] < 1.25 < table.loc["coupling", "high"]
    assert table.index[0] == "coupling"


def test_a_contrast_by_hand():
    rows = [{"seed": s, "a": a, "y": y} for s, low, high in ((0, 1, 3), (1, 2, 5)) for a, y in ((0, low), (1, high))]
    found = factors.contrasts(pd.DataFrame(rows), "y", {"a": [0, 1]}).iloc[0]
    assert (found["per_seed"], found["mean"], found["n"], found["p"]) == ({0: 2, 1: 3}, 2.5, 2, 0.5)


def test_a_seed_that_lacks_a_cell_is_left_out_of_contrasts():
    table = design().drop(index=3)
    assert factors.contrasts(table, "loss", LEVELS)["n"].tolist() == [3, 3, 3]
    assert factors.anova(table, "loss", LEVELS)["p"].notna().sum() == 7


def before_it_acts(seeds: int, generator: np.random.Generator) -> pd.DataFrame:
    """Nothing has an effect, and runs that differ in `wd` alone are the same run."""
    table = design(seeds)
    noise = table.groupby(["seed", "coupling", "quant"])["loss"].transform(lambda cell: generator.normal())
    return table.assign(loss=noise + table["seed"])


def test_a_factor_that_has_not_acted_yet_is_left_out_and_its_copies_count_once():
    table = before_it_acts(4, np.random.default_rng(0))
    assert factors.inert(table, "loss", LEVELS) == ["wd"]
    once = table[table["wd"] == "paper"]
    pd.testing.assert_frame_equal(factors.anova(table, "loss", LEVELS), factors.anova(once, "loss", LEVELS))
    assert factors.anova(table, "loss", LEVELS).set_index("effect")["df"]["residual"] == 3 * 3
    assert factors.contrasts(table, "loss", LEVELS)["effect"].str.contains("wd").sum() == 0
    lost = table[(table["quant"] == "b158") | (table["wd"] != "wd01")]
    assert factors.inert(lost, "loss", LEVELS) == [], "wd01 was compared under b158 alone"
    table.loc[0, "loss"] += 1e-6  # one run that differs in the least: it has acted
    assert factors.inert(table, "loss", LEVELS) == []
    with pytest.raises(UserError, match="no factor had an effect"):
        factors.anova(design().assign(loss=1.0), "loss", LEVELS)


def test_copies_do_not_make_an_effect_of_nothing_significant(monkeypatch):
    monkeypatch.setattr("gc.collect", lambda: 0)  # statsmodels collects at every adjustment
    generator = np.random.default_rng(0)
    found = [factors.anova(before_it_acts(3, generator), "loss", LEVELS, order=1) for _ in range(200)]
    p = np.array([table.set_index("effect")["p"]["coupling"] for table in found])
    assert (p < 0.05).mean() < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_seeds_that_are_copies_give_no_p():
    copies = design(1, 0.1)
    table = pd.concat([copies.assign(seed=s) for s in range(3)])
    assert factors.anova(table, "loss", LEVELS)["p"].isna().all()
    found = factors.contrasts(table, "loss", LEVELS)
    assert found["low"].isna().all()


def test_one_run_a_cell_needs_a_lower_order():
    with pytest.raises(UserError, match="as many effects as runs"):
        factors.anova(design(1), "loss", LEVELS)
    assert factors.anova(design(1), "loss", LEVELS, order=2)["p"].notna().any()


def test_an_empty_cell_is_named():
    table = design()
    table = table[~((table["wd"] == "wd01") & (table["quant"] == "float") & (table["coupling"] == "adamw"))]
    with pytest.raises(UserError, match="coupling=adamw, wd=wd01, quant=float"):
        factors.anova(table, "loss", LEVELS)


def test_a_factor_with_one_level_is_no_factor():
    table = design()
    table = table[table["quant"] == "b158"]
    assert "quant" not in factors.anova(table, "loss", LEVELS)["effect"].tolist()
    with pytest.raises(UserError, match="two levels"):
        factors.contrasts(table[(table["wd"] == "paper") & (table["coupling"] == "adamw")], "loss", LEVELS)


def test_runs_without_a_value_are_left_out():
    table = design()
    table.loc[0, "loss"] = math.nan
    assert factors.contrasts(table, "loss", LEVELS)["n"].iloc[0] == 3

"""Which factor of a crossed design does what: analysis of variance with the seed as block, and contrasts in the unit itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from bitnet.analysis.stats import holm, one_sample
from bitnet.common.errors import UserError

Levels = Mapping[str, Sequence[object]]


def inert(table: pd.DataFrame, response: str, factors: Levels, block: str = "seed") -> list[str]:
    """Factors that have not acted yet: whatever their level, runs that are otherwise the same have the same response.

    Weight decay of stage 2, until stage 2 begins. Such runs are one run under several names: as replicates they would make
    every other effect look surer than it is.

    Args:
        table, factors: as for `anova`.
    """
    chosen, still, found = table.dropna(subset=[response]), list(factors), []
    for factor in factors:
        others, levels = [f for f in still if f != factor], chosen[factor].nunique()
        same = chosen.groupby([block, *others], sort=False)
        whole = same[factor].nunique() == levels
        compared = whole.groupby(level=others).any().all() if others else whole.any()  # nowhere on trust
        if levels > 1 and compared and (same[response].nunique() == 1).all():
            still.remove(factor)
            found.append(factor)
    return found


def anova(table: pd.DataFrame, response: str, factors: Levels, block: str = "seed", order: int | None = None) -> pd.DataFrame:
    """Main effects and interactions of `factors` on `response`: type II sums of squares, the seed as block.

    What the seed does alone is taken out as the block; what it does differently from cell to cell is the error, and so are
    interactions of more than `order` factors. A factor that is `inert` is left out, and of runs that differ in it alone one
    is kept.

    Args:
        table: one row a run; rows without a response are left out.
        factors: levels of each factor, by its column. A factor of which the table holds one level has no effect to estimate.
        order: factors in the largest interaction; all of them where it is None.
    Returns:
        a row an effect, then `block` and the residual: effect, df, sum_sq, share (of the total sum of squares), F, p,
        p_holm (over the effects). F and p are NaN where runs of different seeds agree to the last bit.
    Raises:
        UserError: a cell of the design without a run (its interactions can't be told apart), no factor with two levels, none
            that has acted, or as many effects as runs.
    """
    chosen, factors = _design(table, response, factors, block)
    names = [f for f in factors if chosen[f].nunique() > 1]
    renamed = chosen.rename(columns={response: "y", block: "b"} | {f: f"f{i}" for i, f in enumerate(names)})
    terms = [
        tuple(group)
        for size in range(1, min(order or len(names), len(names)) + 1)
        for group in itertools.combinations(range(len(names)), size)
    ]
    blocked = renamed["b"].nunique() > 1
    formula = " + ".join([*(["C(b)"] if blocked else []), *(":".join(f"C(f{i})" for i in term) for term in terms)])
    fitted = ols(f"y ~ {formula}", data=renamed).fit()
    if fitted.df_resid <= 0:
        raise UserError(f"{response}: as many effects as runs; more seeds, or a lower order of interactions, are needed")
    return _named(anova_lm(fitted, typ=2), terms, names, block, blocked, renamed["y"])


def _design(table: pd.DataFrame, response: str, factors: Levels, block: str) -> tuple[pd.DataFrame, Levels]:
    """The runs that count and the factors that act in them."""
    chosen = table[[response, block, *factors]].dropna(subset=[response])
    chosen = chosen[np.logical_and.reduce([chosen[f].isin(list(levels)) for f, levels in factors.items()])]
    if alike := inert(chosen, response, factors, block):
        factors = {f: levels for f, levels in factors.items() if f not in alike}
        if not factors:
            raise UserError(f"{response}: identical at every level of {', '.join(alike)}; no factor had an effect")
        chosen = chosen.drop_duplicates([block, *factors]).drop(columns=alike)
    present = {f: [level for level in levels if (chosen[f] == level).any()] for f, levels in factors.items()}
    if all(len(levels) < 2 for levels in present.values()):
        raise UserError(f"{response}: no factor of {', '.join(factors)} has runs at two levels")
    cells = set(chosen[list(factors)].itertuples(index=False, name=None))
    for cell in itertools.product(*present.values()):
        if cell not in cells:
            text = ", ".join(f"{f}={level}" for f, level in zip(factors, cell, strict=True))
            raise UserError(f"{response}: no run with a value at {text}; a crossed design needs one in every cell")
    return chosen, factors


def _named(squares: pd.DataFrame, terms: list, names: list[str], block: str, blocked: bool, y: pd.Series) -> pd.DataFrame:
    total = float(((y - y.mean()) ** 2).sum())
    residual = float(squares.loc["Residual", "sum_sq"])
    exact = residual <= 1e-20 * max(total, 1e-300)  # identical seeds: an F of them would be a number about rounding
    rows = []
    for term in terms:
        row = squares.loc[":".join(f"C(f{i})" for i in term)]
        tests = (math.nan, math.nan) if exact else (float(row["F"]), float(row["PR(>F)"]))
        rows.append((" x ".join(names[i] for i in term), row["df"], row["sum_sq"], *tests))
    others = ([(block, "C(b)")] if blocked else []) + [("residual", "Residual")]
    rows += [(name, squares.loc[key, "df"], squares.loc[key, "sum_sq"], math.nan, math.nan) for name, key in others]
    table = pd.DataFrame(rows, columns=["effect", "df", "sum_sq", "F", "p"])
    table.insert(3, "share", table["sum_sq"] / total if total > 0 else math.nan)
    adjusted = holm([None if math.isnan(p) else p for p in table["p"][: len(terms)]])
    table["p_holm"] = pd.Series([math.nan if p is None else p for p in adjusted]).reindex(table.index)
    return table


def contrasts(table: pd.DataFrame, response: str, factors: Levels, block: str = "seed") -> pd.DataFrame:
    """Effects of the two-level factors in the response's own unit: one number a seed, and what they say together.

    A main effect is the mean at the second level less that at the first, over all cells of the other factors; an
    interaction is how much one factor's effect changes from the first level of the other to its second. Seeds that lack a
    cell are left out: a mean over other cells is another quantity. Factors that are `inert` are left out.

    Args:
        factors: levels by column; the first level is the reference. Factors of more levels are averaged over.
    Returns:
        effect, n, mean, low, high (95 % t), p (exact sign-flip), p_holm, per_seed (a mapping from seed to number); largest
        effect first. low and high are NaN where there is no interval.
    Raises:
        UserError: as `anova`.
    """
    chosen, factors = _design(table, response, factors, block)
    present = {f: [level for level in levels if (chosen[f] == level).any()] for f, levels in factors.items()}
    cells = chosen.groupby([block, *factors], sort=True)[response].mean().unstack(block)
    cells = cells.loc[:, cells.notna().all() & (len(cells) == math.prod(map(len, present.values())))]
    two = [f for f, levels in present.items() if len(levels) == 2]
    signs = {f: np.where(cells.index.get_level_values(f) == present[f][1], 1.0, -1.0) for f in two}
    rows = []
    for group in [g for size in range(1, len(two) + 1) for g in itertools.combinations(two, size)]:
        weights = np.prod([signs[f] for f in group], axis=0) * 2 ** len(group) / len(cells)
        numbers = cells.mul(weights, axis=0).sum()
        if not len(numbers):
            continue
        estimate = one_sample(numbers.to_numpy(), float(np.abs(cells.to_numpy()).max()))
        low, high = estimate.interval() or (math.nan, math.nan)
        p = math.nan if estimate.p is None else estimate.p
        rows.append((" x ".join(group), estimate.n, estimate.mean, low, high, p, numbers.to_dict()))
    found = pd.DataFrame(rows, columns=["effect", "n", "mean", "low", "high", "p", "per_seed"])
    adjusted = holm([None if math.isnan(p) else p for p in found["p"]])
    found.insert(6, "p_holm", [math.nan if p is None else p for p in adjusted])
    return found.sort_values("mean", key=abs, ascending=False, kind="stable", ignore_index=True)

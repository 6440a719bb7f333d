"""Which curves over steps a page shows, and in how many panels, so that no panel holds more arms than can be told apart."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from bitnet.analysis import published
from bitnet.reporting.svg import FAINT, Curve, Style, arm_style, draw_curves
from bitnet.runs.statuses import DIVERGED
from bitnet.verdicts.crossing import level_of
from bitnet.verdicts.experiment import Experiment

PANEL_ARMS = 8

_COLUMNS = {
    "heldout_loss": "held-out loss, nats",
    "Loss": "training loss of one batch, nats",
    "UniquePredictions": "distinct predictions",
}

_PUBLISHED = {"Loss": "loss", "UniquePredictions": "unique"}

_Arms = Mapping[str, tuple[str, Style]]  # arm_id to its name in the legend and how it is drawn


def curve_panels(key: str, experiment: Experiment, names: pd.Series, most_arms: int) -> dict[str, Any]:
    """Figures of each column, by panel, with the legend of a panel's arms.

    A crossed sweep has a panel for each combination of its leading factors, so that a colour means the same levels of the
    others everywhere; other sweeps have their arms in order, eight a panel. More than `most_arms` are drawn as one grey
    bundle: it shows where arms can be found, not which one is which.

    Args:
        key: a prefix for the figures' names. names: of arms, by arm_id.
    """
    runs, metrics = experiment.records.runs, experiment.records.metrics
    theirs = published.match(runs)
    evaluated = metrics.join(runs[["arm_id", "status"]], on="run")
    table = evaluated.groupby(["arm_id", "Step"])[list(_COLUMNS)].agg(["mean", "min", "max"])
    few = len(names) <= most_arms
    everything = {c: _curves(table[c].dropna(), evaluated, c, theirs, spread=few) for c in _COLUMNS}
    limits = {column: _limits(evaluated, column, runs, theirs) for column in _COLUMNS}
    shown = []
    for i, (title, arms) in enumerate(_panels(experiment, names, most_arms).items()):
        these = runs[runs["arm_id"].isin(list(arms))]
        boundaries, end = sorted(set(these["boundary_step"])), float(these["steps"].max())
        drawn = {}
        for column, ylabel in _COLUMNS.items():
            of = [everything[column][arm](look) for arm, (_, look) in arms.items() if arm in everything[column]]
            levels = _levels(runs) if column != "UniquePredictions" else []
            if figure := draw_curves(of, f"{key}-p{i}-{column}", ylabel, boundaries, levels, limits[column], end):
                drawn[column] = figure
        legend = list(arms.values()) if few else []
        shown.append({"title": title, "legend": legend, "figures": drawn})
    other = len(theirs) > 0 and not published.same_data(runs)
    return {"panels": shown, "published": len(theirs) > 0, "other_data": published.DATA if other else ""}


# --------------------------------------------------------------------------------------------------------------- panels
def _panels(experiment: Experiment, names: pd.Series, most_arms: int) -> dict[str, _Arms]:
    """The arms of each panel by its title."""
    if len(names) > most_arms:
        return {f"{len(names)} arms": {arm: (name, Style(FAINT, "")) for arm, name in names.items()}}
    if len(names) <= PANEL_ARMS:
        return {"": {arm: (name, arm_style(i)) for i, (arm, name) in enumerate(names.items())}}
    leading = _leading(experiment.factors)
    if leading:
        return _crossed(experiment, names, leading)
    arms = [(arm, (name, arm_style(i % PANEL_ARMS))) for i, (arm, name) in enumerate(names.items())]
    cut = range(0, len(arms), PANEL_ARMS)
    return {f"arms {i + 1} to {min(i + PANEL_ARMS, len(arms))}": dict(arms[i : i + PANEL_ARMS]) for i in cut}


def _leading(factors: Mapping[str, list[str]]) -> list[str]:
    """The factors, from the first on, that have to go into titles for the others' combinations to fit into a panel."""
    names = list(factors)
    for i in range(1, len(names)):
        if math.prod(len(factors[f]) for f in names[i:]) <= PANEL_ARMS:
            return names[:i]
    return []


def _crossed(experiment: Experiment, names: pd.Series, leading: list[str]) -> dict[str, _Arms]:
    first = experiment.records.runs.drop_duplicates("arm_id").set_index("arm_id")
    levels = {factor: level_of(first, factor) for factor in experiment.factors}
    order = {factor: {level: i for i, level in enumerate(of)} for factor, of in experiment.factors.items()}
    arms = sorted(names.index, key=lambda arm: [order[f][levels[f][arm]] for f in experiment.factors])
    looks: dict[str, Style] = {}
    found: dict[str, dict[str, tuple[str, Style]]] = {}
    for arm in arms:
        title = ", ".join(f"{f}={levels[f][arm]}" for f in leading)
        label = ", ".join(f"{f}={levels[f][arm]}" for f in experiment.factors if f not in leading)
        look = looks.setdefault(label, arm_style(len(looks)))
        found.setdefault(title, {})[arm] = (label, look)
    return found


# --------------------------------------------------------------------------------------------------------------- curves
def _curves(
    table: pd.DataFrame, evaluated: pd.DataFrame, column: str, theirs: pd.DataFrame, *, spread: bool
) -> dict[str, Callable[[Style], Curve]]:
    """A column over steps for each arm that has any of it.

    Args:
        table: its mean, min and max over the runs that have a value there, by arm and step.
        spread: whether the smallest and largest are drawn, or the mean alone.
    """
    flat = table.reset_index()
    courses = {arm: course[["Step", "mean", "min", "max"]].to_numpy().T for arm, course in flat.groupby("arm_id", sort=False)}
    values = evaluated[evaluated["status"] == DIVERGED].dropna(subset=[column])
    ends = values.groupby(["arm_id", "run"])[["Step", column]].last()
    points = theirs[["arm_id", "step", _PUBLISHED[column]]].dropna() if column in _PUBLISHED else theirs.iloc[:0, :3]
    found = {}
    for arm in dict.fromkeys([*courses, *points["arm_id"]]):
        steps, mean, low, high = courses.get(arm, np.empty((4, 0)))
        published_points = points.loc[points["arm_id"] == arm].iloc[:, 1:].to_numpy(dtype="float64").tolist()
        broken = ends.loc[arm].to_numpy().tolist() if arm in ends.index.get_level_values(0) else []
        band = (low, high) if spread else (mean, mean)
        found[arm] = functools.partial(Curve, steps=steps, mean=mean, low=band[0], high=band[1], published=published_points,
                                       diverged=broken)  # fmt: skip
    return found


def _levels(runs: pd.DataFrame) -> list[tuple[str, float]]:
    """ln V and the unigram entropy, where all runs share them."""
    named = {"ln_vocab": "ln V", "unigram_entropy": "unigram entropy"}
    known = {label: runs[column].dropna().unique() for column, label in named.items()}
    return [(label, float(values[0])) for label, values in known.items() if len(values) == 1]


def _limits(evaluated: pd.DataFrame, column: str, runs: pd.DataFrame, theirs: pd.DataFrame) -> tuple[float, float] | None:
    """The same scale in every panel of a column, with room for its lines."""
    values = list(evaluated[column].dropna())
    values += list(theirs[_PUBLISHED[column]].dropna()) if column in _PUBLISHED else []
    values += [0.0] if column == "UniquePredictions" else [level for _, level in _levels(runs)]
    low, high = (min(values), max(values)) if values else (0.0, 0.0)
    return (low - 0.05 * (high - low), high + 0.08 * (high - low)) if high > low else None

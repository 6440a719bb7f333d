"""Results as tables of strings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bitnet.benchmark.cases import PARTS
from bitnet.benchmark.compare import SLOWER, Change
from bitnet.benchmark.sweeps import SweepCost
from bitnet.common.text import DASH, counted, format_bytes, format_significant
from bitnet.reporting.text_layout import Section

COLUMNS = ("tokens/s", "x reference", "ms a step", *PARTS, "evaluation", "in steps", "of the bound", "peak memory")

_COST_COLUMNS = (
    "runs",
    "steps",
    "at once",
    "wall",
    "training",
    "s a run beyond it",
    "orchestration",
    "by processor",
    "first step",
)


def steps_section(results: dict[str, Any]) -> Section:
    """The one table: a row a contender and case."""
    rows = {f"{_size(e)} {e['contender']}": _cells(e) for e in results["cases"]}
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=list(COLUMNS))
    frame.index.name = "step and contender"
    return Section("Training steps", _steps_caption(results), [frame])


def _size(entry: dict[str, Any]) -> str:
    """`256, 4 x 32`, with the vocabulary where it is not the usual one."""
    unusual = f", V = {entry['vocabulary']:,}" if entry["case"].count(":") > 1 else ""
    return f"{entry['hidden']}, {entry['batch']} x {entry['length']}{unusual}"


def _cells(entry: dict[str, Any]) -> list[str]:
    if "error" in entry:
        return [f"failed: {entry['error']}", *[""] * (len(COLUMNS) - 1)]
    evaluation, steps = entry["evaluation_ms"], entry["evaluation_steps"]
    return [
        _spread(entry["tokens_per_second"]),
        DASH if entry["ratio"] is None else _spread(entry["ratio"]),
        _number(entry["step_ms"]),
        *(_number(entry["split_ms"][part]) for part in PARTS),
        DASH if evaluation is None else _number(evaluation["median"]),
        DASH if steps is None else f"{steps:.1f}",
        f"{100 * entry['bound_share']:.0f} %",
        DASH if entry["memory"] is None else format_bytes(entry["memory"]),
    ]


def _number(value: float) -> str:
    return format_significant(value, 3)


def _spread(figure: dict[str, float]) -> str:
    """`412 (405 to 418)`: median and quartiles."""
    return f"{_number(figure['median'])} ({_number(figure['low'])} to {_number(figure['high'])})"


def _steps_caption(results: dict[str, Any]) -> str:
    """Machine, peaks, and what could not be measured."""
    peaks = results["peaks"]
    products = ", ".join(f"{n} {DASH if peaks[n] is None else _number(peaks[n] / 1e9)}" for n in ("fp32", "bf16", "int8"))
    lines = [
        f"{_where(results)}; {results['device']}, {counted(results['threads'], 'thread')}.",
        f"Products at best: {products} x 10^9 operations a second; copies {_number(peaks['copy'] / 1e9)} GB/s.",
        f"Medians of {counted(results['rounds'], 'round')}, with quartiles; data to other: ms of a step; evaluation: ms of one.",
        *(f"{case}: not measured: {why}." for case, why in results["skipped"].items()),
    ]
    return "\n".join(lines)


def _where(results: dict[str, Any]) -> str:
    load = "" if results["load_before"] is None else f", load {results['load_before']:.1f} before"
    return f"{results['processor']}, {counted(results['cores'], 'core')}{load}; torch {results['torch']}; {results['made']}"


def changes_section(changes: Sequence[Change], path: Path) -> Section:
    """What got slower, or faster, since the results in `path`."""
    rows = [[c.what, _number(c.before), _number(c.now), f"{100 * c.change:+.1f} %", c.verdict] for c in changes]
    index = pd.Index([f"{c.case} {c.contender}" for c in changes], name="step and contender")
    frame = pd.DataFrame(rows, index=index, columns=["speed of", "then", "now", "change", "verdict"])
    slower = sum(c.verdict == SLOWER for c in changes)
    return Section(f"Since {path}", f"{slower} of {len(changes)} got slower beyond the spread.", [frame])


def costs_section(results: dict[str, Any]) -> Section:
    """What commands cost, a row each."""
    rows = [_cost_cells(SweepCost(**entry["cost"])) for entry in results["cases"]]
    index = pd.Index([entry["command"] for entry in results["cases"]], name="command")
    caption = (
        f"{_where(results)}.\n"
        "Wall time of the command, its data being prepared; training: seconds within the training loop, all runs together.\n"
        "Orchestration: share of wall time x runs at once that is not training; by processor: share of processor time."
    )
    title = "Cost against arms, steps and runs" if results["kind"] == "scale" else "A whole sweep"
    return Section(title, caption, [pd.DataFrame(rows, index=index, columns=list(_COST_COLUMNS))])


def _cost_cells(cost: SweepCost) -> list[str]:
    by_processor = cost.orchestration_processor
    return [
        f"{cost.runs:,}",
        f"{cost.steps:,}",
        str(cost.at_once),
        f"{format_significant(cost.wall, 3)} s",
        f"{format_significant(cost.training, 3)} s",
        format_significant((cost.at_once * cost.wall - cost.training) / max(1, cost.runs), 2),
        f"{100 * cost.orchestration:.0f} %",
        DASH if by_processor is None else f"{100 * by_processor:.0f} %",
        DASH if cost.first_step is None else f"{cost.first_step:.2f} s",
    ]

"""The table of docs/error_rates.md is what its script prints."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parents[1]
DOCUMENT = (TESTS.parent / "docs" / "error_rates.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("error_rates", TESTS / "benchmarks" / "error_rates.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def documented(heading: str) -> dict[str, list[str]]:
    """The cells of the table below a heading, by the name of the row."""
    lines = DOCUMENT.split(heading)[1].strip().splitlines()
    table = [line.strip("| ").split(" | ") for line in lines[lines.index("") + 1 :]]
    return {row[0]: row[1:] for row in table[: next((i for i, row in enumerate(table) if row == [""]), None)]}


def test_every_scatter_has_a_row_in_every_table(script):
    for heading in script.TABLE:
        assert set(documented(heading)) >= {*script.SCATTER, "0 or 1"}


@pytest.mark.parametrize("scatter", ["normal", "lognormal"])
def test_the_figures_of_three_seeds_come_out_again(script, scatter):
    found = script.scattered(script.SCATTER[scatter], np.random.default_rng(3), 3, 1000)
    column = script.SEEDS.index(3)
    assert [f"{x:.1f}" for x in found] == [documented(heading)[scatter][column] for heading in script.TABLE]


def test_the_short_mode_counts_facts_and_looks(script):
    assert script.facts(np.random.default_rng(6), 6, 50)[0] <= 6
    assert script.until_it_holds(script.SCATTER["normal"], np.random.default_rng(0), 50) < 30

"""Which runs a set of tables is about."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from run_folders import evaluations, make_run

from bitnet.analysis import frames, grouping
from bitnet.report import main
from bitnet.verdicts.experiment import READ, experiments_by_table, experiments_in, records_of

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
    assert main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert text.index("2 experiments") < text.index("\nsweep a\n") < text.index("\nsweep b\n") < text.index("broken")
    first, second = text.split("\nsweep b\n")
    assert "Common to all arms, and omitted from their names: clip=norm01" in first and "clip=norm01" not in second
    assert text.count("Runs that did not finish") == 1
    table = pd.read_csv(tmp_path / "tables" / "learning.csv")
    assert table["experiment"].tolist() == ["sweep a", "sweep a", "sweep b"]


def test_a_command_is_shortened_to_what_was_asked():
    assert grouping.short_command("/a/bin/python /b/bin/bitnet-train wd=paper 'x=[a b]'") == "wd=paper 'x=[a b]'"
    assert grouping.short_command("python -m pytest") == "python -m pytest"
    assert grouping.short_command("python -m bitnet.train") == "python -m bitnet.train"

"""Whatever a record's file holds, `status`, `report` and `diagnose` list the runs, and say of the damaged one what is wrong.

Examples are drawn by hypothesis: any bytes in any file, and sound files in which one value is replaced by any other. Few and
always the same ones; `BITNET_FUZZ_EXAMPLES=1000` tries so many others.
"""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from run_folders import evaluations, make_run

from bitnet import diagnose, report, status

# Of the run that is done, of the one at work, whose heartbeat is looked at, and of their sweep.
FILES = [f"done/{name}" for name in ("run.json", "config.yaml", "metrics.csv", "samples.json")]
FILES += ["busy/.progress.json", "busy/run.json", "sweep.json"]
RUNS = ("whole", "done", "busy")

FEW = settings(
    max_examples=int(os.environ.get("BITNET_FUZZ_EXAMPLES", "3")),
    deadline=None,
    derandomize="BITNET_FUZZ_EXAMPLES" not in os.environ,
    database=None,
    phases=[Phase.generate],  # a smaller example of the same failure would take minutes
    suppress_health_check=list(HealthCheck),
)

NUMBERS = st.integers() | st.integers(-(10**400), 10**400) | st.floats() | st.sampled_from([0, -1, 1e308, 5e-324, 2**63])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=4,
)

CLAIM = {"kind": "contrast", "says": "it falls", "metric": "heldout_loss", "arm": "a", "against": "b", "expected": "lower"}
CLAIM |= {"margin": 0.1}
SWEEP = {"name": "sweep", "question": "Does it?", "arms": {"a": "wd=paper", "b": "wd=wd005"}, "seeds": [0], "grid": {"lr": [1]}}
SWEEP |= {"claims": {"falls": CLAIM}}
EVALUATED = {"heldout_loss": 6.0, "heldout_uniq": 40, "heldout_distinct_targets": 400, "logit_std": 1.9, "greedy_seq_rep_4": 0.1}


# ---------------------------------------------------------------------------------------------------------------- folders
@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of three runs, with every file that a reader looks into."""
    folder = tmp_path_factory.mktemp("runs") / "sweep"
    record: dict[str, Any] = {"heldout_text": {"zipf": -1.0}, "final": {"heldout_loss": 6.0}, "parameters": {"total": 9}}
    record |= {"began_as": {"from": "a/b", "id": "c", "step": 5}, "versions": {"torch": "2"}}
    record |= {"git": {"commit": "0", "dirty": True}}
    record |= {"threads": 2, "pid": 9, "sessions": [{"after_step": 0}], "slurm": None, "written": {"wd": "paper"}, "scale": None}
    arms = {"whole": ("a", "wd=paper", "done"), "done": ("b", "wd=wd005", "done"), "busy": ("b", "wd=wd01", "running")}
    for name, (arm, options, state) in arms.items():
        rows = [row | EVALUATED for row in evaluations([1, 5000, 10_000], [9, 8, 7])]
        config = {"sweep": SWEEP, "eval_every": 5000, "seed": 0}
        run = make_run(folder, arm=options, status=state, rows=rows, config=config, name=name, **record)
        run.joinpath("run.json").write_text(json.dumps(json.loads(run.joinpath("run.json").read_text()) | {"arm": arm}))
        run.joinpath("samples.json").write_text(json.dumps({"step": 9, "samples": [{"prompt": "a", "greedy": "b"}]}))
        beat = {"time": time.time(), "step": 5000, "loss": 7.0, "unique": 8, "tokens_per_second": 99.0, "left": 60.0}
        run.joinpath(".progress.json").write_text(json.dumps(beat))
    versions = [{"at": "2024-01-01T00:00:00+00:00", "sweep": SWEEP, "scale": None}]
    folder.joinpath("sweep.json").write_text(json.dumps({"declared": versions}))
    return folder


@contextmanager
def holding(path: Path, content: bytes) -> Iterator[None]:
    """Within the block a file has this content."""
    sound = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(sound)


def said(command: Callable[[list[str]], int], *arguments: str) -> tuple[str, str]:
    """What a command that ends well prints, on both channels."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        assert command(list(arguments)) == 0, err.getvalue()
    return out.getvalue(), err.getvalue()


def lists_every_run(folder: Path) -> None:
    """Every command ends well; status has a line for each run, diagnose says something of each."""
    listed = [line.split("\t") for line in said(status.main, str(folder))[0].splitlines()]
    assert sorted(Path(row[2]).name for row in listed if len(row) == 4) == sorted(RUNS)
    found, noted = said(diagnose.main, str(folder))
    assert all(f"{run}: " in found + noted for run in RUNS)
    places = ["--tables", str(folder / ".tables"), "--html", str(folder / ".page.html")]
    assert said(report.main, str(folder), *places)[0].rstrip().endswith("page.html")


# ------------------------------------------------------------------------------------------------------------------ fuzz
def test_what_is_sound_is_listed(sweep):
    lists_every_run(sweep)


@FEW
@given(name=st.sampled_from(FILES), content=st.binary(max_size=99))
def test_any_bytes_leave_a_clean_listing(sweep, name, content):
    with holding(sweep / name, content):
        lists_every_run(sweep)


@FEW
@given(name=st.sampled_from(FILES), at=st.integers(0, 10**6), length=st.integers(0, 9), content=st.binary(max_size=9))
def test_bytes_in_the_middle_leave_a_clean_listing(sweep, name, at, length, content):
    sound = (sweep / name).read_bytes()
    at %= len(sound)
    with holding(sweep / name, sound[:at] + content + sound[at + length :]):
        lists_every_run(sweep)


def places(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in nested lists and mappings."""
    yield path
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in inner:
        yield from places(value, (*path, key))


def replaced(values: Any, path: tuple[Any, ...], by: Any) -> Any:
    """A copy of nested values with another one at a place."""
    if not path:
        return by
    copy = values.copy()
    copy[path[0]] = replaced(values[path[0]], path[1:], by)
    return copy


@FEW
@given(name=st.sampled_from([name for name in FILES if not name.endswith(".csv")]), number=st.integers(0, 10**6), by=JSON)
def test_any_value_in_place_of_another_leaves_a_clean_listing(sweep, name, number, by):
    parse, write = (yaml.safe_load, yaml.safe_dump) if name.endswith(".yaml") else (json.loads, json.dumps)
    values = parse((sweep / name).read_text())
    ways = list(places(values))
    with holding(sweep / name, write(replaced(values, ways[number % len(ways)], by)).encode(errors="surrogatepass")):
        lists_every_run(sweep)


@FEW
@given(row=st.integers(0, 3), column=st.integers(0, 10**6), cell=st.text(max_size=9) | NUMBERS.map(str))
def test_any_cell_in_place_of_another_leaves_a_clean_listing(sweep, row, column, cell):
    rows = list(csv.reader((sweep / "done/metrics.csv").open(newline="")))
    rows[row][column % len(rows[row])] = cell
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    with holding(sweep / "done/metrics.csv", text.getvalue().encode(errors="surrogatepass")):
        lists_every_run(sweep)

"""The command, from what is typed to its exit code; the measurement itself is replaced."""

from __future__ import annotations

import json

import pytest

from bitnet import bench
from bitnet.benchmark import request, steps
from bitnet.benchmark.cases import CONTENDERS, PARTS
from bitnet.benchmark.interleaved import Turns

PEAKS = {"fp32": 1e11, "bf16": 1e11, "int8": 2e11, "copy": 1e10}


@pytest.fixture
def pace(monkeypatch, tmp_path) -> dict[str, float]:
    """Seconds of a step by contender, in place of a measurement."""
    pace = dict.fromkeys(CONTENDERS, 0.1)

    def measure(case, contenders, *, device, threads, rounds):
        parts = {part: 0.1 / len(PARTS) for part in PARTS}
        return {name: Turns([pace[name]] * rounds, [parts] * rounds, [], [PEAKS] * rounds, 10**9) for name in contenders}

    facts = {"device": "cpu", "threads": 1, "memory": None, "peaks": PEAKS}
    monkeypatch.setattr(steps, "measure", measure)
    monkeypatch.setattr(steps, "machine", lambda device, threads: dict(facts))
    monkeypatch.chdir(tmp_path)
    return pace


def test_it_prints_a_table_and_writes_a_file(pace, tmp_path, capsys):
    assert bench.main(["--sizes", "64:4x32,32:2x8:100", "--contenders", "ours,reference"]) == 0
    said = capsys.readouterr()
    for row in ("64, 4 x 32 reference", "64, 4 x 32 ours", "32, 2 x 8, V = 100 ours"):
        assert row in said.out
    (path,) = (tmp_path / "outputs" / "bench").iterdir()
    assert path.name.startswith("steps-") and f"results are in outputs/bench/{path.name}" in said.err
    assert len(json.loads(path.read_text())["cases"]) == 4


def test_quick_is_a_subset_and_gives_way_to_sizes(pace, tmp_path):
    bench.main(["--quick", "--json", "a.json"])
    bench.main(["--quick", "--sizes", "128:4x32", "--json", "b.json"])
    cases = [{e["case"] for e in json.loads((tmp_path / name).read_text())["cases"]} for name in ("a.json", "b.json")]
    assert cases == [{"64:4x32", "256:4x32"}, {"128:4x32"}]


def test_compare_flags_what_got_slower(pace, capsys):
    sizes = ["--sizes", "64:4x32"]
    assert bench.main([*sizes, "--json", "old.json"]) == 0
    assert bench.main([*sizes, "--json", "same.json", "--compare", "old.json"]) == 0
    pace["ours"] = 0.125
    capsys.readouterr()
    assert bench.main([*sizes, "--json", "new.json", "--compare", "old.json"]) == 1
    table = capsys.readouterr().out.split("Since old.json")[1]
    (line,) = [line for line in table.splitlines() if line.startswith("64:4x32 ours")]
    assert line.split()[-3:] == ["-20.0", "%", "slower"]
    assert bench.main(["--from", "new.json", "--compare", "old.json"]) == 1, "and again from the files"
    assert bench.main(["--from", "old.json", "--compare", "new.json"]) == 0, "faster is no failure"


def test_the_document_gets_the_table_between_its_marks(pace, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bitnet.bench steps: begin -->\nold\n<!-- bitnet.bench steps: end -->\nafter\n")
    for _ in range(2):
        assert bench.main(["--sizes", "64:4x32", "--json", "a.json", "--document", "page.md"]) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("-->\nafter\n") and "old" not in text
    assert text.count("| 64, 4 x 32 ours ") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--sizes", "banana"], "--sizes banana: a size is"),
        (["--contenders", "theirs"], "--contenders theirs: allowed are"),
        (["--threads", "0"], "--threads 0: a whole number from 1 on"),
        (["--rounds", "0"], "--rounds 0: a whole number from 1 on"),
        (["--compare", "nowhere.json"], "--compare nowhere.json: not a file"),
        (["--from", "nowhere.json"], "--from nowhere.json: not a file"),
        (["--document", "nowhere.md"], "--document nowhere.md: can't be read"),
        (["steps", "model=64"], "model=64: overrides belong to `sweep`"),
        (["scale", "--compare", "x"], "--compare x: only training steps"),
        (["banana"], "invalid choice"),
    ],
)
def test_a_mistake_is_one_line_before_any_work(monkeypatch, tmp_path, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(request, "measure_steps", lambda *a, **k: pytest.fail("measured"))
    monkeypatch.setattr(request, "measure_sweep", lambda *a: pytest.fail("measured"))
    assert bench.main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and sentence in said.err
    assert not list(tmp_path.iterdir())


def test_a_document_without_marks_is_refused(pace, tmp_path, capsys):
    (tmp_path / "page.md").write_text("nothing")
    assert bench.main(["--document", "page.md"]) == 2
    assert "has no lines <!-- bitnet.bench steps: begin -->" in capsys.readouterr().err


def test_results_of_other_threads_are_refused_before_any_work(pace, monkeypatch, capsys):
    bench.main(["--sizes", "64:4x32", "--json", "old.json"])
    monkeypatch.setattr(request, "measure_steps", lambda *a, **k: pytest.fail("measured"))
    assert bench.main(["--threads", "2", "--compare", "old.json"]) == 2
    assert "measured with --threads 1, this is --threads 2" in capsys.readouterr().err

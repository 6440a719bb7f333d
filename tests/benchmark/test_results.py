"""From turns to figures, tables, files and comparisons; nothing here is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitnet.benchmark.bound import step_work
from bitnet.benchmark.cases import CONTENDERS, PARTS, Case, run_of
from bitnet.benchmark.compare import FASTER, SLOWER, WITHIN, compare, require_comparable
from bitnet.benchmark.interleaved import Turns
from bitnet.benchmark.results import circumstances, figure, read, results_of, too_large, write
from bitnet.benchmark.view import COLUMNS, changes_section, steps_section
from bitnet.common.errors import UserError
from bitnet.reporting.text_layout import render

CASE = Case(hidden=64, batch=4, length=32, vocabulary=2_048)
PEAKS = {"fp32": 1e11, "bf16": None, "int8": 2e11, "copy": 1e10}


def turns(*seconds: float, evaluations: tuple[float, ...] = ()) -> Turns:
    parts = [{part: s / len(PARTS) for part in PARTS} for s in seconds]
    return Turns(list(seconds), parts, list(evaluations), peaks=[PEAKS] * len(seconds), memory=10**9)


def everyone(**changes: Turns) -> dict[str, Turns]:
    """The reference drifts from 0.1 s a step to 0.3; the others drift with it."""
    usual = {
        "reference": turns(0.1, 0.2, 0.3),
        "transformers": turns(0.1, 0.2, 0.3),
        "float": turns(0.05, 0.1, 0.15, evaluations=(1.0, 1.0)),
        "ours": turns(0.05, 0.1, 0.15, evaluations=(2.0, 2.0)),
    }
    return usual | changes


def results(taken: dict[str, Turns]) -> dict:
    how = {"device": "cpu", "threads": 1, "rounds": 3, "peaks": PEAKS, "skipped": {"1024:8x256": "too large"}}
    return circumstances("steps") | how | {"cases": results_of(CASE, taken)}


def test_a_figure_is_a_median_with_quartiles():
    assert figure([3.0, 1.0, 2.0, 5.0, 4.0]) == {"median": 3.0, "low": 2.0, "high": 4.0}
    assert figure([7.0]) == {"median": 7.0, "low": 7.0, "high": 7.0}


def test_ratios_are_those_within_rounds():
    *_, ours = results_of(CASE, everyone())
    assert ours["ratio"] == {"median": 2.0, "low": 2.0, "high": 2.0}, "what drifts alike cancels"
    assert ours["tokens_per_second"]["median"] == 128 / 0.1
    assert ours["tokens_per_second"]["low"] < ours["tokens_per_second"]["high"]
    assert (ours["evaluation_ms"]["median"], ours["evaluation_steps"]) == (2000.0, 20.0)
    assert ours["evaluation_ratio"]["median"] == 0.2 / 2.0
    work = step_work(run_of(CASE).model, 2_048, 4, 32)
    assert ours["bound_share"] == pytest.approx((work.flops / 1e11 + work.bytes / 1e10) / 0.1)
    assert sum(ours["split_ms"].values()) == pytest.approx(ours["step_ms"]) == pytest.approx(100.0)


def test_without_the_reference_there_are_no_ratios():
    taken = everyone()
    del taken["reference"]
    assert [e["ratio"] for e in results_of(CASE, taken)] == [None] * 3
    assert all(e["ratio"] is None for e in results_of(CASE, everyone(reference=Turns(error="killed")))[1:])


@pytest.mark.parametrize("style", ["plain", "md"])
def test_the_table_has_every_contender_and_column(style):
    text = render(steps_section(results(everyone())), style, None)
    for name in CONTENDERS:
        assert f"64, 4 x 32 {name}" in text
    for column in COLUMNS:
        assert column in text
    for said in ("bf16 \u2013", "fp32 100", "int8 200", "copies 10 GB/s", "1024:8x256: not measured: too large", "1 thread"):
        assert said in text


def test_a_contender_that_failed_says_so_in_its_row():
    text = render(steps_section(results(everyone(transformers=Turns(error="no such module")))), "plain", None)
    assert "failed: no such module" in text


def test_an_unusual_vocabulary_is_named_in_the_row():
    entries = results_of(Case(64, 4, 32, 512), everyone())
    assert "64, 4 x 32, V = 512 ours" in render(steps_section(results({}) | {"cases": entries}), "plain", None)


def test_the_file_has_every_contender_and_figure(tmp_path):
    path = tmp_path / "new" / "bench.json"
    write(path, results(everyone()))
    again = read(path, "--from", "steps")
    assert again == json.loads(json.dumps(results(everyone()) | {"made": again["made"], "load_before": again["load_before"]}))
    assert [e["contender"] for e in again["cases"]] == list(CONTENDERS)
    for entry in again["cases"]:
        assert set(entry["split_ms"]) == set(PARTS)
        assert {"tokens_per_second", "ratio", "step_ms", "evaluation_ms", "evaluation_steps", "bound_share", "memory"} <= set(
            entry
        )
    assert {"processor", "cores", "torch", "peaks", "device", "threads", "load_before", "made"} <= set(again)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "kind": "scale"}', '{"format": 0, "kind": "steps"}']
)
def test_a_file_of_something_else_is_refused(tmp_path, text):
    path = tmp_path / "f.json"
    path.write_text(text)
    with pytest.raises(UserError, match=f"--compare {path}"):
        read(path, "--compare", "steps")
    with pytest.raises(UserError, match="--compare nowhere"):
        read(Path("nowhere"), "--compare", "steps")


def verdicts(before: dict[str, Turns], now: dict[str, Turns]) -> dict[tuple[str, str], str]:
    return {(c.contender, c.what): c.verdict for c in compare(results(before), results(now))}


def test_a_contender_that_got_slower_is_told_from_a_machine_that_did():
    slower = {name: turns(*(2 * s for s in t.seconds)) for name, t in everyone().items()}
    assert set(verdicts(everyone(), slower).values()) == {WITHIN}, "twice as slow, all of them"
    found = verdicts(everyone(), everyone(ours=turns(0.06, 0.12, 0.18, evaluations=(2.0, 2.0))))
    assert found[("ours", "training")] == SLOWER
    assert {v for key, v in found.items() if key != ("ours", "training")} == {WITHIN}
    assert verdicts(everyone(), everyone(ours=turns(0.04, 0.08, 0.12)))[("ours", "training")] == FASTER


def test_a_slower_evaluation_is_seen():
    found = verdicts(everyone(), everyone(ours=turns(0.05, 0.1, 0.15, evaluations=(3.0, 3.0))))
    assert (found[("ours", "evaluation")], found[("ours", "training")]) == (SLOWER, WITHIN)


def test_what_lies_within_the_spread_or_is_tiny_counts_for_nothing():
    wide = everyone(ours=turns(0.04, 0.1, 0.3))
    assert verdicts(wide, everyone(ours=turns(0.05, 0.12, 0.25)))[("ours", "training")] == WITHIN
    assert verdicts(everyone(), everyone(ours=turns(0.0505, 0.101, 0.1515)))[("ours", "training")] == WITHIN


def test_without_the_reference_the_clock_is_compared():
    (change,) = compare(results({"ours": turns(0.1, 0.1, 0.1)}), results({"ours": turns(0.2, 0.2, 0.2)}))
    assert (change.verdict, change.before, change.now, change.change) == (SLOWER, 1280.0, 640.0, -0.5)
    text = render(changes_section([change], Path("old.json")), "plain", None)
    assert "64:4x32 ours" in text and "-50.0 %" in text and "1 of 1 got slower" in text


def test_what_only_one_of_two_files_has_is_not_compared():
    assert compare(results(everyone()) | {"cases": []}, results(everyone())) == []
    failed = results(everyone(ours=Turns(error="killed")))
    assert "ours" not in {c.contender for c in compare(results(everyone()), failed)}


def test_results_of_other_circumstances_are_not_compared():
    before = results(everyone())
    require_comparable(before, "auto", 1, "f")
    require_comparable(before, "cpu", 1, "f")
    with pytest.raises(UserError, match="--compare f: measured with --threads 1, this is --threads 2"):
        require_comparable(before, "cpu", 2, "f")
    with pytest.raises(UserError, match="--compare f: measured on cpu, this is cuda:1"):
        require_comparable(before, "cuda:1", 1, "f")
    require_comparable(before | {"device": "cuda:0 (NVIDIA H100)"}, "cuda", 1, "f")


def test_a_case_that_does_not_fit_into_memory_is_left_out():
    case = Case(1024, 8, 256, 50_257)  # 145 million parameters of 16 bytes, 103 million logits of 20: 4.4 GB each
    assert too_large(case, ["ours"], 5 * 10**9) is None
    assert too_large(case, ["ours"], None) is None
    assert too_large(case, list(CONTENDERS), 10**10) == "needs about 18 GB for 4 contenders at once, 10 GB are free"


def test_the_share_of_the_bound_is_one_of_the_same_round():
    """A machine that slows down as the contender does leaves the share as it was."""
    slowing = turns(0.1, 0.2, 0.4)
    slowing.peaks = [{"fp32": 4e10 / f, "copy": 4e9 / f} for f in (1, 2, 4)]
    (entry,) = results_of(CASE, {"ours": slowing})
    work = step_work(run_of(CASE).model, 2_048, 4, 32)
    assert entry["bound_share"] == pytest.approx((work.flops / 4e10 + work.bytes / 4e9) / 0.1)

"""The types and bounds of what a run's files hold: what a run writes passes, what none can have written is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from run_folders import make_run

from bitnet.runs import heartbeat
from bitnet.runs.facts import RunFacts, Samples
from bitnet.runs.reading import Unreadable, check_values, read_json_mapping
from bitnet.runs.record import RunRecord, read_record

FIXTURE = Path(__file__).parents[1] / "fixtures" / "runs_before_packages"

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"threads": 100_000}, "threads=100000: input should be less than or equal to 1024"),
    ({"threads": 0}, "threads=0: "),
    ({"threads": "2"}, "threads='2': "),
    ({"pid": -1}, "pid=-1: "),
    ({"step": [5]}, r"step=\[5\]: "),
    ({"step": True}, "step=True: "),
    ({"step": -1}, "step=-1: "),
    ({"steps": 10**16, "step": 1}, "steps=1"),
    ({"steps": 1.5, "step": 1}, "steps=1.5: "),
    ({"seed": 2**32}, "seed=4294967296: "),
    ({"branch_at": [3, "x"]}, "branch_at.1='x': "),
    ({"branch": {"from": "../../x", "step": 1}}, r"branch.from='\.\./\.\./x': a place as seen from out is needed: FOLDER/RUN"),
    ({"branch": {"from": "../x", "step": 1}}, "branch.from="),
    ({"branch": {"from": "a/b"}}, "branch.step: missing"),
    ({"timing": {"train_seconds": float("nan")}}, "timing.train_seconds=nan: "),
    ({"timing": {"eval_seconds": -1}}, "timing.eval_seconds=-1: "),
    ({"timing": {"steps_timed": 10**400}}, "timing.steps_timed=1000"),
    ({"timing": []}, r"timing=\[\]: "),
    ({"data": {"ln_vocab": float("inf")}}, "data.ln_vocab=inf: "),
    ({"data": {"folder": "a\0b"}}, "data.folder="),
    ({"label": 3}, "label=3: "),
    ({"overrides": "wd=paper"}, "overrides='wd=paper': "),
    ({"choices": {"wd": ["paper"]}}, r"choices.wd=\['paper'\]: "),
    ({"final": {"Loss": "low"}}, "final.Loss='low': "),
    ({"sessions": [{"after_step": None}]}, "sessions.0.after_step=None: "),
    ({"started": 2025}, "started=2025: "),
]


@pytest.mark.parametrize(("facts", "said"), WRONG, ids=lambda x: "" if isinstance(x, dict) else x[:30])
def test_a_value_that_no_run_can_have_written_is_told_in_one_line(tmp_path, facts, said):
    folder = make_run(tmp_path, **facts)
    with pytest.raises(Unreadable, match=rf"^run\.json: {said}") as told:
        read_record(folder)
    assert len(str(told.value)) < 200 and "\n" not in str(told.value)
    assert RunRecord(folder).read() == {}


def test_what_runs_have_written_passes(tmp_path):
    records = [
        *FIXTURE.rglob("run.json"),
        make_run(tmp_path, status="queued") / "run.json",
        make_run(tmp_path, seed=1) / "run.json",
    ]
    assert len(records) == 8
    for path in records:
        assert read_record(path.parent) == json.loads(path.read_text())
    for path in FIXTURE.rglob("samples.json"):
        assert read_json_mapping(path, Samples)["samples"]


def test_keys_of_another_version_are_let_through():
    check_values(RunFacts, {"schema": 1, "new": {"a": [1]}, "data": {"new": None}, "slurm": {"job": 7, "new": 1}}, "run.json")


def test_half_a_character_is_no_text(tmp_path):
    folder = make_run(tmp_path, label="\ud800")
    with pytest.raises(Unreadable, match=r"^run\.json: .*surrogates not allowed"):
        read_record(folder)
    make_run(tmp_path, seed=1, label="\N{GRINNING FACE}")


@pytest.mark.parametrize("beat", [{"time": "now"}, {"step": [1]}, {"left": float("nan")}, {"left": -1}, {"time": None}])
def test_a_heartbeat_of_other_types_is_told_and_is_none_for_others(tmp_path, beat):
    heartbeat.write(tmp_path, {"time": 1.0, "step": 1} | beat)
    (key,) = beat
    with pytest.raises(Unreadable, match=rf"^\.progress\.json: {key}="):
        heartbeat.load(tmp_path)
    assert heartbeat.read(tmp_path) == {}


def test_no_heartbeat_is_no_damage(tmp_path):
    assert heartbeat.load(tmp_path) == {} and heartbeat.written_at(tmp_path) == 0.0
    heartbeat.write(tmp_path, {"time": 1.0, "step": 1, "loss": float("nan")})
    assert heartbeat.load(tmp_path)["step"] == 1

"""A run goes on only from what is whole: its rows, its checkpoint, and what it was begun with, whatever became of its files."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from real_runs import exit_code, record, undisturbed
from run_folders import metrics
from safetensors.torch import load_file, save_file
from small import FEW_PROBES, TINY

from bitnet import train
from bitnet.common.files import sha256
from bitnet.runs import provenance
from bitnet.runs.folders import checkpoint_name, checkpoints
from bitnet.runs.metrics_file import evaluation_steps, is_evaluated
from bitnet.training import checkpoint

STEPS = 20
SMALL = [*TINY, *FEW_PROBES, f"steps={STEPS}", "eval_every=4", "checkpoint.every=5", "checkpoint.keep=9", "launcher=serial"]
REAL_PROVENANCE = provenance.provenance


def trained(*arguments: str) -> int:
    """Exit code of the training command."""
    return exit_code(train.main, *arguments)


def command(*arguments: str) -> int:
    return trained(*SMALL, *arguments)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed, with all of its checkpoints."""
    return undisturbed(tmp_path_factory, *SMALL)


@pytest.fixture
def run(calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same run, stopped at its 15th step."""
    monkeypatch.setattr(sys, "argv", ["bitnet-train"])
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs" / "day" / calm.name
    shutil.copytree(calm, folder)
    for step, path in checkpoints(folder / "checkpoints"):
        if step > 15:
            path.unlink()
    values = record(folder) | {"status": "queued", "step": 15, "finished": None}
    (folder / "run.json").write_text(json.dumps(values))
    return folder


def rows(folder: Path) -> str:
    return (folder / "metrics.csv").read_text()


def resumed(folder: Path, *arguments: str) -> int:
    return trained(f"resume={folder}", *arguments)


def ended_alike(folder: Path, calm: Path) -> None:
    assert record(folder)["status"] == "done"
    assert rows(folder) == rows(calm)
    ends = [checkpoint.newest(f / "checkpoints", print) for f in (folder, calm)]
    assert all(torch.equal(ends[0].tensors[k], v) or v.isnan().any() for k, v in ends[1].tensors.items())


# ------------------------------------------------------------------------------------------------------------------- rows
def cut_to_the_first_row(text: str) -> str:
    return "".join(text.splitlines(keepends=True)[:2])


def without_a_row_in_the_middle(text: str) -> str:
    lines = text.splitlines(keepends=True)
    return "".join(lines[:2] + lines[3:])


def with_a_changed_value(text: str) -> str:
    return text.replace(text.splitlines()[2].split(",")[1], "9.9999")


def with_columns_swapped(text: str) -> str:
    return text.replace("Step,Loss,UniquePredictions", "Step,UniquePredictions,Loss")


def with_a_row_twice(text: str) -> str:
    lines = text.splitlines(keepends=True)
    return "".join([*lines[:3], lines[2], *lines[3:]])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut_to_the_first_row, "metrics.csv lacks the evaluations at steps 4, 8, 12"),
        (without_a_row_in_the_middle, "metrics.csv lacks the evaluation at step 4"),
        (with_a_changed_value, "metrics.csv was changed"),
        (with_columns_swapped, "metrics.csv is not used: another program saved it (Loss "),
        (with_a_row_twice, "metrics.csv has rows that the run did not write"),
        (None, "metrics.csv is missing"),
    ],
    ids=lambda value: getattr(value, "__name__", "gone" if value is None else ""),
)
def test_rows_that_are_lost_or_changed_are_told_and_made_again(run, calm, capfd, damage: Callable[[str], str] | None, said):
    path = run / "metrics.csv"
    before = path.read_text()
    path.unlink()
    if damage is not None:
        path.write_text(damage(before))
        assert path.read_text() != before
    assert resumed(run) == 0
    told = capfd.readouterr().err
    assert told.count(said) == 1 and "Traceback" not in told
    ended_alike(run, calm)
    assert (run / "metrics.csv.damaged").exists() == (damage is not None)
    assert {p.name.split("-")[1] for p in run.glob("checkpoints/*.without-rows")} >= {"00000015"}, "sound ones are kept"


def test_it_goes_back_no_further_than_the_last_step_whose_rows_are_there(run, calm, capfd):
    path = run / "metrics.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(("8,", "12,", "16,", "20,"))))
    assert resumed(run) == 0
    assert "resuming after step 5" in capfd.readouterr().err
    ended_alike(run, calm)


def test_whole_rows_are_not_made_again(run, calm, capfd):
    assert resumed(run) == 0
    told = capfd.readouterr().err
    assert "resuming after step 15" in told and "metrics.csv" not in told
    ended_alike(run, calm)


def test_a_finished_run_that_lost_rows_says_so(run, calm, capfd):
    assert resumed(run) == 0
    path = run / "metrics.csv"
    path.write_text(cut_to_the_first_row(path.read_text()))
    capfd.readouterr()
    assert resumed(run) == 0
    assert "finished before, but its metrics.csv lacks the evaluations at steps 4, 8, 12 and 2 more" in capfd.readouterr().err
    path.unlink()
    assert resumed(run) == 0
    assert "finished before, but its metrics.csv is missing" in capfd.readouterr().err


def test_a_sweep_says_which_finished_runs_lost_rows(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["bitnet-train"])
    monkeypatch.chdir(tmp_path)
    assert command("-m", "seed=0,1") == 0
    first, second = sorted(f.parent for f in tmp_path.glob("outputs/*/*/run.json"))
    path = second / "metrics.csv"
    path.write_text(without_a_row_in_the_middle(path.read_text()))
    capfd.readouterr()
    assert command("-m", "seed=0,1") == 0
    told = capfd.readouterr().err
    assert (
        f"{second}: finished, but its metrics.csv lacks the evaluation at step 4" in told
        and f"{first}: finished, but" not in told
    )


def test_steps_that_are_evaluated():
    assert evaluation_steps(20, 6) == [1, 6, 12, 18]
    assert evaluation_steps(20, 6, last=20) == [1, 6, 12, 18, 20]
    assert evaluation_steps(17, 6, last=20) == [1, 6, 12]
    assert evaluation_steps(5, 1) == [1, 2, 3, 4, 5]
    assert evaluation_steps(0, 3) == []
    for until in range(1, 30):
        assert evaluation_steps(until, 7, 20) == [s for s in range(1, until + 1) if is_evaluated(s, 7, 20)]


# ----------------------------------------------------------------------------------------------------------- its beginning
def test_what_it_was_begun_with_outlives_run_json(run, calm, capfd):
    """An emptied run.json made a run go on with another number of threads, other bits, and no message."""
    began_with = record(run)["threads"]
    (run / "run.json").write_text("")
    assert resumed(run) == 2
    told = capfd.readouterr().err
    assert told.startswith(f"error: resume={run}: run.json: ") and told.count("\n") == 1 and "repeat the command" in told

    facts = checkpoint.newest_facts(run / "checkpoints")
    assert (facts["threads"], facts["device"], facts["id"]) == (began_with, "cpu", record(calm)["id"])
    assert facts["data_sha256"] == record(calm)["data"]["sha256"] and facts["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("lost", ["emptied", "gone"])
def test_the_same_command_finds_a_run_whose_record_was_lost(run, calm, capfd, lost):
    day = run.parent.with_name("2025-01-01")  # it was begun on another day
    run.parent.rename(day)
    (day / run.name / "run.json").unlink()
    if lost == "emptied":
        (day / run.name / "run.json").touch()
    assert command(f"out={day.parent}") == 0
    assert "resuming after step 15" in capfd.readouterr().err
    ended_alike(day / run.name, calm)


def test_a_sweep_that_lost_a_record_goes_on_with_its_threads(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["bitnet-train"])
    monkeypatch.chdir(tmp_path)
    arguments = [*SMALL[: SMALL.index("threads=1")], *SMALL[SMALL.index("threads=1") + 1 :], "-m", "seed=0"]
    assert command("-m", "seed=0") == 0
    (folder,) = (f.parent for f in tmp_path.glob("outputs/*/*/run.json"))
    whole = rows(folder)
    for step, path in checkpoints(folder / "checkpoints"):
        if step > 15:
            path.unlink()
    (folder / "run.json").write_text("")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert train.main(arguments) == 0
    capfd.readouterr()
    assert record(folder)["threads"] == 1 and record(folder)["status"] == "done"
    assert rows(folder) == whole


def changed_facts(folder: Path, **facts: Any) -> None:
    """Rewrite the newest checkpoint with other facts, hashed as if it had been saved so."""
    step, path = checkpoints(folder)[0]
    found = checkpoint.read(path)
    rewritten(path, found.tensors, found.facts | facts, step)


def rewritten(path: Path, tensors: dict[str, torch.Tensor], facts: dict[str, Any], step: int) -> None:
    path.unlink()
    partial = path.with_name("partial")
    save_file(tensors, partial, metadata={"facts": json.dumps({k: v for k, v in facts.items() if v is not None})})
    partial.rename(path.with_name(checkpoint_name(step, sha256(partial))))


def other_versions() -> dict[str, Any]:
    known = REAL_PROVENANCE()
    return known | {"versions": known["versions"] | {"torch": "9.9.0"}}


def test_another_version_is_told_and_recorded(run, calm, monkeypatch, capfd):
    monkeypatch.setattr("bitnet.training.resume.provenance", other_versions)
    assert resumed(run) == 0
    change = f"torch {torch.__version__} -> 9.9.0"
    assert f"note: {change}" in capfd.readouterr().err
    assert record(run)["sessions"][-1]["changed"] == [change]
    assert record(calm)["sessions"][-1]["changed"] == []


def test_another_version_is_refused_where_that_is_asked_for(run, monkeypatch, capfd):
    monkeypatch.setattr("bitnet.training.resume.provenance", other_versions)
    assert resumed(run, "checkpoint.on_mismatch=refuse") == 2
    told = capfd.readouterr().err
    assert f"torch {torch.__version__} -> 9.9.0" in told and "checkpoint.on_mismatch=continue" in told
    assert checkpoints(run / "checkpoints")[0][0] == 15  # nothing was trained, nothing lost
    assert resumed(run, "checkpoint.on_mismatch=continue") == 0


# ------------------------------------------------------------------------------------------------------------- checkpoints
def without(name: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda tensors: {k: v for k, v in tensors.items() if not k.startswith(name)}


@pytest.mark.parametrize(
    ("change", "facts", "said"),
    [
        (lambda tensors: tensors, {"id": None}, "it does not say of which run"),
        (without("optimizer/"), {}, "optimizer/0/exp_avg is missing"),
        (without("optimizer/3/step"), {}, "optimizer/3/step is missing"),
        (without("rng/"), {}, "rng/cpu is missing"),
        (without("probe/"), {}, "probe/codes is missing"),
        (without("model/head"), {}, "model/head.weight is missing"),
        (lambda tensors: tensors | {"model/more": torch.ones(1)}, {}, "model/more is no part of this run"),
        (
            lambda tensors: tensors | {"model/head.weight": torch.ones(3, 2)},
            {},
            "model/head.weight is float32 [3, 2], not float32",
        ),
        (lambda tensors: tensors | {"rng/cpu": torch.ones(3)}, {}, "rng/cpu is float32 [3], not uint8"),
    ],
)
def test_a_checkpoint_that_hashes_but_is_not_whole_is_refused_for_the_one_before(run, calm, capfd, change, facts, said):
    step, path = checkpoints(run / "checkpoints")[0]
    rewritten(path, change(load_file(path)), checkpoint.read(path).facts | facts, step)
    assert resumed(run) == 0
    told = capfd.readouterr().err
    assert said in told and "resuming after step 10" in told and "Traceback" not in told
    ended_alike(run, calm)


def test_a_checkpoint_beyond_the_end_is_refused(run, calm, capfd):
    _, path = checkpoints(run / "checkpoints")[0]
    rewritten(path, load_file(path), checkpoint.read(path).facts | {"step": 25}, 25)
    assert resumed(run) == 0
    assert f"step 25 is beyond the run's end, {STEPS}" in capfd.readouterr().err
    ended_alike(run, calm)


def test_a_checkpoint_of_other_data_is_an_error(run, capfd):
    changed_facts(run / "checkpoints", data_sha256="0" * 64)
    assert resumed(run) == 2
    assert "its checkpoint belongs to a run on other data" in capfd.readouterr().err


def test_a_foreign_checkpoint_is_an_error_whatever_the_rows(run, capfd):
    """One that strayed into the folder of a run without rows must not be set aside as if it were the run's own."""
    step, path = checkpoints(run / "checkpoints")[0]
    found = checkpoint.read(path)
    rewritten(path, found.tensors, found.facts | {"id": "0123456789"}, step)
    (run / "metrics.csv").unlink()
    assert resumed(run) == 2
    assert "its checkpoint belongs to another run" in capfd.readouterr().err


def test_rows_read_back(calm):
    assert [int(r["Step"]) for r in metrics(calm)] == evaluation_steps(STEPS, 4, STEPS)

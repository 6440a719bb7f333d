"""`bitnet.plan`: the same runs as training makes, what they cost, what would go wrong, and nothing written."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from small import TINY

from bitnet import plan, train
from bitnet.common.console import command_name
from bitnet.config.run import load_config
from bitnet.data.prepared import prepare
from bitnet.model.transformer import BitNet
from bitnet.planning import cost, warnings
from bitnet.planning.timeline import WorkItem, makespan
from bitnet.training.build import build
from bitnet.training.checkpoint import save
from bitnet.training.device import make_deterministic

SMALL = [*TINY, "steps=20", "launcher=serial"]
SWEEP = """# @package _global_
defaults:
  - override /launcher: serial
sweep:
  name: asked
  question: Does it?
  arms: {coupled: optimizer=adam_l2, decoupled: optimizer=adamw}
  seeds: [0, 1]
  claims: CLAIMS
hydra:
  mode: MULTIRUN
"""


@pytest.fixture(autouse=True)
def command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test in a folder of its own, with the process's arguments and threads restored after it."""
    monkeypatch.setattr(sys, "argv", ["bitnet-plan"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def planned(capsys: pytest.CaptureFixture[str]):
    """`planned(*arguments)`: exit code and the plan as JSON, without times."""

    def run(*arguments: str) -> tuple[int, dict]:
        capsys.readouterr()
        code = plan.main([*arguments, "--no-measure", "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def texts(whole: dict, kind: str) -> list[str]:
    return [f["text"] for f in whole["flags"] if f["kind"] == kind]


# ----------------------------------------------------------------------------------------------------- the same runs
def test_it_names_the_runs_that_training_makes_and_sees_that_they_are_done(planned):
    command = [*SMALL, "-m", "seed=0,1"]
    _, before = planned(*command)
    assert not Path("outputs").exists()
    assert [r["run_id"] for r in before["runs"]] == [None] * 2  # an id needs the hash of the data
    assert any("not prepared: run ids and earlier results are unknown" in t for t in texts(before, "note"))
    assert train.main(command) == 0
    code, after = planned(*command)
    assert code == 0
    assert [r["state"] for r in after["runs"]] == ["done"] * 2
    made = {p.parent.name.rsplit("-", 1)[1] for p in Path("outputs").glob("*/*/run.json")}
    assert {r["run_id"] for r in after["runs"]} == made
    assert (after["totals"]["to_do"], after["totals"]["tokens"], after["totals"]["disk"]) == (0, 0, 0)


def test_a_note_names_the_runs_that_it_is_about_unless_it_is_about_all(planned):
    assert train.main([*SMALL]) == 0
    _, both = planned(*SMALL, "-m", "data.heldout_tokens=2000,3000")
    _, none = planned(*SMALL, "-m", "data.heldout_tokens=3000,4000")
    arms = [[f["arms"] for f in whole["flags"] if "not prepared" in f["text"]] for whole in (both, none)]
    assert arms == [[[2]], [[]]]


def test_a_run_that_was_stopped_goes_on_from_its_checkpoint(planned):
    assert train.main([*SMALL, "checkpoint.every=8"]) == 0
    (folder,) = (p.parent for p in Path("outputs").glob("*/*/run.json"))
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"status": "queued"}))
    max((folder / "checkpoints").iterdir()).unlink()
    for command in ([*SMALL, "checkpoint.every=8"], [f"resume={folder}"]):
        _, whole = planned(*command)
        (run,) = whole["runs"]
        assert (run["state"], run["done"], run["finished"]) == ("queued, resumes after step 16", 16, False)


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("{", "unreadable (run.json: Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        (None, "unreadable (no run.json)"),
        ('{"schema": 2}', "unreadable (run.json: schema=2, this version reads 1)"),
    ],
)
def test_a_record_that_cannot_be_read_is_said_with_the_reason(planned, text, state):
    assert train.main([*SMALL]) == 0
    (record,) = Path("outputs").glob("*/*/run.json")
    record.unlink() if text is None else record.write_text(text)
    _, whole = planned(*SMALL)
    assert [(r["state"], r["finished"]) for r in whole["runs"]] == [(f"{state}, resumes after step 20", False)]


def test_it_writes_nothing(planned, tmp_path):
    planned(*SMALL, "-m", "seed=0,1")
    assert list(tmp_path.iterdir()) == []


def test_a_named_sweep_shows_its_arms_and_only_what_differs(capsys):
    assert plan.main(["sweeps=quickstart", "steps=200", "--no-measure"]) == 0
    out = capsys.readouterr().out
    common, table = out.split("\n\n")[:2]
    assert "steps=200" in common and "lr=study" in common
    head, _, *rows = table.splitlines()
    assert head.split()[:5] == ["id", "arm", "optimizer", "wd", "seed"]
    assert len(rows) == 9
    assert "halved in stage 2" in rows[1] and "wd005" in rows[1]
    assert "9 runs to train" in out


def test_a_key_that_only_some_arms_type_shows_its_value_in_all(planned, tmp_path):
    (tmp_path / "own" / "sweeps").mkdir(parents=True)
    text = SWEEP.replace("{coupled: optimizer=adam_l2, decoupled: optimizer=adamw}", "{a: '', b: clip.max_norm=3.0}")
    (tmp_path / "own" / "sweeps" / "asked.yaml").write_text(text.replace("  claims: CLAIMS\n", ""))
    _, whole = planned("sweeps=asked", "--config-dir", "own", *SMALL)
    assert [r["settings"]["clip.max_norm"] for r in whole["runs"]] == ["1.0", "3.0"] * 2


# -------------------------------------------------------------------------------------------------- what would go wrong
def test_arms_that_are_the_same_run_are_an_error(planned):
    code, whole = planned(*SMALL, "-m", "wd=paper", "wd.stage2=0.0,0.1,0")
    assert code == 1
    assert texts(whole, "error") == ["arms 1, 3: these resolve to the same run; keep only one of them"]


def test_data_that_ends_before_the_steps_or_the_boundary_do_is_a_note(planned):
    def steps(asked: int) -> tuple[int, str]:
        _, whole = planned(*SMALL, f"steps={asked}")
        (run,) = whole["runs"]
        return run["steps"], " ".join(t for t in texts(whole, "note") if "single pass" in t)

    # 20,000 tokens are 624 windows of 32, so 156 batches of 4
    assert steps(156) == (156, "")
    whole_steps, note = steps(200)
    assert whole_steps == 156 and note and "before stage 2" not in note
    assert "ends at step 156 of 400, before stage 2 begins at step 200" in steps(400)[1]
    assert planned(*SMALL, "steps=400", "stream=shuffled")[1]["runs"][0]["steps"] == 400


def test_what_has_to_fail_later_is_an_error_and_exit_code_1(planned, tmp_path):
    Path("file").write_text("")
    wrong = {
        "device=cuda:9": "device=cuda:9: this machine has",
        "probe.heldout_sequences=999": "probe.heldout_sequences=999: the held-out part has 2000 tokens",
        "batch_size=100000": "batch_size=100000 sequences of seq_len=32 need",
        "out=file/below": f"out={tmp_path}/file/below: can't be written ({tmp_path}/file is a file)",
        "data.cache=file": f"data.cache={tmp_path}/file: can't be written",
    }
    for override, expected in wrong.items():
        code, whole = planned(*SMALL, override)
        assert code == 1 and any(t.startswith(expected) for t in texts(whole, "error")), override


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_an_error(planned):
    Path("shut").mkdir(mode=0o500)
    assert planned(*SMALL, "out=shut/runs")[0] == 1


def test_too_little_memory_and_disk_are_errors(planned, monkeypatch):
    monkeypatch.setattr(cost, "available_memory", lambda device: 1000)
    monkeypatch.setattr(warnings.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    code, whole = planned(*SMALL)
    assert code == 1
    assert any(t.startswith("1 run at once on cpu may need") for t in texts(whole, "error"))
    assert any("needed, 1 kB free" in t for t in texts(whole, "error"))


def test_too_few_seeds_for_declared_claims_say_what_they_allow(planned, tmp_path):
    claim = "{gap: {kind: contrast, says: it does, metric: heldout_loss, margin: 1, expected: lower, "
    claim += "arm: coupled, against: decoupled}}"
    (tmp_path / "own" / "sweeps").mkdir(parents=True)
    (tmp_path / "own" / "sweeps" / "asked.yaml").write_text(SWEEP.replace("CLAIMS", claim))
    command = ["sweeps=asked", "--config-dir", "own", *SMALL]
    note = next(t for t in texts(planned(*command)[1], "note") if t.startswith("seeds"))
    assert "n = 2 (2 arms): only a direction" in note and "n = 6 or more" in note
    assert not any(t.startswith("seeds") for t in texts(planned(*command, "-m", "seed=0,1,2,3,4,5")[1], "note"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["stepz=3"], "did you mean 'steps'"),
        (["wd=a,b"], "wd=a,b: several values make a sweep; add -m"),
        (["--config-dir", "nowhere"], "--config-dir nowhere: no such folder"),
        (["--measure"], "--measure"),
        (["-m", "hydra/sweeper=basic", "seed=0,1"], "a search chooses its runs as it goes"),
        (["data=text", "data.paths=[nowhere.txt]"], "data.paths: there is no file or folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, expected, capsys):
    assert plan.main([*arguments, "--no-measure"]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1


# ---------------------------------------------------------------------------------------------------------- the costs
def small_config(values, *overrides: str):
    return load_config(values(*SMALL, *overrides))


@pytest.mark.parametrize("overrides", [[], ["quant=float", "optimizer=adamw"], ["regularizer=coverage", "model.tied_head=true"]])
def test_parameters_and_checkpoint_are_those_of_the_run(values, overrides, tmp_path):
    config = small_config(values, *overrides)
    make_deterministic(1)
    trainer = build(config, prepare(config.data, config.tokenizer), torch.device("cpu"))
    trainer.update(1)
    written = save(tmp_path, 1, trainer.tensors(), {}, keep=1).stat().st_size
    size = cost.footprint(config, 64)
    assert size.parameters == sum(p.numel() for p in trainer.model.parameters())
    content = sum(t.nbytes for t in trainer.tensors().values())
    assert size.checkpoint == content
    assert content < written < content + 400 * len(trainer.tensors())  # the names of the tensors come on top


def test_memory_counts_weights_gradients_means_and_logits(values):
    size = cost.footprint(small_config(values), 64)
    assert size.memory > 4 * 4 * size.parameters
    wider = cost.footprint(small_config(values, "batch_size=400"), 64)
    # every further sequence keeps at least its fp32 logits
    assert wider.memory - size.memory > (400 - 16) * 32 * 64 * 4


@pytest.mark.parametrize(
    "overrides",
    [["quant=float", "batch_size=1", "seq_len=4"], ["batch_size=1"], ["batch_size=64", "smoothing=ls01", "regularizer=entropy"]],
)
def test_the_dry_step_keeps_alive_what_a_real_one_does(values, overrides):
    config = small_config(values, "model=64", *overrides)
    trainer = build(config, prepare(config.data, config.tokenizer), torch.device("cpu"))
    with cost.LiveBytes([*trainer.model.parameters(), *trainer.model.buffers()]) as live:
        loss, extra = trainer.losses(*trainer.batch(1))
        (loss if extra is None else loss + extra).backward()
    with torch.device("meta"):
        model = BitNet(config.model, config.quant, 64, max(config.seq_len, config.probe.context_length))
    # the CPU has an attention of its own that keeps less, and batches come from outside of torch
    assert cost.peak_of_a_step(model, config, 64, {}) == pytest.approx(live.peak, rel=0.1)


def test_live_bytes_follow_what_is_alive():
    known = torch.zeros(10)
    with cost.LiveBytes([known]) as live:
        a = torch.zeros(100)
        a = a * 2  # both alive for a moment
        del a
        view = torch.zeros(50).view(5, 10)
        assert view is not None
    assert (live.now, live.peak) == (40 + 200, 40 + 800)


def test_evaluations_are_counted_as_the_loop_makes_them():
    speed = cost.Speed(step=0.0, evaluation=1.0)
    for first, last, every in [(0, 20, 5), (0, 20, 6), (0, 20, 1), (7, 20, 6), (6, 20, 6), (0, 1, 1000)]:
        made = [s for s in range(first + 1, last + 1) if s == 1 or s % every == 0 or s == last]
        assert speed.seconds(first, last, every) == len(made), (first, last, every)


def test_one_measurement_serves_all_runs_of_a_shape(monkeypatch, capsys):
    seen = []

    def measure(config, vocab_size, device, threads):
        seen.append(config.model.hidden_size)
        return cost.Speed(step=1.0, evaluation=10.0)

    monkeypatch.setattr(cost, "measure", measure)
    arguments = [*SMALL, "-m", "model=tiny,64", "seed=0,1", "eval_every=10", "--json"]
    assert plan.main(arguments) == 0
    whole = json.loads(capsys.readouterr().out)
    assert len(seen) == 2
    assert [r["seconds"] for r in whole["runs"]] == [20 + 3 * 10.0] * 4  # evaluations at 1, 10 and 20
    assert (whole["totals"]["seconds"], whole["totals"]["seconds_at_once"]) == (200.0, 200.0)


def test_a_measurement_gives_times(values):
    speed = cost.measure(small_config(values), 64, torch.device("cpu"), 1)
    assert speed.step > 0 and speed.evaluation > 0


def test_runs_start_as_soon_as_a_place_is_free():
    assert makespan([WorkItem(s) for s in (3, 1, 1, 1)], 2) == 3
    assert makespan([WorkItem(s) for s in (1, 1, 3)], 2) == 4
    assert makespan([], 2) == 0


def test_a_run_that_goes_on_from_another_one_waits_for_it():
    assert makespan([WorkItem(4), WorkItem(2, 0, 2)], 2) == 4
    assert makespan([WorkItem(4), WorkItem(3, 0, 2), WorkItem(2)], 2) == 5  # the third goes while the second waits
    assert makespan([WorkItem(4), WorkItem(2, 0, 2), WorkItem(2, 0, 2)], 2) == 6
    assert makespan([WorkItem(4), WorkItem(2, 0, 2)], 1) == 6


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as ended:
        plan.main(["--help"])
    assert ended.value.code == 0
    assert f"{command_name('plan')} sweeps=quickstart" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        (
            "{kind: contrast, says: x, metric: heldout_loss, arm: {arm: a, quant: bf16}, against: b, expected: lower, margin: 1}",
            ["claims about runs that are not part of this command: c.arm (arm=a, quant=bf16); they will be inconclusive"],
        ),
        (
            "{kind: bound, says: x, metric: heldout_loss, arm: a, expected: at_most, bound: 1, at: 5000}",
            ["claims about steps after the last one (", "): c; they will be inconclusive"],
        ),
    ],
)
def test_claims_about_what_is_not_asked_for_are_told_before_anything_is_trained(tmp_path, capsys, claim, said):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(
        "# @package _global_\nsweep:\n  name: mine\n  question: x\n  arms: {a: wd=paper, b: wd=wd005}\n"
        f"  claims: {{c: {claim}}}\n"
    )
    assert plan.main([*SMALL, "sweeps=mine", f"--config-dir={tmp_path}", "--no-measure"]) == 0
    told = capsys.readouterr().err
    assert all(text in told for text in said)


def test_a_claim_that_compares_numbers_of_two_kinds_is_told_before_anything_is_trained(tmp_path, capsys):
    (tmp_path / "sweeps").mkdir()
    sides = "arm: a, against: b, expected: lower, margin: 1"
    (tmp_path / "sweeps" / "mine.yaml").write_text(
        "# @package _global_\nsweep:\n  name: mine\n  question: x\n"
        "  arms: {a: probe.contexts=10, b: probe.contexts=20}\n  claims:\n"
        f"    counts: {{kind: contrast, says: x, metric: contexts_uniq, {sides}}}\n"
        f"    losses: {{kind: contrast, says: x, metric: heldout_loss, {sides}}}\n"
    )
    small = [given for given in SMALL if not given.startswith("probe.contexts")]
    assert plan.main([*small, "sweeps=mine", f"--config-dir={tmp_path}", "--no-measure"]) == 0
    told = capsys.readouterr().err
    assert "claim counts: the sides have contexts_uniq at different probe.contexts (10, 20)" in told
    assert "claim losses" not in told

"""The training command as its users type it: arms, sweeps, records, resumption, and what happens to bad input."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small
import yaml
from real_runs import record
from run_folders import metrics as rows

from bitnet import train
from bitnet.cli.overrides import groups
from bitnet.common.paths import PACKAGE, share
from bitnet.runs.columns import COLUMNS
from bitnet.training import checkpoint

SMALL = [*small.SMALL, *small.FEW_PROBES, "launcher=serial"]
TINY = [*SMALL, "model=tiny", "steps=2"]


@pytest.fixture(autouse=True)
def command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test in a folder of its own, with the process's arguments restored after it."""
    monkeypatch.setattr(sys, "argv", ["bitnet-train"])
    monkeypatch.chdir(tmp_path)


def run_folders(out: str = "outputs") -> list[Path]:
    return sorted(p.parent for p in Path(out).glob("*/*/run.json"))


def the_run(*arguments: str) -> Path:
    """Run one arm to its end and return its folder."""
    before = set(run_folders())
    assert train.main(list(arguments)) == 0
    (folder,) = set(run_folders()) - before
    return folder


# ------------------------------------------------------------------------------------------------ what a run leaves
def test_a_run_leaves_its_record():
    folder = the_run(*SMALL, "model=tiny", "steps=25", "eval_every=10")
    run = record(folder)
    assert (run["status"], run["step"], run["reason"]) == ("done", 25, None)
    assert folder.name.endswith(run["id"]) and folder.name.startswith("data=synthetic")
    assert run["data"]["ln_vocab"] == pytest.approx(4.1589, abs=1e-4)
    assert run["parameters"]["total"] == sum(v for k, v in run["parameters"].items() if k != "total")
    assert yaml.safe_load((folder / "config.yaml").read_text())["lr"]["warmup_steps"] == 0
    header = (folder / "metrics.csv").read_text().splitlines()[0]
    assert header.split(",") == list(COLUMNS)
    assert [r["Step"] for r in rows(folder)] == ["1", "10", "20", "25"]
    first = rows(folder)[0]
    assert [len(first[c].split(".")[1]) for c in ("Loss", "LR", "WD")] == [4, 6, 2]
    wider = {f"{kind}_uniq_{n}" for kind in ("random", "text") for n in (200, 2000)}  # than probe.many_contexts=20
    assert {c for c in COLUMNS if not first[c]} == {"regularizer_loss"} | wider
    assert {n.split("_", 1)[1] for n in COLUMNS if n.startswith("greedy_")} == run["heldout_text"].keys()
    assert all(isinstance(v, float) for v in run["heldout_text"].values())
    assert len(list((folder / "checkpoints").iterdir())) == 1


def test_a_float_model_has_no_ternary_columns():
    row = rows(the_run(*TINY, "quant=float"))[-1]
    ternary = ("ternary_neg", "ternary_zero", "ternary_pos", "flip_rate", "outside_codes")
    assert [row[c] for c in (*ternary, "outside_scaled_attention", "outside_scaled_ffn")] == [""] * 7
    assert row["outside_latents"] != ""


def test_probe_contexts_are_fixed_and_shared_by_arms_unless_redrawn():
    fixed = [rows(the_run(*TINY, "lr.peak=1e-9", "eval_every=1", a)) for a in ("wd=paper", "wd=none")]
    redrawn = rows(the_run(*TINY, "steps=12", "lr.peak=1e-9", "eval_every=1", "probe.redraw=true"))
    assert {r["UniquePredictions"] for arm in fixed for r in arm} == {fixed[0][0]["UniquePredictions"]}
    assert len({r["UniquePredictions"] for r in redrawn}) > 1


def test_metric_b_is_the_first_training_batch():
    row = rows(the_run(*TINY, "probe.metric=first_batch"))[-1]
    assert row["UniquePredictions"] == row["first_batch_uniq"] and row["first_batch_positions"] == "128"


def test_the_study_runs_its_first_update_at_the_full_peak_and_the_others_one_step_late():
    study = rows(the_run(*TINY, "steps=40", "lr.warmup_steps=10", "eval_every=1"))
    assert float(study[0]["lr_applied"]) == 1.5e-3 and float(study[0]["LR"]) == pytest.approx(1.5e-4)
    assert [r["lr_applied"] for r in study[1:]] != [r["LR"] for r in study[1:]]
    # the boundary: WD reads 0 at step 20, and the update of step 21 is the first to use it
    assert [r["WD"] for r in study[18:20]] == ["0.10", "0.00"]
    assert [float(r["wd_applied"]) for r in study[18:21]] == [0.1, 0.1, 0.0]
    exact = rows(the_run(*TINY, "steps=40", "lr.warmup_steps=10", "eval_every=1", "schedule_lag=0"))
    assert float(exact[0]["lr_applied"]) == pytest.approx(1.5e-4)


def test_the_single_pass_ends_the_run_and_says_so(capfd):
    folder = the_run(*SMALL, "model=tiny", "data.tokens=1300", "steps=50")
    assert "a single pass over this data is 10 steps of 50" in capfd.readouterr().err
    assert record(folder)["status"] == "done" and record(folder)["step"] == 10
    assert "single pass" in record(folder)["reason"] and rows(folder)[-1]["Step"] == "10"
    assert rows(the_run(*SMALL, "model=tiny", "data.tokens=1300", "steps=50", "data.at_end=repeat"))[-1]["Step"] == "50"


def test_a_loss_that_is_not_finite_ends_the_run_as_diverged_at_its_step():
    folder = the_run(*TINY, "steps=200", "eval_every=1", "lr.peak=1e30", "clip=none", "optimizer=adamw")
    run = record(folder)
    assert run["status"] == "diverged" and str(run["step"]) in run["reason"]
    last = rows(folder)[-1]
    assert int(last["Step"]) <= run["step"] < 200
    assert (last["Loss"], last["heldout_loss"], last["UniquePredictions"]) == ("4.1589", "", "")
    assert "nan" not in (folder / "metrics.csv").read_text().lower()


@pytest.mark.parametrize("arm", ["seed=0", "quant=bf16", "model.output_scale=0.5", "optimizer.reset_at=0.5"])
def test_training_learns_the_entropy_of_its_source(arm):
    options = ["recipe=modern", "precision=fp32", "batch_size=16", "seq_len=32", "lr.peak=5e-3", "data.branching=2"]
    last = rows(the_run(*SMALL, "model=tiny", "steps=300", "eval_every=300", *options, arm))[-1]
    assert float(last["heldout_loss"]) < 1.5  # of 4.16 for a uniform guess; the best possible is ln 2 = 0.69


# ------------------------------------------------------------------------------------------------- what people may read
def samples(folder: Path) -> dict:
    return json.loads((folder / "samples.json").read_text())


def test_continuations_are_kept_as_text(tmp_path):
    text = text_file(tmp_path / "text.txt", 2000)
    small = ["data=text", f"data.paths=[{text}]", "tokenizer.vocab_size=280", "model=tiny", "threads=1"]
    folder = the_run(*small, "steps=2", "probe.heldout_sequences=4", "probe.prompts=3")
    kept = samples(folder)
    assert kept["step"] == 2 and [s.keys() for s in kept["samples"]] == [{"prompt", "greedy", "sampled", "heldout"}] * 2
    written = "".join(text.read_text().split())
    for sample in kept["samples"]:
        held = "".join((sample["prompt"] + sample["heldout"]).replace("<|endoftext|>", "").split())
        assert len(held) > 64 and held in written
        assert sample["greedy"] and sample["sampled"]


def test_without_prompts_there_are_no_samples():
    folder = the_run(*TINY, "probe.prompts=0", "probe.many_contexts=0")
    assert samples(folder) == {"step": 2, "samples": []} and record(folder)["heldout_text"] == {}
    assert rows(folder)[-1]["greedy_diversity"] == rows(folder)[-1]["random_uniq_20"] == ""


# ------------------------------------------------------------------------------------------------ forgetting half-way
EACH_STEP = [*TINY, "steps=8", "eval_every=1", "probe.prompts=0", "probe.many_contexts=0", "wd=paper", "optimizer.reset_at=0.5"]


@pytest.mark.parametrize(("kind", "lag", "first_of_stage_2"), [("adam_l2", 1, 5), ("adamw", 1, 5), ("adamw", 0, 4)])
def test_the_optimizer_forgets_at_the_update_that_first_uses_the_values_of_stage_2(kind, lag, first_of_stage_2):
    arguments = [*EACH_STEP, f"schedule_lag={lag}", f"optimizer={kind}"]
    folders = [the_run(*arguments, *arm) for arm in (["optimizer.reset_at=null"], [])]
    kept, forgot = map(rows, folders)
    assert [float(r["wd_applied"]) == 0 for r in forgot].index(True) + 1 == first_of_stage_2
    before = first_of_stage_2 - 1
    assert forgot[:before] == kept[:before]
    # the batch is the same and so are the weights; what the update makes of them is not
    assert forgot[before]["train_loss"] == kept[before]["train_loss"]
    assert forgot[before]["heldout_loss"] != kept[before]["heldout_loss"]
    counted = [checkpoint.newest(f / "checkpoints", print).below("optimizer")["0/step"] for f in folders]
    assert counted == [8, 8 - before]  # and once only


@pytest.mark.parametrize("broken_at", [5, 6])
def test_a_run_that_forgets_goes_on_with_the_same_bits(broken_at, monkeypatch):
    """Resumed with the update that forgets (5), and with the one after it; both load what the step before saved."""
    arguments = [*EACH_STEP, "checkpoint.every=1"]
    assert train.main([*arguments, "out=calm"]) == 0
    (calm,) = run_folders("calm")
    with monkeypatch.context() as broken:
        break_at(broken_at, broken)
        with pytest.raises(SystemExit):
            train.main(arguments)
    (folder,) = run_folders()
    assert record(folder)["status"] == "failed" and rows(folder)[-1]["Step"] == str(broken_at - 1)
    assert train.main(arguments) == 0
    assert record(folder)["sessions"][-1]["after_step"] == broken_at - 1
    assert results(folder) == results(calm)


def break_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the update of a step fail."""
    from bitnet.training.loop import Trainer

    real = Trainer.update

    def update(self: Trainer, now: int):
        if now == step:
            raise RuntimeError("broken on purpose")
        return real(self, now)

    monkeypatch.setattr(Trainer, "update", update)


def test_samples_outlive_a_stop_and_end_as_in_a_run_without_one(monkeypatch):
    arguments = [*TINY, "steps=12", "eval_every=5", "checkpoint.every=1"]
    assert train.main([*arguments, "out=calm"]) == 0
    (calm,) = run_folders("calm")
    with monkeypatch.context() as broken:
        break_at(8, broken)
        with pytest.raises(SystemExit):
            train.main(arguments)
    (folder,) = run_folders()
    assert samples(folder)["step"] == 5
    assert train.main(arguments) == 0
    assert samples(folder) == samples(calm) and samples(calm)["step"] == 12


GOLDEN = Path(__file__).parent / "golden_losses.json"


@pytest.mark.parametrize("arm", ["adam_l2", "adamw"])
def test_the_loss_curve_has_not_changed(arm):
    """Losses of the study recipe, recorded once; a change of the maths, the data or the seeds shows here."""
    folder = the_run(*SMALL, "model=tiny", "steps=40", "eval_every=1", f"optimizer={arm}")
    measured = [float(r["train_loss"]) for r in rows(folder)]
    assert measured == pytest.approx(json.loads(GOLDEN.read_text())[arm], abs=2e-4)


# --------------------------------------------------------------------------------------- every option, every sweep
def tokenizer_folder(folder: Path) -> Path:
    """A small byte-level BPE in GPT-2's file format."""
    from tokenizers import ByteLevelBPETokenizer

    folder.mkdir()
    tokenizer = ByteLevelBPETokenizer()
    lines = ["the cat sat on the mat and the dog sat on the log"] * 50
    tokenizer.train_from_iterator(lines, 300, special_tokens=["<|endoftext|>"])
    tokenizer.save_model(str(folder))
    return folder


def text_file(path: Path, lines: int = 400) -> Path:
    words = random.Random(0)
    vocabulary = ["the", "cat", "dog", "mat", "log", "sat", "on", "and", "saw", "a", "red", "big", "of", "in"]
    path.write_text("\n".join(" ".join(words.choices(vocabulary, k=12)) for _ in range(lines)) + "\n")
    return path


OPTIONS = [(g, o) for g, options in groups().items() if g != "sweeps" for o in options]
OPTIONS.remove(("launcher", "slurm"))  # it submits sweeps only


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda v: str(v))
def test_every_option_trains(group, option, tmp_path, monkeypatch):
    arguments = [*TINY, f"{group}={option}"]
    if group == "recipe":
        arguments += ["batch_size=2", "seq_len=32"]
    if group == "model":
        arguments = [*SMALL, "steps=2", f"model={option}"]
    if group == "scale":
        arguments += ["tokenizer=none"]  # beside the synthetic data
    if group in {"data", "tokenizer"} and option not in {"synthetic", "none"}:
        text = text_file(tmp_path / "text.txt")
        arguments = ["model=tiny", "steps=2", "threads=1", "probe.heldout_sequences=4"]
        if option.startswith("wikitext"):
            fake_hub(monkeypatch, text)
        arguments += [f"data={option}"] if group == "data" else ["data=text", f"tokenizer={option}"]
        if group == "tokenizer" or option == "text":
            arguments += [f"data.paths=[{text}]"]
        if option == "pydocs":
            arguments += ["data.max_bytes=300000"]
        gpt2 = option == "gpt2"
        arguments += [f"tokenizer.path={tokenizer_folder(tmp_path / 'gpt2')}"] if gpt2 else ["tokenizer.vocab_size=280"]
    folder = the_run(*arguments)
    assert record(folder)["status"] == "done" and record(folder)["choices"][group] == option
    assert len(rows(folder)) == 2


def fake_hub(monkeypatch: pytest.MonkeyPatch, text: Path) -> None:
    """A hub that serves the lines of a file as every split."""
    import datasets

    lines = datasets.Dataset.from_dict({"text": text.read_text().splitlines(keepends=True)})
    splits = datasets.DatasetDict({"train": lines, "validation": lines})
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: splits)
    monkeypatch.setattr("bitnet.data.hub.hub_unreachable", lambda: None)


@pytest.mark.parametrize("name", [s for s in groups()["sweeps"] if s != "investigation"])
def test_every_named_sweep_trains(name):
    """All of its arms at the smallest scale, with one seed."""
    assert train.main([f"sweeps={name}", "scale=ci", "seed=1", "eval_every=10"]) == 0
    described = yaml.safe_load((share() / "sweeps" / f"{name}.yaml").read_text())["sweep"]
    folders = run_folders()
    axes = [described.get("arms", [None]) or [None], *described.get("grid", {}).values()]
    assert len(folders) == math.prod(map(len, axes))
    assert {f.parent.name for f in folders} == {name} == {record(f)["sweep"] for f in folders}
    assert {record(f)["status"] for f in folders} == {"done"}
    assert {record(f)["seed"] for f in folders} == {1}


def test_the_users_command_gives_eight_runs(capfd):
    arguments = ["-m", "model=256,512,768,1024", "wd=paper,wd005", *SMALL, "steps=1", "model.num_layers=1"]
    assert train.main(arguments) == 0
    runs = [record(f) for f in run_folders()]
    assert {(r["choices"]["model"], r["choices"]["wd"]) for r in runs} == {
        (m, w) for m in ("256", "512", "768", "1024") for w in ("paper", "wd005")
    }
    assert train.main(arguments) == 0
    assert "8 of them finished before" in capfd.readouterr().err
    assert len(run_folders()) == 8


def test_the_command_line_beats_the_sweep_file():
    assert train.main(["sweeps=phase5_scaling", *SMALL, "steps=3", "model=64", "seed=5"]) == 0
    (folder,) = run_folders()
    run = record(folder)
    assert (run["steps"], run["choices"]["model"], run["seed"], run["arm"]) == (3, "64", 5, "weight decay off in stage 2")


def test_recipes_give_way_to_what_is_typed():
    folder = the_run(*TINY, "recipe=faq", "lr=study", "optimizer.decay_scope=matrices")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["lr"]["kind"] == "two_stage_linear" and config["optimizer"]["kind"] == "adamw"
    assert config["optimizer"]["decay_scope"] == "matrices" and config["model"]["norm_placement"] == "bitlinear"


def test_two_arms_that_are_one_run_are_refused(capfd):
    assert train.main(["-m", "wd=paper,paper", *TINY]) == 2
    assert "two arms of the sweep resolve to the same run" in capfd.readouterr().err
    assert run_folders() == [] and not list(Path("outputs").glob(".data/*"))  # said before any data is prepared


def test_two_spellings_of_the_same_data_are_one_run(capfd, tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("the same words once more, and then again\n" * 300)
    data = ["data=text", "data.paths=[a.txt],[b.txt]", "tokenizer=bpe", "tokenizer.vocab_size=270", "probe.heldout_sequences=2"]
    assert train.main(["-m", *data, "model=tiny", "steps=2", "threads=1"]) == 2
    assert "two arms of the sweep resolve to the same run" in capfd.readouterr().err


def test_a_failing_arm_leaves_the_others_and_gives_exit_code_1(monkeypatch):
    from bitnet.training.loop import Trainer

    real = Trainer.update

    def update(self: Trainer, step: int):
        if self.clip.max_norm is None:
            raise RuntimeError("broken on purpose")
        return real(self, step)

    monkeypatch.setattr(Trainer, "update", update)
    with pytest.raises(SystemExit) as ended:
        train.main(["-m", "clip=none,norm1", *TINY])
    assert ended.value.code == 1
    statuses = {r["choices"]["clip"]: (r["status"], r["reason"]) for r in map(record, run_folders())}
    assert statuses == {"none": ("failed", "RuntimeError: broken on purpose"), "norm1": ("done", None)}
    monkeypatch.undo()
    assert train.main(["-m", "clip=none,norm1", *TINY]) == 0


# --------------------------------------------------------------------------------------------------------- bad input
BAD = {
    "unknown group": (["modle=256"], "did you mean 'model'"),
    "unknown option": (["model=257"], "did you mean '256'"),
    "unknown sweep": (["sweeps=quickstrat"], "did you mean 'quickstart'"),
    "unknown key": (["stepz=3"], "did you mean 'steps'"),
    "unknown nested key": (["lr.peek=3"], "did you mean 'lr.peak'"),
    "added key": (["+lr.peek=3"], "lr.peek"),
    "wrong type": (["steps=many"], "steps='many'"),
    "truth value": (["steps=true"], "steps=True"),
    "zero steps": (["steps=0"], "steps=0"),
    "negative steps": (["steps=-5"], "steps=-5"),
    "unknown kind": (["optimizer.kind=sgd"], "adam_l2"),
    "warm-up": (["lr.warmup_steps=2"], "lr.warmup_steps=2"),
    "heads": (["model.num_heads=5"], "model.num_heads=5 does not divide model.hidden_size=32"),
    "kv heads": (["model.num_heads=4", "model.num_kv_heads=3"], "model.num_kv_heads=3"),
    "sequence": (["seq_len=50000"], "seq_len=50000"),
    "held-out": (["probe.heldout_sequences=5000"], "probe.heldout_sequences=5000"),
    "no file": (["data=text", "tokenizer=bpe", "data.paths=[gone.txt]"], "gone.txt"),
    "no paths": (["data=text", "tokenizer=bpe"], "data.paths"),
    "empty file": (["data=text", "tokenizer=bpe", "data.paths=[empty.txt]"], "empty.txt"),
    "not text": (["data=text", "tokenizer=bpe", "data.paths=[binary.txt]"], "binary.txt"),
    "tokenizer": (["data=text", "tokenizer=gpt2", "tokenizer.path=here", "data.paths=[text.txt]"], "here"),
    "cuda": (["device=cuda:7"], "device=cuda:7"),
    "device": (["device=tpu0"], "device=tpu0"),
    "out": (["out=empty.txt"], "out="),
    "tokenizer for synthetic": (["tokenizer=bpe"], "tokenizer=bpe"),
    "comma without -m": (["wd=paper,none"], "-m"),
    "two sweeps": (["sweeps=phase_five,quickstart"], "phase_five: no such option"),
    "resume nowhere": (["resume=nowhere"], "resume="),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_code_2(name, capfd):
    Path("empty.txt").touch()
    Path("binary.txt").write_bytes(bytes(range(256)) * 10)
    Path("here").mkdir()
    text_file(Path("text.txt"))
    arguments, expected = BAD[name]
    try:
        code = train.main([*(TINY if "data=text" not in arguments else ["model=tiny", "steps=2"]), *arguments])
    except SystemExit as ended:
        code = ended.code
    errors = capfd.readouterr().err.splitlines()
    assert code == 2
    assert [line for line in errors if not line.startswith(("data: ", "note: "))] == errors[-1:]
    assert errors[-1].startswith("error: ") and expected in errors[-1]
    assert run_folders() == []


# ---------------------------------------------------------------------------------------------------------- resuming
LONG = [*SMALL, "model=tiny", "steps=400", "eval_every=20", "checkpoint.every=30"]


def spawn(*arguments: str) -> subprocess.Popen:
    path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "bitnet.train", *arguments],
        env=os.environ | {"PYTHONPATH": path},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def interrupt_after(process: subprocess.Popen, evaluations: int, number: signal.Signals, out: str = "outputs") -> str:
    """Send a signal once that many evaluations are on disk; returns what was printed."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        done = [f for f in Path(out).glob("*/*/metrics.csv") if len(f.read_text().splitlines()) > evaluations]
        if done:
            process.send_signal(number)
            break
        time.sleep(0.002)
    return process.communicate(timeout=60)[1]


def results(folder: Path) -> tuple[str, list[str]]:
    """What must be equal to the bit: every metric, and the checkpoint, whose name carries its content's hash."""
    return (folder / "metrics.csv").read_text(), sorted(p.name for p in (folder / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def calm_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LONG, which nothing disturbed."""
    out = tmp_path_factory.mktemp("calm")
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(sys, "argv", ["bitnet-train"])
        assert train.main([*LONG, f"out={out}"]) == 0
    (folder,) = run_folders(str(out))
    return folder


STATEFUL = ["optimizer=adamw", "regularizer=coverage", "data.order=random", "probe.redraw=true"]


@pytest.mark.parametrize("arm", [["optimizer=adam_l2"], STATEFUL], ids=["study", "stateful"])
def test_killed_at_any_step_it_goes_on_with_the_same_bits(arm):
    assert train.main([*LONG, *arm, "out=calm"]) == 0
    (calm,) = run_folders("calm")
    undisturbed = results(calm)
    for evaluations in random.Random(1).sample(range(2, 19), 2):
        interrupt_after(spawn(*LONG, *arm), evaluations, signal.SIGKILL)
    (folder,) = run_folders()
    assert record(folder)["status"] == "running"
    assert train.main([*LONG, *arm]) == 0
    assert record(folder)["status"] == "done"
    assert results(folder) == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_asked_to_stop_it_saves_and_can_go_on(number, calm_run):
    process = spawn(*LONG)
    said = interrupt_after(process, 5, number)
    (folder,) = run_folders()
    stopped = record(folder)
    assert process.returncode == 130 and stopped["status"] == "queued" and 80 <= stopped["step"] < 400
    assert f"stopped at step {stopped['step']}, saved" in said
    assert any(f"{stopped['step']:08d}" in p.name for p in (folder / "checkpoints").iterdir())
    assert train.main([f"resume={folder}"]) == 0
    assert results(folder) == results(calm_run)


@pytest.fixture(scope="module")
def killed_early(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `outputs` of a run that was killed early, with two checkpoints."""
    folder = tmp_path_factory.mktemp("killed")
    with pytest.MonkeyPatch.context() as patches:
        patches.chdir(folder)
        interrupt_after(spawn(*LONG), 8, signal.SIGKILL)
        (run,) = run_folders()
        assert len(list((run / "checkpoints").iterdir())) >= 2
    return folder / "outputs"


@pytest.fixture
def stopped_run(killed_early) -> Path:
    """A copy of that run, the test's own."""
    shutil.copytree(killed_early, "outputs")
    (folder,) = run_folders()
    return folder


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "remove"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(stopped_run, calm_run, damage, capfd):
    before, newest = sorted((stopped_run / "checkpoints").iterdir())[-2:]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    match damage:
        case "truncate":
            newest.write_bytes(content[: len(content) // 2])
        case "flip":
            newest.write_bytes(content)
        case "empty":
            newest.write_bytes(b"")
        case "remove":
            newest.unlink()
    assert train.main(LONG) == 0
    said = capfd.readouterr().err
    assert (f"checkpoint {newest.name} is damaged" in said) == (damage != "remove")
    assert f"resuming after step {int(before.name[5:13])}" in said
    assert (stopped_run / "metrics.csv").read_text() == (calm_run / "metrics.csv").read_text()


def test_resuming_with_a_changed_config_is_refused(stopped_run, capfd):
    with pytest.raises(SystemExit) as ended:
        train.main([f"resume={stopped_run}", "steps=500"])
    assert ended.value.code == 2
    assert "steps=500" in capfd.readouterr().err
    config = stopped_run / "config.yaml"
    config.write_text(config.read_text().replace("steps: 400", "steps: 500"))
    with pytest.raises(SystemExit) as ended:
        train.main([f"resume={stopped_run}"])
    assert ended.value.code == 2
    assert "config.yaml was changed" in capfd.readouterr().err


@pytest.mark.parametrize("typed", ["threads=7", "out=elsewhere", "overwrite=true", "wd=none"])
def test_what_a_resumed_run_can_not_change_is_refused(stopped_run, typed, capfd):
    with pytest.raises(SystemExit) as ended:
        train.main([f"resume={stopped_run}", typed])
    assert ended.value.code == 2 and typed.split("=")[0] in capfd.readouterr().err


def test_where_a_resumed_run_computes_and_how_often_it_saves_can_change(stopped_run, capfd):
    with pytest.raises(SystemExit):
        train.main([f"resume={stopped_run}", "device=cuda:7"])
    assert "device=cuda:7" in capfd.readouterr().err
    assert train.main([f"resume={stopped_run}", "device=cpu", "checkpoint.every=100"]) == 0
    assert yaml.safe_load((stopped_run / "config.yaml").read_text())["checkpoint"]["every"] == 100
    assert [s["after_step"] > 0 for s in record(stopped_run)["sessions"]] == [False, True]


def test_a_run_that_has_begun_keeps_its_tokens_and_its_paths(tmp_path, monkeypatch):
    text_file(Path("text.txt"), 2000)
    small = ["data=text", "data.paths=[text.txt]", "tokenizer.vocab_size=280", "model=tiny", "probe.heldout_sequences=4"]
    small += ["threads=1", "steps=150", "eval_every=5", "checkpoint.every=10"]
    interrupt_after(spawn(*small), 5, signal.SIGKILL)
    (folder,) = run_folders()
    Path("text.txt").write_text("another text altogether\n" * 500)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert train.main([f"resume={tmp_path / folder}"]) == 0
    assert record(tmp_path / folder)["status"] == "done"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_resuming_with_other_data_is_refused(capfd, tmp_path):
    text = text_file(tmp_path / "text.txt", 2000)
    arguments = ["data=text", f"data.paths=[{text}]", "tokenizer.vocab_size=280", "model=tiny", "probe.heldout_sequences=4"]
    arguments += ["threads=1", "steps=150", "eval_every=5", "checkpoint.every=10"]
    interrupt_after(spawn(*arguments), 5, signal.SIGKILL)
    (folder,) = run_folders()
    text.write_text(text.read_text().replace("cat", "cow"))
    shutil.rmtree("outputs/.data")  # the tokens that it began with are gone, so they have to be made again
    with pytest.raises(SystemExit) as ended:
        train.main([f"resume={folder}"])
    assert ended.value.code == 2
    assert "the data is not what this run was begun with" in capfd.readouterr().err


def test_a_finished_run_is_skipped_and_repeated_when_asked(capfd):
    folder = the_run(*TINY)
    first = (folder / "metrics.csv").stat().st_mtime_ns, results(folder)
    assert train.main(TINY) == 0
    assert "finished before" in capfd.readouterr().err
    assert (folder / "metrics.csv").stat().st_mtime_ns == first[0]
    assert train.main([*TINY, "overwrite=true"]) == 0
    assert (folder / "metrics.csv").stat().st_mtime_ns != first[0] and results(folder) == first[1]


def test_the_same_run_in_another_process_is_refused(capfd):
    process = spawn(*LONG, "steps=5000")
    while not list(Path("outputs").glob("*/*/metrics.csv")):
        time.sleep(0.01)
        assert process.poll() is None
    with pytest.raises(SystemExit) as ended:
        train.main([*LONG, "steps=5000"])
    assert ended.value.code == 2
    assert "another process is working on this run" in capfd.readouterr().err
    process.kill()
    process.communicate()


# ------------------------------------------------------------------------------------------------------------- places
def test_names_in_overrides_stay_inside_out(tmp_path):
    folder = tmp_path / "a, b=.. c" / ("x" * 200)
    folder.mkdir(parents=True)
    text = shutil.copy(text_file(tmp_path / "text.txt"), folder / "t.txt")
    small = ["tokenizer.vocab_size=280", "model=tiny", "steps=2", "threads=1", "probe.heldout_sequences=4"]
    run = the_run("data=text", f"data.paths=['{text}']", *small)
    assert run.resolve().parents[1] == (tmp_path / "outputs").resolve()
    assert len(run.name) < 120


def test_help_names_groups_sweeps_and_keys(capsys):
    assert train.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in [*groups(), *groups()["sweeps"], "eval_every", "python -m bitnet.train -m model=256,512,768,1024 wd=paper,wd005"]:
        assert name in text

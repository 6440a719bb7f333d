"""The command lines' corners: what is refused and in which words, flags in any order, failures and interruptions."""

from __future__ import annotations

import ast
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins
from real_runs import exit_code

from bitnet import plan, prepare, report, train
from bitnet.cli import compose
from bitnet.cli.overrides import groups, normalise
from bitnet.common.paths import PACKAGE
from bitnet.data import prepared
from bitnet.sweep import controller, single

TINY = ["data=synthetic", "data.tokens=20000", "data.heldout_tokens=2000", "data.vocab_size=64", "model=tiny", "steps=2"]
TINY += ["probe.heldout_sequences=4", "threads=1", "launcher=serial"]


@pytest.fixture(autouse=True)
def command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Each test in a folder of its own; what a command leaves in the process (arguments, environment, logging) is undone."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers.clear()  # those of another file's tests write into streams that are gone
    monkeypatch.setattr(sys, "argv", ["bitnet-train"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(single, "FULL_ERROR", False)
    monkeypatch.chdir(tmp_path)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def runs() -> list[dict]:
    return [json.loads(p.read_text()) for p in sorted(Path().glob("*/*/*/run.json"))]


def listed(group: str) -> str:
    return f"one option of the group is needed; allowed are {', '.join(groups()[group])}"


# ---------------------------------------------------------------------------------- what is refused, in which words
QUOTE = "can't be swept; run once for each, or quote a path with a comma: \"'A,B'\""
SWEEP_OR_LIST = "several values make a sweep; add -m, or write"
REFUSED = {
    # paths can't be swept, and a sweep can't go on with one run
    ("-m", "out=a,b"): f"out=a,b: {QUOTE}",
    ("-m", "data.cache=a,b"): f"data.cache=a,b: {QUOTE}",
    ("-m", "tokenizer.path=a,b"): f"tokenizer.path=a,b: {QUOTE}",
    ("sweeps=quickstart", "out=a,b"): f"out=a,b: {QUOTE}",
    ("-m", "resume=a,b"): "resume=a,b: resume= continues one run, -m starts a sweep; use only one of them",
    ("seed=1,2", "resume=R", "--multirun"): "resume=R: resume= continues one run, -m starts a sweep; use only one of them",
    (
        "resume=R",
        "sweeps=quickstart",
    ): "resume=R: resume= continues one run, sweeps=quickstart starts a sweep; use only one of them",
    (
        "resume=R",
        "hydra.mode=MULTIRUN",
    ): "resume=R: resume= continues one run, hydra.mode=MULTIRUN starts a sweep; use only one of them",
    ("out=",): "out=: a path is needed",
    ("resume=''",): "resume='': a path is needed",
    # one option of each group
    ("model=null",): f"model=null: {listed('model')}",
    ("lr=",): f"lr=: {listed('lr')}",
    ("recipe=Null",): f"recipe=Null: {listed('recipe')}",
    ("lr=[study,faq]",): f"lr=[study,faq]: {listed('lr')}",
    ("lr={a: 1}",): f"lr={{a: 1}}: {listed('lr')}",
    ("-m", "wd=paper,null"): f"wd=paper,null: {listed('wd')}",
    ("lr=0.001",): f"lr=0.001: no such option; allowed are {', '.join(groups()['lr'])}",
    ("wd=true",): f"wd=true: no such option; allowed are {', '.join(groups()['wd'])}",
    ("model=-1",): f"model=-1: no such option; allowed are {', '.join(groups()['model'])}",
    # flags
    ("--cgf", "job"): "--cgf: no such flag, see --help; did you mean '--cfg'?",
    ("steps=2", "--zzz"): "--zzz: no such flag, see --help",
    ("--cfg",): "argument --cfg/-c: expected one argument; see --help",
    ("-m", "--cfg", "job"): "the configuration can't be composed: Only one of --run, --multirun, --cfg, --info and "
    "--shell_completion can be specified",
    ("--config-name", "nope"): "nope: no such option",
    # what Hydra says of overrides
    ("model=257",): f"model=257: no such option; allowed are {', '.join(groups()['model'])}; did you mean '256'?",
    ("hydra/launcher=basicc",): "hydra/launcher=basicc: no such option; allowed are basic, bitnet_local, ...",
    ("steps",): "steps: not an override; write KEY=VALUE, or KEY=A,B with -m",
    ("=3",): "=3: not an override; write KEY=VALUE",
    ("steps=[1",): "steps=[1: not an override; write KEY=VALUE, or KEY=A,B with -m",
    ("steps=1,2",): f"steps=1,2: {SWEEP_OR_LIST} steps=[1,2] for a list",
    ("model=256,tiny",): "model=256,tiny: several values make a sweep; add -m",
    ("steps=choice(1,2)",): "steps=choice(1,2): several values make a sweep; add -m",
    ("stepz=3",): "stepz: no such key; did you mean 'steps'?",
    ("modle=256",): "modle: no such key; did you mean 'model'?",
    ("lr.peek=3",): "lr.peek: no such key; did you mean 'lr.peak'?",
    ("optimiser.betas=1",): "optimiser: no such key; did you mean 'optimizer'?",
    ("steps.x=3",): "steps.x: no such key",
    ("hydra.jobb=3",): "hydra.jobb: no such key; did you mean 'hydra.job'?",
    ("+lr.peak=1",): "+lr.peak: exists already; write lr.peak=VALUE, without +",
    ("+lr=faq",): "+lr: exists already; write lr=VALUE, without +",
    ("~stepz",): "~stepz: no such key; did you mean 'steps'?",
    ("~lr.peek",): "~lr.peek: no such key; did you mean 'lr.peak'?",
    ("hydra.job.name.x=1",): "hydra.job.name: Cannot convert 'dict' to string: '{}'",
    ("optimizer.betas.7=1",): "optimizer.betas[7]: list index out of range",
    ("optimizer.betas.x=1",): "the configuration can't be composed: invalid literal for int() with base 10: 'x'",
    # names of the chosen variant only, and never the name that was typed
    ("wd.peak=1",): "wd.peak: wd.kind=two_stage has no such key",
    ("hidden_size=128",): "hidden_size: no such key; did you mean 'model.hidden_size'?",
    ("vocab_size=500",): "vocab_size: no such key; did you mean 'data.vocab_size'?",
    ("wd.nope=1",): "wd.nope: no such key",
    ("wd.peek=1",): "wd.peek: no such key",
    ("+wd.peek=1",): "wd.peek=1: no such key",
    ("+wd.stage=1",): "wd.stage=1: no such key; did you mean 'stage2'?",
    ("data.paths=[a]",): "data.paths: data.source=synthetic has no such key",
    # lists
    ("data=text", "tokenizer=bpe", "data.paths=txt.txt"): "data.paths='txt.txt': input should be a valid list; "
    "write data.paths=[txt.txt]",
    ("data=text", "tokenizer=bpe", "data.paths=null"): "data.paths=None: input should be a valid list; write data.paths=[]",
    ("data=text", "data.paths=a,b"): f"data.paths=a,b: {SWEEP_OR_LIST} data.paths=[a,b] for a list",
    ("optimizer.betas=0.9",): "optimizer.betas=0.9: input should be a list; write optimizer.betas=[A,B]",
    # interpolations
    ("lr.peak=${nope}",): "lr.peak: Interpolation key 'nope' not found",
    ("lr.peak=${oc.env:NOPE}",): "lr.peak: KeyError raised while resolving interpolation...",
    ("resume=${nope}",): "resume: Interpolation key 'nope' not found",
    ("hydra.run.dir=${nope}",): "hydra.run.dir: Interpolation key 'nope' not found",
}


@pytest.mark.parametrize("arguments", REFUSED, ids=" ".join)
def test_what_is_refused_is_one_sentence_and_exit_code_2(arguments, capfd):
    typed = {a.partition("=")[0] for a in arguments}
    given = [] if "data" in typed else [t for t in TINY if t.partition("=")[0] not in typed]
    code = exit_code(train.main, *given, *arguments)
    printed = capfd.readouterr()
    (line,) = printed.err.splitlines()
    expected = f"error: {REFUSED[arguments]}"
    assert code == 2
    assert line.startswith(expected.removesuffix("...")) if expected.endswith("...") else line == expected
    assert printed.out == "" and not Path("outputs").exists()


PREPARE_REFUSED = {
    ("lr=null",): f"lr=null: {listed('lr')}",
    ("data=text", "data.paths=a,b"): "data.paths=a,b: one value is needed; write data.paths=[a,b] for a list",
    ("data=text,synthetic",): "data=text,synthetic: one value is needed",
    ("data",): "data: not an override; write KEY=VALUE",
    ("wd.nope=1",): "wd.nope: no such key",
    ("-m",): "unrecognized arguments: -m; see --help",
    ("optimizer.betas.x=1",): "the configuration can't be composed: invalid literal for int() with base 10: 'x'",
    ("data.cache=",): "data.cache=: a path is needed",
}


@pytest.mark.parametrize("arguments", PREPARE_REFUSED, ids=" ".join)
def test_what_prepare_refuses(arguments, capfd):
    assert exit_code(prepare.main, *arguments) == 2
    assert capfd.readouterr().err == f"error: {PREPARE_REFUSED[arguments]}\n"


def test_a_file_is_no_folder_of_runs(capfd):
    Path("metrics.csv").touch()
    assert exit_code(report.main, "metrics.csv") == 2
    assert capfd.readouterr().err == "error: metrics.csv: a file; give the folder of a run, or a folder of runs\n"


# ------------------------------------------------------------------------------------------------------------ what is understood
def test_options_and_paths_are_quoted_for_hydra_and_only_once():
    assert normalise("model=256,tiny,512") == "model='256',tiny,'512'"
    assert normalise("out=a=b,c") == "out='a=b,c'"
    for override in ["model=256,512", "out=it's, here", "resume=null", "steps=5", "wd=paper", "sweeps=null", "-m"]:
        assert normalise(normalise(override)) == normalise(override)


def test_flags_stand_anywhere():
    assert exit_code(train.main, "seed=1,2", *TINY, "-m", "wd=paper,none") == 0
    assert {(r["seed"], r["choices"]["wd"]) for r in runs()} == {(s, w) for s in (1, 2) for w in ("paper", "none")}


@pytest.mark.parametrize(
    "arguments", [["lr=faq", "--cfg", "job"], ["--cfg", "job", "lr=faq"], ["steps=3", "--cfg=job", "lr=faq"]]
)
def test_the_configuration_is_printed_wherever_the_flag_stands(arguments, capfd):
    assert exit_code(train.main, *arguments) == 0
    assert "second_peak" in capfd.readouterr().out


@pytest.mark.parametrize("flags", [["--cfg", "hydra"], ["--info"], ["--info", "searchpath"], ["--hydra-help"], ["--version"]])
def test_hydras_own_flags_still_print(flags, capfd):
    assert exit_code(train.main, *flags) == 0
    printed = capfd.readouterr()
    assert "ydra" in printed.out and printed.err == ""


def test_a_quoted_path_may_hold_a_comma_in_a_sweep():
    assert exit_code(train.main, "-m", *TINY, "seed=1,2", "out='a,b'") == 0
    assert len(list(Path("a,b").glob("*/*/run.json"))) == len(runs()) == 2


def test_no_sweep_is_the_default_written_out():
    assert exit_code(train.main, *TINY, "sweeps=null", "resume=null") == 0
    assert [r["sweep"] for r in runs()] == [None]


def test_interpolations_mean_keys_of_the_run():
    assert exit_code(train.main, *TINY, "eval_every=${steps}") == 0
    assert exit_code(train.main, "-m", *TINY, "eval_every=${steps}", "seed=1,2") == 0
    assert [r["status"] for r in runs()] == ["done"] * 3


def test_hydra_says_nothing_of_its_own(capfd):
    assert exit_code(train.main, "-m", *TINY, "seed=1,2") == 0
    printed = capfd.readouterr()
    assert printed.out == "" and "HYDRA" not in printed.err and "resume=" not in printed.err
    logging.getLogger("hydra").warning("something to know")
    printed = capfd.readouterr()
    assert printed.out == "" and "something to know" in printed.err


# ------------------------------------------------------------------------------------------------------ failures, interruptions
@pytest.fixture
def failing_run() -> Path:
    """A run whose checkpoints can't be written: a file is where their folder should be."""
    assert exit_code(train.main, *TINY) == 0
    (folder,) = (p.parent for p in Path("outputs").glob("*/*/run.json"))
    for path in (folder / "checkpoints").iterdir():
        path.unlink()
    (folder / "checkpoints").rmdir()
    (folder / "checkpoints").touch()
    (folder / "run.json").write_text(json.dumps(json.loads((folder / "run.json").read_text()) | {"status": "queued"}))
    return folder


def test_a_run_that_fails_is_one_line_and_exit_code_1(failing_run, capfd):
    capfd.readouterr()
    assert exit_code(train.main, f"resume={failing_run}") == 1
    (line,) = [s for s in capfd.readouterr().err.splitlines() if s.startswith("error: ")]
    trace = failing_run.resolve() / "error.txt"
    assert "Error: " in line and line.endswith(f"(traceback in {trace})")
    assert "Traceback" in trace.read_text() and [r["status"] for r in runs()] == ["failed"]


def test_the_traceback_of_a_failure_is_there_for_those_who_ask(failing_run, monkeypatch):
    monkeypatch.setattr(single, "FULL_ERROR", True)
    with pytest.raises(OSError, match="checkpoints"):
        train.main([f"resume={failing_run}"])


@pytest.mark.parametrize("place", [(compose, "run_config"), (controller, "run_sweep")])
def test_a_fault_of_our_own_keeps_its_traceback(place, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise ValueError("a fault of our own")

    monkeypatch.setattr(*place, broken)
    with pytest.raises(ValueError, match="a fault of our own"):
        train.main(["-m", *TINY])


def test_interrupted_preparation_is_one_line_and_exit_code_130(monkeypatch, capfd):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepared, "prepare", interrupted)
    assert exit_code(prepare.main, "data=synthetic") == 130
    assert capfd.readouterr().err == "interrupted; the same command starts over\n"


# ------------------------------------------------------------------------------------------------------------------- plugins
PLUGINS = sorted((PACKAGE / "sweep" / "plugins" / "hydra_plugins").glob("*.py"))


@pytest.mark.parametrize("path", PLUGINS, ids=lambda p: p.stem)
def test_plugins_do_without_annotations_as_strings(path):
    """Hydra executes them outside sys.modules, where a dataclass can't look such annotations up."""
    imports = (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom))
    assert "__future__" not in {i.module for i in imports}


def test_hydra_finds_the_plugins():
    compose.register_plugins()
    assert {"ArmsSweeper", "LocalLauncher"} <= {p.__name__ for p in Plugins.instance().discover()}
    assert len(PLUGINS) == 3 and os.environ["PYTHONPATH"].endswith("plugins")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("sedes: [0]", "sweep.sedes=[0]: no such key; did you mean 'seeds'?"),
        ("claims: {c: {kind: bound, sais: x}}", "sweep.claims.c.sais='x': no such key; did you mean 'says'?"),
        (
            "claims: {c: {kind: bound, says: x, metric: Loss, arm: a, expected: at_most, bound: 1, marign: 1}}",
            "sweep.claims.c.marign=1: no such key; did you mean 'margin'?",
        ),
        (
            "claims: {c: {kind: bound, says: x, metric: Loss, arm: {optimzer: adamw}, expected: at_most, bound: 1}}",
            "sweep.claims.c.arm: optimzer: no such group or key; did you mean 'optimizer'?",
        ),
        (
            "claims: {c: {kind: bound, says: x, metric: Loss, arm: {optimizer.decay_scop: all}, expected: at_most, bound: 1}}",
            "sweep.claims.c.arm: optimizer.decay_scop: no such group or key; did you mean 'decay_scope'?",
        ),
        (
            "claims: {c: {kind: contrast, says: x, metric: Loss, arm: a, against: a, expected: lower, margin: 1}}",
            "sweep.claims.c.against=a: the same runs as arm; name others",
        ),
    ],
)
def test_a_misspelt_key_of_a_sweep_s_file_is_named_with_the_right_one(tmp_path, capsys, written, said):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(
        f"# @package _global_\nsweep:\n  name: mine\n  question: x\n  arms: {{a: wd=paper}}\n  {written}\n"
    )
    assert plan.main(["sweeps=mine", f"--config-dir={tmp_path}"]) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


def test_help_is_printed_whatever_is_wrong_with_a_sweep_s_file(tmp_path, capsys):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "broken.yaml").write_text("sweep: {name: [")
    assert train.main(["--help", f"--config-dir={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "broken" in out and "can't be read" in out and "Exit codes" in out

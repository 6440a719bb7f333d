"""What stands in a sweep's file and on the command line beside it: mistakes name their place, before any work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from real_runs import exit_code
from small import TINY

from bitnet import check, plan, prepare, train
from bitnet.cli.compose import register_plugins
from bitnet.planning.request import requested_runs

COMMANDS = [train.main, plan.main]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bitnet-train"])
    monkeypatch.chdir(tmp_path)
    register_plugins()


def sweep_file(text: str, name: str = "mine", before: str = "") -> list[str]:
    """A sweep's file with these lines in its `sweep`; the arguments that name it."""
    Path("own/sweeps").mkdir(parents=True, exist_ok=True)
    lines = ["# @package _global_", before, f"sweep:\n  name: {name}\n  question: x\n{text}"]
    Path(f"own/sweeps/{name}.yaml").write_text("\n".join(lines))
    return ["--config-dir", "own", f"sweeps={name}"]


def refused(capsys, *arguments: str) -> str:
    """The one line with which `train` and `plan` both refuse the arguments, before any work."""
    said = []
    for main in COMMANDS:
        assert exit_code(main, *arguments) == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1] and said[0].count("\n") == 1 and said[0].startswith("error: ") and not Path("outputs").exists()
    return said[0].removeprefix("error: ").rstrip("\n")


IN_THE_FILE = {
    # quotation marks
    '  arms: {a: "wd=\'paper"}': 'sweep.arms.a="wd=\'paper": no closing quotation; '
    "quotes come in pairs, and \\' is an apostrophe",
    '  arms: {a: "wd=paper\\\\"}': "sweep.arms.a='wd=paper\\\\': no escaped character; quotes come in pairs",
    # several values where there is one
    '  arms: {a: "wd=paper,wd005"}': "sweep.arms.a: wd=paper,wd005: an arm has one value of each key; "
    "for several write grid: {wd: [paper, wd005]}",
    '  arms: {a: "seed=range(1,4)"}': "sweep.arms.a: seed=range(1,4): an arm has one value of each key; "
    "for several write grid: {seed: [1, 2, 3]}",
    '  arms: {a: "wd=glob(wd*)"}': "sweep.arms.a: wd=glob(wd*): an arm has one value of each key; "
    "for several write grid: {wd: [wd005, wd01, wd02, wd03, wd05]}",
    '  grid: {wd: ["paper,wd005"]}': "sweep.grid.wd: wd=paper,wd005: an entry is one value; "
    "for several write grid: {wd: [paper, wd005]}",
    '  grid: {model: ["64,128"]}': "sweep.grid.model: model=64,128: an entry is one value; "
    "for several write grid: {model: [64, 128]}",
    "  grid: {lr.peak: ['interval(0,1)']}": "sweep.grid.lr.peak: lr.peak=interval(0,1): an entry is one value; "
    "for several write grid: {lr.peak: [A, B]}",
    # none
    "  grid: {wd: []}": "sweep.grid.wd=[]: an axis needs a value; name some, or leave it out",
    # no override
    "  arms: {a: wd paper}": "sweep.arms.a: wd: not an override; write KEY=VALUE",
    "  arms: {a: wd=}": "sweep.arms.a: wd=: one option of the group is needed; allowed are",
    "  arms: {a: lr.peek=3}": "sweep.arms.a: lr.peek: no such key; did you mean 'lr.peak'?",
    "  arms: {a: wd=papr}": "sweep.arms.a: wd=papr: no such option; allowed are",
    "  arms: {a: lr.peak=-1}": "sweep.arms.a: lr.peak=-1: input should be greater than 0",
    # what is the command's
    "  arms: {a: resume=x}": "sweep.arms.a: resume=x: a sweep starts runs; to go on with one,",
    "  arms: {a: sweep.name=x}": "sweep.arms.a: sweep.name=x: the sweep's own part stands once in its file, beside the arms",
    "  arms: {a: 'sweep.seeds=[1]'}": "sweep.arms.a: sweep.seeds=[1]: the sweep's own part stands once",
    "  arms: {a: sweeps=quickstart}": "sweep.arms.a: sweeps=quickstart: an arm is one run; a sweep of sweeps",
    "  arms: {a: scale=ci}": "sweep.arms.a: scale=ci: it scales the whole sweep; give the command scale=NAME",
    "  arms: {a: launcher=serial}": "sweep.arms.a: launcher=serial: it launches the whole sweep; give the command launcher=NAME",
    "  arms: {a: launcher.jobs=1}": "sweep.arms.a: launcher.jobs=1: it launches the whole sweep",
    "  arms: {a: hydra.sweep.dir=x}": "sweep.arms.a: hydra.sweep.dir=x: it is read from the command and the file's "
    "top level, not from arms; where runs go, out=FOLDER says",
    "  grid: {hydra/launcher: [basic]}": "sweep.grid.hydra/launcher: hydra/launcher=basic: it is read from the command",
    '  grid: {device: ["cuda:0", "cuda:1"]}': "sweep.grid.device: device=cuda:0: the arms share the devices of the command; "
    "give it device=NAME, or device=cuda:0,cuda:1 for several GPUs",
}


@pytest.mark.parametrize("written", IN_THE_FILE)
def test_a_mistake_in_a_sweep_s_file_names_its_place(written, capsys):
    assert refused(capsys, *sweep_file(written)).startswith(IN_THE_FILE[written])


ON_THE_COMMAND_LINE = {
    ("-m", "wd=glob(nope*)"): "wd=glob(nope*): an axis without values: it fits none of the options cosine, none, paper, wd005,",
    ("-m", "seed=range(0)"): "seed=range(0): an axis without values: nothing lies in this range",
    ("-m", "wd=paper", "lr.peak=range(1,0,0.5)"): "lr.peak=range(1,0,0.5): an axis without values: nothing lies in this range",
    ("-m", "lr.peak=interval(0,1)"): "lr.peak=interval(0,1): a grid needs single values, as choice(A,B)",
    ("sweeps=glob(nope*)",): "sweeps=glob(nope*): an axis without values: it fits none of the options baseline_10k, ",
    ("-m", "scale=ci,laptop"): "scale=ci,laptop: can't be swept: it scales the whole sweep; give the command scale=NAME; run the",
    ("-m", "launcher=local,serial"): "launcher=local,serial: can't be swept: it launches the whole sweep;",
    ("hydra.sweep.dir=x",): "hydra.sweep.dir=x: not used here; out=FOLDER says where runs go, each in a folder of its own",
    ("hydra.run.dir=x", "resume=y"): "hydra.run.dir=x: not used here; out=FOLDER says",
    ("hydra.run.dir=x",): "hydra.run.dir=x: not used here; out=FOLDER says",
    ("-m", "hydra.sweep.subdir=x", "seed=1,2"): "hydra.sweep.subdir=x: not used here; out=FOLDER says",
    ("-m", "hydra.run.dir=x", "seed=1,2"): "hydra.run.dir=x: not used here; out=FOLDER says",
}


@pytest.mark.parametrize("arguments", ON_THE_COMMAND_LINE, ids=" ".join)
def test_a_mistake_on_the_command_line_names_its_key(arguments, capsys):
    assert refused(capsys, *arguments).startswith(ON_THE_COMMAND_LINE[arguments])


def test_keys_at_the_top_of_a_sweep_s_file_are_not_ignored_either(capsys):
    said = refused(capsys, *sweep_file("  arms: {a: wd=paper}", before="resume: x"))
    assert said == "resume=x: one run goes on, and this is a sweep; leave it out"
    said = refused(capsys, *sweep_file("", before="hydra: {sweeper: {params: {wd: glob(nope*)}}}"))
    assert said.startswith("wd=glob(nope*): an axis without values: it fits none of the options")
    said = refused(capsys, *sweep_file("  arms: {a: wd=paper}", before="hydra: {sweep: {dir: elsewhere}}"))
    assert said.startswith("hydra.sweep.dir=elsewhere: not used here; out=FOLDER says")


def test_a_folder_of_hydra_s_is_refused_by_prepare_and_check_too(capsys):
    for main in (prepare.main, check.main):
        assert main(["hydra.run.dir=x", *TINY]) == 2
        assert capsys.readouterr().err.startswith("error: hydra.run.dir=x: not used here; out=FOLDER says")


@pytest.mark.parametrize("launcher", ["launcher=local", "launcher=serial", "hydra/launcher=basic"])
@pytest.mark.parametrize(
    ("axis", "why"),
    [
        ("seed=range(0)", "nothing lies in this range"),
        ("wd=glob(nope*)", "it fits none of the options"),
        ("sweeps=glob(nope*)", "it fits none of the options"),
    ],
)
def test_other_sweepers_refuse_an_axis_without_values_too(launcher, axis, why, capsys):
    assert train.main(["-m", "hydra/sweeper=basic", launcher, *TINY, axis]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {axis}: an axis without values: {why}") and said.count("\n") == 1


def test_an_empty_axis_of_another_sweeper_s_file_starts_nothing(capsys):
    params = "hydra: {sweeper: {params: {seed: range(0)}}}"
    assert train.main(["-m", "hydra/sweeper=basic", *TINY, *sweep_file("", before=params)]) == 2
    assert capsys.readouterr().err == "error: nothing to run: an axis of the command has no values\n"


# ------------------------------------------------------------------------------------------------------------ what is understood
def arms(*arguments: str) -> list[tuple[str, ...]]:
    overrides = [a for a in arguments if not a.startswith("-") and a != "own"]
    config_dir = Path("own") if "own" in arguments else None
    return [r.overrides for r in requested_runs(overrides, "-m" in arguments, config_dir)[0]]


def test_nothing_is_a_value_of_an_axis():
    found = requested_runs(sweep_file("  grid: {optimizer.reset_at: [null, 0.5]}")[2:], False, Path("own"))[0]
    assert [r.config.optimizer.reset_at for r in found] == [None, 0.5]


def test_a_claim_may_select_by_nothing(capsys):
    claim = "{kind: bound, says: x, metric: Loss, arm: {optimizer.reset_at: null}, expected: at_most, bound: 1}"
    arms(*sweep_file(f"  grid: {{optimizer.reset_at: [null, 0.5]}}\n  claims: {{c: {claim}}}"))
    assert "not part of this command" not in capsys.readouterr().err


def test_values_with_blanks_and_commas_can_be_quoted_in_an_arm():
    (arm,) = arms(*sweep_file("""  arms: {a: "data=text 'data.paths=[a b.txt,\\"c,d.txt\\"]'"}"""))[:1]
    assert "data.paths=['a b.txt',\"c,d.txt\"]" in arm


@pytest.mark.parametrize("main", [prepare.main, check.main])
def test_prepare_and_check_know_the_groups_of_one_s_own_folder(main, capsys):
    Path("own/model").mkdir(parents=True)
    Path("own/model/own.yaml").write_text("defaults: [tiny]\nnum_layers: 1\n")
    assert main(["--config-dir", "own", "model=own", "model.num_layers=-1", *TINY[:-1], "--config-dir=own"]) == 2
    assert capsys.readouterr().err.startswith("error: model.num_layers=-1: input should be greater than 0")
    assert main(["model=own", "--config-dir", "nowhere"]) == 2
    assert capsys.readouterr().err == "error: --config-dir nowhere: no such folder\n"


def test_a_claim_s_option_has_to_be_one_of_its_group(capsys):
    claims = "  claims: {c: {kind: bound, says: x, metric: Loss, arm: {wd: VALUE}, expected: at_most, bound: 1}}"
    Path("own/wd").mkdir(parents=True)
    Path("own/wd/mine.yaml").write_text("defaults: [paper]\n")
    said = refused(capsys, *sweep_file("  arms: {a: wd=mine}\n" + claims.replace("VALUE", "papr")))
    assert said.startswith("sweep.claims.c.arm: wd=papr: no such option; allowed are cosine, mine, none, paper, wd005")
    assert said.endswith("did you mean 'paper'?")
    assert plan.main([*sweep_file("  arms: {a: wd=mine}\n" + claims.replace("VALUE", "mine")), *TINY, "--no-measure"]) == 0


def test_a_flag_for_a_sweep_of_one_run_is_told(capsys):
    assert train.main(["-m", *TINY, "steps=1", "launcher=serial"]) == 0
    said = capsys.readouterr().err
    assert said.startswith("note: -m, but nothing to sweep over: this is one run; KEY=A,B makes one of each value")
    assert "1 done" in said
    assert train.main(["-m", *TINY, "steps=1", "launcher=serial", "seed=0,1"]) == 0
    assert "nothing to sweep" not in capsys.readouterr().err

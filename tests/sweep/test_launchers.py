"""Any Hydra launcher carries out a sweep, and what a sweep's command shares among its runs is no axis of it."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from real_runs import exit_code
from small import NO_PROBES, TINY

from bitnet import plan, train
from bitnet.cli.compose import register_plugins
from bitnet.cli.overrides import normalise
from bitnet.common.errors import UserError
from bitnet.planning.request import placement, requested_runs
from bitnet.sweep import controller
from bitnet.training import device

RUN = [*TINY, *NO_PROBES, "steps=1"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bitnet-train"])
    monkeypatch.chdir(tmp_path)
    register_plugins()


def statuses() -> list[str]:
    return [json.loads(p.read_text())["status"] for p in sorted(Path().glob("outputs/*/*/run.json"))]


def is_installed(launcher: str) -> bool:
    plugin = {"basic": "hydra", "submitit_local": "hydra_plugins.hydra_submitit_launcher"}
    try:
        return importlib.util.find_spec(plugin.get(launcher, f"hydra_plugins.hydra_{launcher}_launcher")) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("launcher", ["basic", "submitit_local", "joblib", "ray"])
def test_a_launcher_that_is_installed_carries_out_a_sweep(launcher, capfd):
    if not is_installed(launcher):
        pytest.skip(f"hydra-{launcher}-launcher is not installed")
    assert train.main(["-m", f"hydra/launcher={launcher}", *RUN, "seed=0,1"]) == 0
    assert statuses() == ["done", "done"]
    capfd.readouterr()
    assert train.main(["-m", f"hydra/launcher={launcher}", *RUN, "seed=0,1"]) == 0
    assert "2 runs, 2 of them finished before" in capfd.readouterr().err


# -------------------------------------------------------------------------------------------------------------- shared GPUs
def test_several_gpus_are_shared_and_make_no_further_runs(monkeypatch):
    monkeypatch.setenv("BITNET_SIMULATED_GPUS", "4")
    assert normalise("device=cuda:0,cuda:1") == normalise("device=[cuda:0, cuda:1]") == "device='cuda:0,cuda:1'"
    asked, sweeping = requested_runs([*RUN, "device=cuda:3,cuda:1", "seed=0,1,2"], True, None)
    assert [r.config.seed for r in asked] == [0, 1, 2] and placement(asked, sweeping).at_once == 2
    launched = []
    monkeypatch.setattr(device, "pick_device", lambda name: None)

    def run_all(folders, gpus, **how):
        launched.append((len(folders), gpus, how))
        return {}

    monkeypatch.setattr(controller.local, "run_all", run_all)
    assert exit_code(train.main, "-m", *RUN, "device=cuda:3,cuda:1", "seed=0,1,2") == 1  # nothing was carried out
    assert launched == [(3, "cuda:3,cuda:1", {"jobs": None, "jobs_per_gpu": 1, "stalled_minutes": 30})]
    assert statuses() == ["queued"] * 3


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["device=cuda:0,cuda:1"], "device=cuda:0,cuda:1: a run has one device; the runs of a sweep share several"),
        (["-m", "device=cuda:0,cpu"], "device=cuda:0,cpu: several devices are GPUs by their numbers, as in device=cuda:0,cuda:1"),
        (["-m", "device=cuda:0,cuda:0"], "device=cuda:0,cuda:0: a GPU is named twice; launcher.jobs_per_gpu=N"),
        (["-m", "launcher=serial", "device=cuda:0,cuda:1"], "device=cuda:0,cuda:1: hydra/launcher=basic does not share"),
        (["-m", "seed=0,1", "device=choice(cpu,auto)"], "device=choice(cpu,auto): can't be swept: the arms share the devices"),
    ],
)  # fmt: skip
def test_devices_that_runs_cannot_share_are_refused(typed, said, capsys):
    assert exit_code(train.main, *RUN, *typed) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {said}") and statuses() == []


def test_of_several_gpus_a_run_by_itself_takes_the_first(monkeypatch):
    monkeypatch.setattr(device.torch.cuda, "device_count", lambda: 2)
    assert str(device.pick_device("cuda:1,cuda:0")) == "cuda:1"
    with pytest.raises(UserError, match="device=cuda:2: this machine has 2 CUDA devices"):
        device.pick_device("cuda:1,cuda:2")


@pytest.mark.parametrize(
    ("typed", "at_once", "said"),
    [
        ("launcher.jobs=2", 2, "2 at once"),
        ("launcher=serial", 1, "1 at once"),
        ("hydra/launcher=basic", 1, "1 at once"),
        ("hydra/launcher=submitit_local", None, "as many at once as hydra/launcher=submitit_local decides"),
        ("hydra/launcher=submitit_slurm", None, "on a cluster"),
        ("launcher=slurm", None, "on a cluster"),
    ],
)
def test_a_plan_says_what_it_knows_of_where_runs_go(typed, at_once, said, capsys):
    if "submitit" in typed and not is_installed("submitit_local"):
        pytest.skip("hydra-submitit-launcher is not installed")
    place = placement(*requested_runs([*RUN, typed, "seed=0,1,2"], True, None))
    assert place.at_once == at_once
    assert plan.main(["-m", "--no-measure", *RUN, typed, "seed=0,1,2"]) == 0
    assert f"{said}, " in capsys.readouterr().out
    assert placement(*requested_runs([*RUN, typed], False, None)).at_once == 1


# ------------------------------------------------------------------------------------------------------------ several sweeps
TWO = "sweeps=phase4_grad_clip,phase4_label_smoothing"


def test_several_sweeps_run_one_after_the_other(capfd, monkeypatch):
    arguments = ["-m", TWO, "launcher=serial", "seed=0", *RUN]
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-m", "bitnet.train", *arguments])
    assert train.main(arguments) == 0
    said = capfd.readouterr().err
    assert said.index("[1 of 2] phase4_grad_clip") < said.index("[2 of 2] phase4_label_smoothing")
    assert statuses() == ["done"] * 4 and {p.name for p in Path("outputs").iterdir()} >= set(TWO[7:].split(","))


def test_several_sweeps_are_planned_together():
    asked, sweeping = requested_runs([TWO, "seed=0", *RUN], False, None)
    assert sweeping and len(asked) == 3  # the control of both is one run
    assert requested_runs(["sweeps=glob(phase4_*)", "seed=0", *RUN], True, None)[0] == asked
    assert requested_runs(["sweeps=verify_p1,verify_p1,verification1", "seed=0", *RUN], True, None)[0][0].arm


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("sweeps=phase4_grad_clip,phase4_grad_clap", "sweeps=phase4_grad_clap: no such option; allowed are baseline_10k"),
        ("sweeps=quickstart,", "sweeps=quickstart,: one option of the group is needed"),
    ],
)
def test_a_mistake_in_one_of_several_sweeps_is_told_before_the_first(typed, said, capsys):
    for main in (train.main, plan.main):
        assert main(["-m", typed, *RUN]) == 2
        assert capsys.readouterr().err.startswith(f"error: {said}") and statuses() == []

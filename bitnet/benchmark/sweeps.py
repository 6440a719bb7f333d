"""What a whole sweep costs beyond its training: the command as a user types it, in a temporary folder."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bitnet.cli.compose import register_plugins
from bitnet.cli.overrides import names_a_sweep
from bitnet.common.errors import UserError
from bitnet.common.text import counted
from bitnet.data.run_data import prepare_data
from bitnet.planning.request import placement, requested_runs
from bitnet.runs.folders import find_runs
from bitnet.runs.record import RunRecord

# Loaded by every Python process at its start, by the name that Python looks for; acts in the one that runs are forked from.
_WATCH = """
import json, os, sys, time
if "bitnet.launch.fork_server" in sys.orig_argv:
    import bitnet.training.loop
    real_train, real_update, at = bitnet.training.loop.train, bitnet.training.loop.Trainer.update, {}
    os.register_at_fork(after_in_child=lambda: at.update(fork=time.monotonic()))
    def update(self, step):
        result = real_update(self, step)
        at.setdefault("step", time.monotonic())
        return result
    def train(trainer, record, **kwargs):
        before = time.process_time()
        outcome = real_train(trainer, record, **kwargs)
        used, first = time.process_time() - before, at["step"] - at["fork"]
        (record.folder / ".watched").write_text(json.dumps([used, first]))
        return outcome
    bitnet.training.loop.train, bitnet.training.loop.Trainer.update = train, update
"""


@dataclass(frozen=True)
class SweepCost:
    """Of one command, in seconds. Training is all that happens within `loop.train`: steps, evaluations, rows, checkpoints;
    orchestration all the rest, idle cores among it.

    `training` adds up the runs' clocks, `training_processor` their processor time, None where they could not be watched;
    `first_step` is the time from a run's fork to the end of its first step, `data` what preparing took before the command.
    """

    runs: int
    steps: int
    at_once: int
    data: float
    wall: float
    training: float
    processor: float
    training_processor: float | None
    first_step: float | None

    @property
    def orchestration(self) -> float:
        """Share of the wall time, of all places for runs, that is not training: 1 - training / (places x wall)."""
        return 1 - self.training / (self.at_once * self.wall)

    @property
    def orchestration_processor(self) -> float | None:
        """The same of processor time, which also holds on a machine that does other work meanwhile."""
        return None if self.training_processor is None else 1 - self.training_processor / self.processor


def measure_sweep(overrides: Sequence[str]) -> SweepCost:
    """Prepare the data of a sweep, run its command, and read what its runs recorded.

    Raises:
        UserError: when the command can't be composed, or fails.
    """
    multirun = not names_a_sweep(list(overrides))
    with tempfile.TemporaryDirectory(prefix="bitnet-bench-") as folder, tempfile.TemporaryDirectory() as watch:
        (Path(watch) / "sitecustomize.py").write_text(_WATCH)
        arguments = [*overrides, f"out={folder}"]
        register_plugins()
        asked, _ = requested_runs(arguments, multirun, None)
        began = time.perf_counter()
        for request in asked:
            prepare_data(request.config)
        data = time.perf_counter() - began
        wall, processor = _timed([*(["-m"] if multirun else []), *arguments], watch)
        return _cost([path for path, _ in find_runs([Path(folder)])], placement(asked, True).at_once or 1, data, wall, processor)


def _timed(arguments: Sequence[str], watch: str) -> tuple[float, float]:
    """Wall and processor seconds of `bitnet.train`, with all processes that it waits for."""
    path = os.pathsep.join(p for p in (watch, os.environ.get("PYTHONPATH", "")) if p)
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-m", "bitnet.train", *arguments],
            env=os.environ | {"PYTHONPATH": path},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            _, status, used = os.wait4(child.pid, 0)
        except BaseException:
            child.terminate()  # it saves, which is of no use here, and ends its runs
            child.wait()
            raise
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - began
        if child.returncode != 0:
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines() or ["nothing"]
            raise UserError(f"bitnet.train {' '.join(arguments)}: ended with {child.returncode}, saying: {said[-1]}")
    return wall, used.ru_utime + used.ru_stime


def _cost(folders: Sequence[Path], at_once: int, data: float, wall: float, processor: float) -> SweepCost:
    timings = [RunRecord(folder).read()["timing"] for folder in folders]
    watched = [json.loads(path.read_text()) for folder in folders if (path := folder / ".watched").exists()]
    complete = len(watched) == len(folders)
    return SweepCost(
        runs=len(folders),
        steps=sum(t["steps_timed"] for t in timings),
        at_once=at_once,
        data=data,
        wall=wall,
        training=sum(t["train_seconds"] + t["eval_seconds"] for t in timings),
        processor=processor,
        training_processor=sum(seconds for seconds, _ in watched) if complete else None,
        first_step=statistics.median(first for _, first in watched) if complete else None,
    )


def named_sweep(overrides: Sequence[str]) -> list[str]:
    """What is typed after `bench sweep`, as overrides: a sweep's bare name may stand among them; without any, the quickstart."""
    return [o if "=" in o else f"sweeps={o}" for o in overrides] or ["sweeps=quickstart"]


def scale_commands(*, quick: bool) -> dict[str, list[str]]:
    """Commands that differ in one number, by what they vary: arms are learning rates, further runs of an arm are seeds."""
    base = ["data=synthetic", "model=tiny", "threads=1"]
    commands = {}
    for arms in (1, 2, 4) if quick else (1, 2, 4, 8, 16, 32):
        peaks = ",".join(f"{1e-3 * (1 + n / 100):g}" for n in range(arms))
        commands[f"{counted(arms, 'arm')} of 20 steps"] = [*base, "steps=20", f"lr.peak={peaks}"]
    for steps in (80,) if quick else (80, 320, 1280):
        commands[f"4 seeds of {steps:,} steps"] = [*base, f"steps={steps}", "seed=0,1,2,3"]
    for runs in (8,) if quick else (50, 200):
        commands[f"{runs} seeds of 20 steps"] = [*base, "steps=20", f"seed={','.join(map(str, range(runs)))}"]
    return commands

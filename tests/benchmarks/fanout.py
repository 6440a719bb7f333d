"""What the fan-out costs: many short runs through `launcher=local`, beside what their training takes.

    python tests/benchmarks/fanout.py [arms]

Training is what a run would also do in a script of its own, once that script is at work: forward, backward, update,
evaluation, its rows of metrics, its checkpoints, its step in run.json; all that happens within `loop.train`. Orchestration is
all the rest: starting Python and importing torch, composing, validating and freezing the arms, forking, reading the frozen
configuration and the data, building the model, the other records, watching, and cores that stand idle.

Two ratios of orchestration to training are printed. By the clock: cores x wall time of the command, less the runs'
`train_seconds` and `eval_seconds`. By processor time: that of the command and all its processes, less that of `loop.train` in
each of them. The second one also holds on a machine that does other work meanwhile.

Also printed: the time from the fork of a run to the end of its first step, and the time of `bitnet.status` and `bitnet.report`.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = 20

# Loaded by every Python process at its start, by the name that Python looks for; acts in the one that runs are forked from.
WATCH = """
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


def main(arms: int) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as watch, tempfile.TemporaryDirectory() as out:
        (Path(watch) / "sitecustomize.py").write_text(WATCH)
        common = ["data=synthetic", "model=tiny", f"steps={STEPS}", f"out={out}"]
        timed("bitnet.prepare", *common)
        before = processor_seconds()
        took = timed("bitnet.train", "-m", *common, f"seed={','.join(map(str, range(arms)))}", watch=watch)
        used = processor_seconds() - before
        folders = [p.parent for p in Path(out).glob("*/*/run.json")]
        timings = [json.loads((f / "run.json").read_text())["timing"] for f in folders]
        assert len(folders) == arms and all(t["steps_timed"] == STEPS for t in timings)
        watched = [json.loads((f / ".watched").read_text()) for f in folders]
        looking = f"status of {arms} runs: {timed('bitnet.status', out):.2f} s; report: {timed('bitnet.report', out):.2f} s"
    clock = sum(t["train_seconds"] + t["eval_seconds"] for t in timings)
    processor = sum(seconds for seconds, _ in watched)
    print(f"{arms} arms on {cores} cores: {took:.1f} s of wall time")
    print(f"by the clock: training {clock:.1f} s; {100 * (took * cores - clock) / clock:.0f} % over it")
    print(f"by processor time: training {processor:.1f} s, {1000 * processor / arms:.0f} ms a run; orchestration ", end="")
    print(f"{1000 * (used - processor) / arms:.0f} ms a run, {100 * (used - processor) / processor:.0f} % over it")
    first = [seconds for _, seconds in watched]
    print(f"from a run's fork to the end of its first step: median {statistics.median(first):.2f} s, at most {max(first):.2f} s")
    print(looking)


def processor_seconds() -> float:
    """User and system time of all processes that ended so far, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed(module: str, *arguments: str, watch: str = "") -> float:
    """Wall time of a command of the project."""
    path = os.pathsep.join(p for p in (watch, os.environ.get("PYTHONPATH", "")) if p)
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=os.environ | {"PYTHONPATH": path},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)

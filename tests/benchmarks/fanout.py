"""What the fan-out costs: many short runs through `launcher=local`, beside what their training takes.

    python tests/benchmarks/fanout.py [arms]

Training is what a run would also do in a script of its own, once that script is at work: forward, backward, update,
evaluation, its rows of metrics and its checkpoints; as seconds of the clock, `train_seconds` + `eval_seconds` of run.json.
Orchestration is all the rest: starting Python and importing torch, composing, validating and freezing the arms, forking,
reading the frozen configuration and the data, building the model, run records, watching, and cores that stand idle.

Two ratios of orchestration to training are printed. By the clock: cores x wall time of the command, less training. By
processor time: that of the command and all its processes, less that of training, which is measured in processes of the
same kind, one at a time, around the training loop. The second one also holds on a machine that does other work meanwhile.

Also printed: the time from the start of a run's process to the end of its first step, and the time of `bitnet.status` and
`bitnet.report`.
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
COMMON = ["data=synthetic", "model=tiny", f"steps={STEPS}"]

# One run, and what its training takes of the processor, by a clock around `loop.train`; loaded as bitnet.worker loads it.
ONE_RUN = """
import json, os, sys, time
from pathlib import Path
from bitnet import run, worker
worker._warm_up()
for folder in sys.argv[1:]:
    began = time.time()
    if os.fork() == 0:
        first, real_train, real_update = [], run.train, run.Trainer.update
        def update(self, step):
            result = real_update(self, step)
            first.append(time.time())
            return result
        def train(*args, **kwargs):
            before = time.process_time()
            try:
                return real_train(*args, **kwargs)
            finally:
                print(json.dumps([time.process_time() - before, first[0] - began]), flush=True)
        run.Trainer.update, run.train = update, train
        run.execute(Path(folder), threads=1)
        os._exit(0)
    os.wait()
"""


def main(arms: int) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as out:
        common = [*COMMON, f"out={out}"]
        subprocess.run([sys.executable, "-m", "bitnet.prepare", *common], check=True, stdout=subprocess.DEVNULL)
        before = processor_seconds()
        took = timed("bitnet.train", "-m", *common, f"seed={','.join(map(str, range(arms)))}")
        used = processor_seconds() - before
        timings = [json.loads(p.read_text())["timing"] for p in Path(out).glob("*/*/run.json")]
        assert len(timings) == arms and all(t["steps_timed"] == STEPS for t in timings)
        training = sum(t["train_seconds"] + t["eval_seconds"] for t in timings)
        print(f"status of {arms} runs: {timed('bitnet.status', out):.2f} s; report: {timed('bitnet.report', out):.2f} s")
    each, first_step = alone(9)
    print(f"{arms} arms on {cores} cores: {took:.1f} s of wall time; training {training:.1f} s in all")
    print(f"by the clock: {100 * (took * cores - training) / training:.0f} % over training")
    print(f"by processor time: {used:.1f} s, {1000 * used / arms:.0f} ms a run; training {1000 * each:.0f} ms a run: ", end="")
    print(f"{100 * (used / arms - each) / each:.0f} % over training")
    print(f"from the start of a run's process to the end of its first step: {first_step:.2f} s")


def processor_seconds() -> float:
    """User and system time of all processes that ended so far, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def alone(runs: int) -> tuple[float, float]:
    """Medians over `runs`: processor seconds of training, and seconds from the start of a process to its first step."""
    with tempfile.TemporaryDirectory() as out:
        freeze = "import sys; from bitnet import pool, train; pool.run_all = lambda *a: {}; train.main(sys.argv[1:])"
        seeds = ",".join(map(str, range(runs)))
        command = [sys.executable, "-c", freeze, "-m", *COMMON, f"out={out}", f"seed={seeds}"]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        folders = [str(p.parent) for p in Path(out).glob("*/*/run.json")]
        command = [sys.executable, "-c", ONE_RUN, *folders]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        measured = [json.loads(line) for line in lines.splitlines() if line.startswith("[")]
    training, first = zip(*measured, strict=True)
    return statistics.median(training), statistics.median(first)


def timed(module: str, *arguments: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)

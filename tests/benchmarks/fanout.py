"""What the fan-out costs: many short runs through `launcher=local`, beside the time that their training takes.

    python tests/benchmarks/fanout.py [arms]

Prints the wall time of the whole command, the sum of the runs' training and evaluation time as they recorded it, and the
overhead: wall time x runs at once - that sum, as a share of the sum. Also the time of `bitnet.status` and `bitnet.report`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main(arms: int) -> None:
    with tempfile.TemporaryDirectory() as out:
        common = ["data=synthetic", "model=tiny", "steps=20", f"out={out}"]
        subprocess.run([sys.executable, "-m", "bitnet.prepare", *common], check=True, stdout=subprocess.DEVNULL)
        seeds = ",".join(map(str, range(arms)))
        took = timed("bitnet.train", "-m", *common, f"seed={seeds}")
        timings = [json.loads(p.read_text())["timing"] for p in Path(out).glob("*/*/run.json")]
        assert len(timings) == arms
        training = sum(t["train_seconds"] + t["eval_seconds"] for t in timings)
        cores = len(os.sched_getaffinity(0))
        print(f"{arms} arms on {cores} cores: {took:.1f} s; training and evaluation {training:.1f} s in all")
        print(f"overhead {100 * (took * cores - training) / training:.0f} % of that (cores x wall time, less training)")
        print(f"a run costs {1000 * (took - training / cores) / arms:.0f} ms of wall time beyond its training")
        print(f"status of {arms} runs: {timed('bitnet.status', out):.2f} s; report: {timed('bitnet.report', out):.2f} s")


def timed(module: str, *arguments: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)

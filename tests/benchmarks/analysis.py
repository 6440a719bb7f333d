"""What status and report cost at scale: both commands on a tree of many run folders, beside their targets.

    python tests/benchmarks/analysis.py [runs] [rows]

Makes the tree in a temporary folder (2,000 runs x 200 rows unless told otherwise, 5 seeds an arm, every column filled) and
prints each command's wall time, CPU time and peak memory. On a busy machine the CPU time is the fair figure.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from run_folders import make_run, metrics_text

from bitnet.runs import heartbeat
from bitnet.runs.columns import COLUMNS, INTEGERS

SEEDS, SWEEPS, COURSES = 5, 4, 20  # runs of an arm; sweeps in the tree; different metrics.csv among the runs
TARGETS = {"status": (2.0, None), "report": (20.0, 2.0)}  # seconds, GB
OPTIONS, SIZES = ("wd=paper", "wd=wd005", "wd=wd01", "wd=wd02"), (256, 512, 768, 1024)
STATES = (*["done"] * 5, "running", "failed", "queued")


def main(runs: int, rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        make_tree(top, runs, rows)
        size = sum(path.stat().st_size for path in top.rglob("metrics.csv"))
        print(f"{runs:,} runs x {rows} rows, {size / 1e6:,.0f} MB of metrics.csv; load {os.getloadavg()[0]:.1f}")
        for command, (seconds, memory) in TARGETS.items():
            wall, cpu, peak = measured(command, top)
            limit = "" if memory is None else f", {memory:.0f} GB"
            print(f"{command}: {wall:.1f} s, CPU {cpu:.1f} s, peak {peak:.2f} GB (target {seconds:.0f} s{limit})")


def make_tree(top: Path, runs: int, rows: int) -> None:
    """Run folders as training leaves them: most are done, one in eight each is running, failed or queued."""
    courses = [course(seed, rows) for seed in range(COURSES)]
    arms = -(-runs // SEEDS)
    made = {(option, hidden): one_run(option, hidden, 50 * rows) for option in OPTIONS for hidden in SIZES}
    for number in range(runs):
        arm, seed = number % arms, number // arms
        option, hidden = OPTIONS[arm % len(OPTIONS)], SIZES[arm // len(OPTIONS) % len(SIZES)]
        config, record = made[option, hidden]
        overrides = [option, f"model={hidden}", f"lr.peak={1e-3 * (1 + arm // (len(OPTIONS) * len(SIZES))):g}"]
        folder, run_id = top / f"sweep{arm % SWEEPS}", f"{arm:05x}{seed:05x}"
        own = {"id": run_id, "arm_id": f"{arm:010x}", "seed": seed, "sweep": folder.name, "status": STATES[number % len(STATES)]}
        own |= {"label": ",".join(overrides), "overrides": [*overrides, f"seed={seed}"]}
        run = folder / f"{','.join(overrides)},seed={seed}-{run_id}"
        run.mkdir(parents=True)
        (run / "run.json").write_text(json.dumps(record | own, indent=2))
        (run / "config.yaml").write_text(config)
        (run / "metrics.csv").write_text(courses[(7 * arm + seed) % COURSES])
        (run / "log.txt").write_text("step 1: loss 9.01\n" * 200)
        if own["status"] == "running":
            heartbeat.write(run, {"time": time.time(), "step": 50, "loss": 7.0, "tokens_per_second": 900.0, "left": 60.0})


def course(seed: int, rows: int) -> str:
    """A metrics.csv with a value in every cell, of the length that training writes."""
    values = np.random.default_rng(seed).uniform(0.1, 9.0, (rows, len(COLUMNS)))
    fixed = {"contexts_positions": 20, "first_batch_positions": 128}
    cells = [
        {c: round(v) if c in INTEGERS else float(v) for c, v in zip(COLUMNS, row, strict=True)} | {"Step": 50 * (i + 1)} | fixed
        for i, row in enumerate(values)
    ]
    return metrics_text(cells)


def one_run(option: str, hidden: int, steps: int) -> tuple[str, dict[str, Any]]:
    """config.yaml and run.json of a finished run, as long as real ones."""
    parts = dict.fromkeys(("total", "embedding", "attention", "ffn", "head", "norm"), 1_000_000)
    facts: dict[str, Any] = {"parameters": parts, "final": dict.fromkeys(COLUMNS, 1.2345678901234567)}
    facts |= {"command": "python -m bitnet.train -m wd=paper", "versions": {f"package{i}": "1.2.3" for i in range(9)}}
    facts |= {"published": ["scaling"], "identity": {f"key{i}": 1.0 for i in range(60)}}
    with tempfile.TemporaryDirectory() as aside:
        run = make_run(Path(aside), arm=option, hidden=hidden, steps=steps, rows=None, **facts)
        return (run / "config.yaml").read_text(), json.loads((run / "run.json").read_text())


def measured(command: str, top: Path) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak memory in GB of `bitnet.<command>` on the tree, in a process of its own."""
    began = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", f"bitnet.{command}", str(top)], stdout=subprocess.DEVNULL)
    _, code, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - began
    if code != 0:
        raise SystemExit(f"bitnet.{command} failed with {os.waitstatus_to_exitcode(code)}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main(*map(int, sys.argv[1:] or ("2000", "200")))

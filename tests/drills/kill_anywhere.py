"""Kill a run at random moments, again and again, and compare what it leaves with an undisturbed run, to the bit.

    python tests/drills/kill_anywhere.py [kills]

Three configurations share the kills. Each run is started, killed (SIGKILL) after a random time, started again, and so on
until it is done; moments during a save, an evaluation or start-up are hit as they come. `metrics.csv` and the last
checkpoint (weights, optimizer, generators; its name carries the hash of its content) must equal those of a run that nobody
disturbed. Prints a line for each configuration; exits with 1 where anything differs.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SMALL = ["data=synthetic", "data.tokens=400000", "data.heldout_tokens=2000", "probe.heldout_sequences=4"]
SMALL += ["model=tiny", "threads=1", "steps=1500", "eval_every=7", "checkpoint.every=5"]
CONFIGURATIONS = {
    "study": [],
    "stateful": ["optimizer=adamw", "regularizer=coverage", "stream=shuffled", "probe.redraw=true"],
    "faq, tied": ["recipe=faq", "layout=2b4t", "batch_size=2", "seq_len=64"],
}


def start(out: Path, arguments: list[str]) -> subprocess.Popen:
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "bitnet.train", *SMALL, *arguments, f"out={out}"]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def left_behind(out: Path) -> tuple[str, str]:
    (record,) = out.glob("*/*/run.json")
    assert json.loads(record.read_text())["status"] == "done"
    saved = sorted(p.name for p in (record.parent / "checkpoints").iterdir())
    return (record.parent / "metrics.csv").read_text(), saved[-1]


def disturbed(out: Path, arguments: list[str], kills: int, longest: float, luck: random.Random) -> int:
    """Kill the run up to `kills` times, then let it end; returns how often it was really killed at work."""
    killed = 0
    for _ in range(kills):
        process = start(out, arguments)
        deadline = time.monotonic() + luck.uniform(1.0, longest)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        killed += 1
    assert start(out, arguments).wait() == 0
    return killed


def main(kills: int) -> int:
    luck = random.Random(0)
    different = 0
    for name, arguments in CONFIGURATIONS.items():
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            assert start(Path(folder) / "calm", arguments).wait() == 0
            whole = time.monotonic() - began
            killed, rounds = 0, 0
            calm = left_behind(Path(folder) / "calm")
            while killed < kills / len(CONFIGURATIONS):
                out = Path(folder) / f"disturbed-{rounds}"
                wanted = min(8, -(-kills // len(CONFIGURATIONS)) - killed)
                killed += disturbed(out, arguments, wanted, whole * 0.6, luck)
                rounds += 1
                same = left_behind(out) == calm
                different += not same
            verdict = "DIFFERENT" if different else "the same bits"
            print(f"{name}: {killed} kills over {rounds} runs of {whole:.0f} s each: {verdict}", flush=True)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50))

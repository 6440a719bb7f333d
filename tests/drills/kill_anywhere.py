"""Kill a run at random moments, again and again, and compare what it leaves with an undisturbed run, to the bit.

    python tests/drills/kill_anywhere.py [kills]

Three configurations share the kills (50). Each run is started, killed (SIGKILL), started again, and so on until it is done.
Every second kill comes after a random time, and hits start-up, training or an evaluation as it may; every other one comes
while the partial file of a checkpoint exists, in the middle of a save. Rows of `metrics.csv`, weights, optimizer memory,
probe, regulariser and generators must equal those of a run that nobody disturbed, and no partial file may be left.
Prints a line for each configuration; exits with 1 where anything differs. Ten minutes on two cores.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

from common import SMALL, STATEFUL, Drill, complete, differences, ended, partials, start, the_run, wait_until

EVAL_EVERY = 7
LENGTH = ["steps=500", f"eval_every={EVAL_EVERY}", "checkpoint.every=5"]
CONFIGURATIONS = {
    "study": [],
    "stateful": STATEFUL,
    "faq, tied": ["recipe=faq", "layout=2b4t", "batch_size=2", "seq_len=64"],
}
MOST = 8  # kills of one run; then it may end


def killed_at_random(arguments: list[str], longest: float, luck: random.Random) -> bool:
    """Start, kill after a random time; whether it was still at work."""
    with ended(start(*arguments)) as process:
        deadline = time.monotonic() + luck.uniform(1.0, longest)
        wait_until(lambda: time.monotonic() >= deadline, process)
        alive = process.poll() is None
        process.kill()
    return alive


def killed_in_a_save(arguments: list[str], out: Path, luck: random.Random) -> bool:
    """Start, kill while a partial checkpoint exists; whether it is really there afterwards."""
    with ended(start(*arguments)) as process:
        wait_until(lambda: not partials(out), process)  # what an earlier kill left is removed at the start
        for _ in range(luck.randrange(1, 15)):
            wait_until(lambda: not partials(out), process)
            wait_until(lambda: partials(out), process)
        process.kill()
    return bool(partials(out))


def main(kills: int) -> int:
    luck, drill = random.Random(0), Drill()
    share = -(-kills // len(CONFIGURATIONS))
    for name, options in CONFIGURATIONS.items():
        with tempfile.TemporaryDirectory() as folder:
            arguments = [*SMALL, *LENGTH, *options]
            began = time.monotonic()
            complete(*arguments, f"out={folder}/calm")
            whole = time.monotonic() - began
            calm, faults, counts, rounds = the_run(Path(folder) / "calm"), [], [0, 0], 0
            while sum(counts) < share:
                out = Path(folder) / f"disturbed-{rounds}"
                for turn in range(min(MOST, share - sum(counts))):
                    here = [*arguments, f"out={out}"]
                    hit = killed_in_a_save(here, out, luck) if turn % 2 else killed_at_random(here, whole * 0.4, luck)
                    counts[turn % 2] += hit
                complete(*arguments, f"out={out}")
                faults += differences(the_run(out), calm, EVAL_EVERY)
                rounds += 1
            what = f"{name}: {counts[0]} kills at random, {counts[1]} in a save, {rounds} runs of {whole:.0f} s"
            drill.say(f"{what}; rows, weights, optimizer, generators as undisturbed", faults)
    return drill.exit_code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50))

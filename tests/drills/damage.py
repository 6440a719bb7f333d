"""Damage a run's newest checkpoint in every way, and let the run go on: it must fall back, say so, and end with the same bits.

    python tests/drills/damage.py [flips]

The newest of a run's checkpoints is cut off after every kilobyte (1,024 bytes, empty included), one bit of it is flipped at
`flips` (100) random places, and it is removed. Each time the run goes on for real: it must start from the checkpoint before,
one save interval earlier, say which file is damaged and keep it aside, and end with the rows, weights, optimizer memory and
generators of an undisturbed run. Exits with 1 where anything differs. Four minutes on two cores.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from common import SMALL, STATEFUL, Drill, complete, differences, record, the_run

EVERY, EVAL_EVERY, LAST = 5, 3, 24
ARGUMENTS = [*SMALL, *STATEFUL, f"steps={LAST}", f"eval_every={EVAL_EVERY}", f"checkpoint.every={EVERY}", "checkpoint.keep=3"]
KIBIBYTE = 1024


def saved(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob("step-*.safetensors"))


def step_of(path: Path) -> int:
    return int(path.name.split("-")[1])


def cut_short(calm: Path, left: Path) -> Path:
    """A copy of a finished run as a kill right before its last save would have left it: with some steps to go."""
    shutil.copytree(calm, left)
    saved(left)[-1].unlink()
    (left / "run.json").write_text(json.dumps(record(left) | {"status": "running", "finished": None, "step": LAST - 1}))
    return left


def go_on(folder: Path) -> str:
    """Execute the run in this process; returns what it said."""
    from bitnet.training import execute

    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        execute.execute(folder)
    return said.getvalue()


def survives(left: Path, calm: Path, work: Path, damage: Callable[[Path], None]) -> list[str]:
    """What is wrong after the damage: `left` is the run's folder before it, `calm` that of an undisturbed run."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(left, work)
    *_, before, newest = saved(work)
    damage(newest)
    missing = not newest.exists()
    said = go_on(work)
    faults = [] if missing or f"{newest.name} is damaged" in said else ["it did not say that the checkpoint is damaged"]
    if f"resuming after step {step_of(before)}" not in said or step_of(newest) - step_of(before) != EVERY:
        faults.append(f"it did not go on from the checkpoint before: {said!r}")
    aside = list((work / "checkpoints").glob("*.damaged"))
    faults += [] if [p.name for p in aside] == ([] if missing else [f"{newest.name}.damaged"]) else [f"aside: {aside}"]
    return faults + differences(work, calm, EVAL_EVERY)


def cut(length: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[:length])


def flip(bit: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)

    return damage


def main(flips: int) -> int:
    luck, drill = random.Random(0), Drill()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        cached = [*ARGUMENTS, f"data.cache={place}/cache"]
        complete(*cached, f"out={place}/calm")
        calm = the_run(place / "calm")
        left = cut_short(calm, place / "left")
        size = saved(left)[-1].stat().st_size
        lengths = range(0, size, KIBIBYTE)
        bits = [luck.randrange(8 * size) for _ in range(flips)]
        kinds: dict[str, list[Callable[[Path], None]]] = {
            f"cut off after each of {len(lengths)} kilobytes, 0 to {lengths[-1]:,} of {size:,} bytes": [cut(n) for n in lengths],
            f"a bit flipped at {flips} random places": [flip(b) for b in bits],
            "removed": [Path.unlink],
        }
        for name, damages in kinds.items():
            drill.say(name, [fault for d in damages for fault in survives(left, calm, place / "work", d)])
    return drill.exit_code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100))

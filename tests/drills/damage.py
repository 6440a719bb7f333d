"""Damage a run's newest checkpoint in every way, and let the run go on: it must fall back, say so, and end with the same bits.

    python tests/drills/damage.py [flips]

The newest of a run's checkpoints is cut off after every kilobyte (1,024 bytes, empty included), one bit of it is flipped at
`flips` (100) random places, and it is removed. Each time the run goes on for real: it must start from the checkpoint before,
one save interval earlier, say which file is damaged and keep it aside, and end with the rows, weights, optimizer memory and
generators of an undisturbed run. Exits with 1 where anything differs. Four minutes on two cores.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from common import Drill, differences
from unfinished import EVAL_EVERY, EVERY, copy_anew, go_on, saved, set_up, step_of

KIBIBYTE = 1024


def survives(left: Path, calm: Path, work: Path, damage: Callable[[Path], None]) -> list[str]:
    """What is wrong after the damage: `left` is the run's folder before it, `calm` that of an undisturbed run."""
    copy_anew(left, work)
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
        calm, left, _ = set_up(place)
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

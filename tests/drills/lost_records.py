"""Damage what a run has on record, and let it go on: it must say what is lost, make it again, and end with the same bits.

    python tests/drills/lost_records.py [changes]

The metrics.csv of an unfinished run is cut off after every line, loses each of its lines, has `changes` (40) random digits of
its rows changed, and is removed; its run.json is emptied, cut short and removed, and the command that started it is repeated.
Exits with 1 where anything differs from an undisturbed run. Two minutes on two cores.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from common import Drill, complete, differences
from unfinished import EVAL_EVERY, copy_anew, go_on, set_up


def after_lost_rows(left: Path, calm: Path, work: Path, damage: Callable[[Path], None]) -> list[str]:
    """What is wrong after the damage to metrics.csv of the run that lies in `left`."""
    copy_anew(left, work)
    whole = (work / "metrics.csv").read_bytes()
    damage(work / "metrics.csv")
    if (work / "metrics.csv").exists() and (work / "metrics.csv").read_bytes() == whole:
        return []
    said = go_on(work)
    faults = [] if said.count("metrics.csv ") == 1 else [f"it did not say once what was lost: {said!r}"]
    (work / "metrics.csv.damaged").unlink(missing_ok=True)
    return faults + differences(work, calm, EVAL_EVERY)


def after_lost_record(left: Path, calm: Path, out: Path, damage: Callable[[Path], None], arguments: list[str]) -> list[str]:
    """The same for its run.json."""
    shutil.rmtree(out, ignore_errors=True)
    work = out / left.parent.name / left.name
    shutil.copytree(left, work)
    damage(work / "run.json")
    is_there = (work / "run.json").exists()
    said = complete(*[a for a in arguments if a != "threads=1"], "threads=1", f"out={out}")
    faults = [] if "resuming after step" in said else [f"it did not go on: {said!r}"]
    kept = work / "run.json.damaged"
    faults += [] if kept.exists() == is_there else ["what is damaged is not kept aside"]
    kept.unlink(missing_ok=True)
    return faults + differences(work, calm, EVAL_EVERY)


def without_line(number: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:number] + lines[number + 1 :]))

    return damage


def cut_after(number: int) -> Callable[[Path], None]:
    return lambda path: path.write_text("".join(path.read_text().splitlines(keepends=True)[:number]))


def change(luck: random.Random) -> Callable[[Path], None]:
    """Another digit for one of those in the rows that are kept."""

    def damage(path: Path) -> None:
        text = path.read_text()
        start = text.index("\n") + 1
        digits = [i for i in range(start, len(text)) if text[i].isdigit()]
        place = luck.choice(digits)
        path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])

    return damage


def main(changes: int) -> int:
    luck, drill = random.Random(0), Drill()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        calm, left, arguments = set_up(place)
        # the rows after the last checkpoint are made again in any case
        kept = left / "metrics.csv"
        kept.write_text(
            "".join(line for line in kept.read_text().splitlines(keepends=True) if not line.startswith(("21,", "24,")))
        )
        lines = len(kept.read_text().splitlines())
        kinds: dict[str, list[Callable[[Path], None]]] = {
            f"metrics.csv cut off after each of its {lines} lines": [cut_after(n) for n in range(lines)],
            f"each of its {lines} lines lost": [without_line(n) for n in range(lines)],
            f"{changes} digits changed": [change(luck) for _ in range(changes)],
            "removed": [Path.unlink],
        }
        for name, damages in kinds.items():
            drill.say(name, [fault for d in damages for fault in after_lost_rows(left, calm, place / "work", d)])
        records = [Path.unlink, lambda p: p.write_text(""), lambda p: p.write_text(p.read_text()[:200])]
        out = place / "again"
        faults = [fault for d in records for fault in after_lost_record(left, calm, out, d, arguments)]
        drill.say("run.json removed, emptied, cut short", faults)
    return drill.exit_code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 40))

"""Let many processes prepare the same data at once, kill the one that does the work, and look at what is left.

    python tests/drills/racing.py [rounds]

In each of `rounds` (5) rounds, 16 processes of `bitnet.prepare` start together on an empty cache; the one that builds is
killed (SIGKILL) at a random moment of its work. The 15 others must end well and name the same folder and hash; the work must
have been begun twice, by the killed one and by one other; and nothing but one sound cache may be left. Every second round
also kills the second builder. Two minutes on two cores.
"""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from common import Drill, start

from bitnet.data.prepared import open_prepared

PROCESSES = 16


def text(path: Path, luck: random.Random) -> None:
    words = ["".join(luck.choices("abcdefghij", k=luck.randrange(2, 9))) for _ in range(5000)]
    path.write_text("\n".join(" ".join(luck.choices(words, k=12)) for _ in range(30_000)))


def building(cache: Path, not_by: set[int]) -> int:
    """The id of the process that builds now and is none of `not_by`."""
    while True:
        pids = {int(p.name.rsplit("-", 1)[1]) for p in cache.glob("*.building-*")} - not_by
        if pids:
            return pids.pop()
        time.sleep(0.0005)


def race(cache: Path, source: Path, kills: int, luck: random.Random) -> list[str]:
    """What is wrong after one race with that many kills."""
    arguments = ["data=text", f"data.paths=[{source}]", "tokenizer.vocab_size=2000", f"data.cache={cache}"]
    processes = {p.pid: p for p in (start(*arguments, module="bitnet.prepare") for _ in range(PROCESSES))}
    killed: set[int] = set()
    for _ in range(kills):
        pid = building(cache, killed)
        time.sleep(luck.uniform(0, 0.4))
        processes[pid].send_signal(signal.SIGKILL)
        killed.add(pid)
    said = {pid: p.communicate()[0] for pid, p in processes.items()}
    faults = [f"exit code {p.returncode}" for pid, p in processes.items() if p.returncode != (-9 if pid in killed else 0)]
    ends = {said[pid].splitlines()[-1] for pid in said if pid not in killed}
    faults += [] if len(ends) == 1 and "sha256" in next(iter(ends)) else [f"different ends: {ends}"]
    begun = sum(line.startswith("data: preparing") for text in said.values() for line in text.splitlines())
    # what the killed ones printed may have died in their buffer
    faults += [] if 1 <= begun <= kills + 1 else [f"the work was begun {begun} times"]
    folders = [p for p in cache.iterdir() if p.is_dir()]
    if len(folders) != 1 or "building" in folders[0].name:
        return [*faults, f"left behind: {[p.name for p in folders]}"]
    complaints: list[str] = []
    sound = open_prepared(folders[0], complaints.append)
    return faults + ([] if sound is not None else complaints)


def main(rounds: int) -> int:
    luck, drill = random.Random(0), Drill()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "text.txt"
        text(source, luck)
        for number in range(rounds):
            kills = 1 + number % 2
            faults = race(Path(folder) / f"cache-{number}", source, kills, luck)
            drill.say(f"{PROCESSES} processes, {kills} killed at work: one sound cache, nothing beside it", faults)
    return drill.exit_code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))

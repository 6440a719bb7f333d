"""Stop runs dead in the middle of a sweep (SIGSTOP), kill what they are forked from, and see that nothing waits for ever.

    python tests/drills/hung_run.py [rounds]

In each of `rounds` (2) rounds: a sweep with a run that hangs is asked to stop twice, then three times, with the process that runs
are forked from hung as well; a sweep with `launcher.stalled_minutes` is left alone; and that process is killed at random moments
(SIGKILL), again and again. Every sweep must end within seconds of what it promises, with the exit code that it states; what is
left goes on when the same command is repeated, and ends like an undisturbed run, to the bit. Five minutes on two cores.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import SMALL, Drill, complete, differences, ended, record, runs, start, wait_until

from bitnet.common.stopping import GRACE_SECONDS

EVAL_EVERY = 10
SWEEP = [
    "-m",
    "seed=0,1,2",
    *SMALL,
    "probe.many_contexts=0",
    "probe.prompts=0",
    "steps=400",
    f"eval_every={EVAL_EVERY}",
    "checkpoint.every=5",
]
SLACK_SECONDS = 20.0  # for a busy machine


def children(pid: int) -> list[int]:
    return [int(c) for p in Path(f"/proc/{pid}/task").glob("*/children") for c in p.read_text().split()]


def at_work(out: Path) -> list[int]:
    """The processes of runs that train."""
    return [record(f)["pid"] for f in runs(out) if record(f)["status"] == "running" and (f / ".progress.json").exists()]


def hang_one(process: subprocess.Popen, out: Path, luck: random.Random) -> None:
    wait_until(lambda: at_work(out), process)
    time.sleep(luck.uniform(0, 1))
    if pids := at_work(out):
        os.kill(luck.choice(pids), signal.SIGSTOP)


def ask(process: subprocess.Popen, times: int) -> float:
    """Send so many requests; when the last one was sent."""
    for _ in range(times):
        process.send_signal(signal.SIGTERM)
        last = time.monotonic()
        time.sleep(1)
    return last


def insisted(out: Path, times: int, luck: random.Random) -> list[str]:
    with ended(start(*SWEEP, f"out={out}")) as process:
        hang_one(process, out, luck)
        if times == 3:
            for server in children(process.pid):
                os.kill(server, signal.SIGSTOP)
        last = ask(process, times)
        said = process.communicate(timeout=120)[0]
    late = time.monotonic() - last - (GRACE_SECONDS if times == 2 else 0)
    faults = [f"ended {late:.0f} s late"] if late > SLACK_SECONDS else []
    faults += [] if process.returncode == 130 else [f"exit code {process.returncode}, said {said[-300:]!r}"]
    return faults + [f"status {record(f)['status']}" for f in runs(out) if record(f)["status"] not in {"queued", "done"}]


def stalled(out: Path, luck: random.Random) -> list[str]:
    with ended(start(*SWEEP, "launcher.stalled_minutes=0.2", f"out={out}")) as process:
        hang_one(process, out, luck)
        said = process.communicate(timeout=300)[0]
    found = sorted(record(f)["status"] for f in runs(out))
    faults = [] if process.returncode == 1 and found == ["done", "done", "failed"] else [f"{process.returncode}: {found}"]
    return faults + ([] if "no heartbeat for 0.2 minutes" in said else [said[-300:]])


def forked_from_is_killed(out: Path, luck: random.Random) -> list[str]:
    with ended(start(*SWEEP, f"out={out}")) as process:
        for _ in range(3):
            before = sum(record(f)["step"] for f in runs(out))
            wait_until(lambda before=before: at_work(out) and sum(record(f)["step"] for f in runs(out)) > before, process)
            time.sleep(luck.uniform(0, 1))
            for server in children(process.pid):
                os.kill(server, signal.SIGKILL)
        said = process.communicate(timeout=300)[0]
    return (
        [] if process.returncode == 0 and "Traceback" not in said else [f"exit code {process.returncode}, said {said[-300:]!r}"]
    )


def main(rounds: int) -> int:
    luck, drill = random.Random(0), Drill()
    cases = {
        "asked twice": lambda out: insisted(out, 2, luck),
        "asked three times, all hung": lambda out: insisted(out, 3, luck),
        "stalled": lambda out: stalled(out, luck),
        "what forks the runs is killed": lambda out: forked_from_is_killed(out, luck),
    }
    with tempfile.TemporaryDirectory() as folder:
        complete(*SWEEP, f"out={folder}/calm")
        calm = {record(f)["seed"]: f for f in runs(Path(folder) / "calm")}
        for number in range(rounds):
            for name, case in cases.items():
                out = Path(folder) / f"{name}-{number}".replace(",", "").replace(" ", "-")  # a comma would be an axis
                faults = case(out)
                complete(*SWEEP, f"out={out}")
                faults += [d for f in runs(out) for d in differences(f, calm[record(f)["seed"]], EVAL_EVERY)]
                drill.say(f"a hung run, round {number + 1}: {name}", faults)
    return drill.exit_code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2))

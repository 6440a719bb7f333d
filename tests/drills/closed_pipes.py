"""Take away whoever reads what a run says, in every way, and see that it trains on.

    python tests/drills/closed_pipes.py

A single run and a sweep, each with: stderr closed; all three streams closed; a reader that leaves after a line; a pipe that is
full and that nobody empties; a terminal that nobody reads; a terminal that vanishes in the middle. All must end with exit code
0, no message may land in a file, and what they leave must equal the runs of an undisturbed command, to the bit. Two minutes.
"""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from common import ROOT, SMALL, Drill, complete, differences, record, runs, wait_until

EVAL_EVERY = 1
RUN = [*SMALL, "probe.many_contexts=0", "probe.prompts=0", "steps=30", f"eval_every={EVAL_EVERY}", "checkpoint.every=5"]
COMMANDS = {"a run": RUN, "a sweep": ["-m", "seed=0,1", *RUN]}
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def run(arguments: list[str], **streams) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "bitnet.train", *arguments], env=ENVIRONMENT, **streams)


def in_a_shell(line: str) -> Callable[[list[str], Path], int]:
    """The exit code of the command within a line of bash, where it is called COMMAND."""

    def code(arguments: list[str], out: Path) -> int:
        command = 'COMMAND() { "$0" -m bitnet.train "$@"; }; ' + line.replace("COMMAND", 'COMMAND "$@"')
        return subprocess.run(["bash", "-c", command, sys.executable, *arguments], env=ENVIRONMENT, timeout=300).returncode

    return code


def with_a_full_pipe(arguments: list[str], out: Path) -> int:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    process = run(arguments, stdout=writing, stderr=writing)
    code = process.wait(timeout=300)
    os.close(reading)
    os.close(writing)
    return code


def with_a_terminal_that_nobody_reads(arguments: list[str], out: Path) -> int:
    ours, theirs = pty.openpty()
    process = run(arguments, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    code = process.wait(timeout=300)
    os.close(ours)
    return code


def with_a_terminal_that_vanishes(arguments: list[str], out: Path) -> int:
    ours, theirs = pty.openpty()
    process = run(arguments, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    leaving = threading.Event()

    def read() -> None:
        with contextlib.suppress(OSError):
            while os.read(ours, 4096) and not leaving.is_set():
                pass
            os.close(ours)

    threading.Thread(target=read, daemon=True).start()
    wait_until(lambda: sum(p.read_text().count("\n") for p in out.glob("*/*/metrics.csv")) > 6, process)
    leaving.set()
    return process.wait(timeout=300)


WAYS: dict[str, Callable[[list[str], Path], int]] = {
    "stderr closed": in_a_shell("COMMAND 2>&-"),
    "all closed": in_a_shell("COMMAND 0<&- 1>&- 2>&-"),
    "a reader that leaves after a line": in_a_shell('COMMAND 2>&1 | head -n 1 >/dev/null; exit "${PIPESTATUS[0]}"'),
    "a full pipe": with_a_full_pipe,
    "a terminal that nobody reads": with_a_terminal_that_nobody_reads,
    "a terminal that vanishes": with_a_terminal_that_vanishes,
}


def main() -> int:
    drill = Drill()
    with tempfile.TemporaryDirectory() as folder:
        complete(*COMMANDS["a sweep"], f"out={folder}/calm")
        calm = {record(f)["seed"]: f for f in runs(Path(folder) / "calm")}
        for what, arguments in COMMANDS.items():
            for way, code in WAYS.items():
                out = Path(folder) / f"{what}-{way}".replace(" ", "-")
                ended = code([*arguments, f"out={out}"], out)
                faults = [] if ended == 0 else [f"exit code {ended}"]
                faults += [d for f in runs(out) for d in differences(f, calm[record(f)["seed"]], EVAL_EVERY)]
                faults += [] if runs(out) else ["no run"]
                drill.say(f"{what}, {way}", faults)
    return drill.exit_code


if __name__ == "__main__":
    sys.exit(main())

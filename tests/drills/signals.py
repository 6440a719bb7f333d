"""Ask a run to stop, in every way and at every kind of moment, and compare what it ends with after all, to the bit.

    python tests/drills/signals.py [times]

SIGTERM and SIGUSR2, each sent: at random moments, twice in a row, in the middle of an evaluation, in the middle of a save,
while data is being prepared by a lone run, by the controller of a sweep and by `bitnet.prepare`; `times` (3) rounds of each.
A signal that finds the run at work must end it with exit code 130 and a record that says `queued`; the next start must go
on, and the end must equal that of an undisturbed run: rows, weights, optimizer memory, generators. Prints a line for each;
exits with 1 where anything differs. Ten minutes on two cores.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import SMALL, STATEFUL, Drill, complete, differences, ended, partials, record, runs, start, the_run, wait_until

EVAL_EVERY = 5
COMMON = [*SMALL, *STATEFUL, f"eval_every={EVAL_EVERY}", "checkpoint.every=3"]
SHORT = [*COMMON, "steps=400"]
# evaluations of most of a second between steps of milliseconds: any moment is one in an evaluation
EVALUATING = [*COMMON, "steps=40", "data.heldout_tokens=200000", "probe.heldout_sequences=4000"]
TEXT = ["data=text", "tokenizer.vocab_size=3000", "probe.heldout_sequences=4", "model=tiny", "threads=1", "steps=40"]
SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
Moment = Callable[[subprocess.Popen, Path, random.Random], object]


def rows(out: Path) -> int:
    return sum(p.read_text().count("\n") for p in out.glob("*/*/metrics.csv"))


def at_random(process: subprocess.Popen, out: Path, luck: random.Random) -> None:
    """From the interpreter's start on; more often after the first output, with the time that a loaded machine takes."""
    if luck.random() < 0.8:
        before = sum(len(record(f).get("sessions", [])) for f in runs(out))
        wait_until(lambda: sum(len(record(f).get("sessions", [])) for f in runs(out)) > before, process)
    time.sleep(luck.uniform(0, 2))


def in_training(process: subprocess.Popen, out: Path, luck: random.Random) -> None:
    wanted = rows(out) + luck.randrange(1, 3)
    wait_until(lambda: rows(out) > wanted, process)
    time.sleep(luck.uniform(0, 0.1))


def in_a_save(process: subprocess.Popen, out: Path, luck: random.Random) -> None:
    for _ in range(luck.randrange(1, 6)):
        wait_until(lambda: not partials(out), process)
        wait_until(lambda: partials(out), process)


def in_preparation(process: subprocess.Popen, out: Path, luck: random.Random) -> None:
    wait_until(lambda: list(out.glob(".data/*.building-*")), process)
    time.sleep(luck.uniform(0, 0.3))


CASES: dict[str, tuple[list[str], Moment, int]] = {
    "at random": (SHORT, at_random, 1),
    "twice in a row": (SHORT, in_training, 2),
    "in an evaluation": (EVALUATING, in_training, 1),
    "in a save": (SHORT, in_a_save, 1),
    "in a save, twice": (SHORT, in_a_save, 2),
}


def stopped(arguments: list[str], out: Path, moment: Moment, number: int, times: int, luck: random.Random) -> list[str]:
    """Start, send the signal at the moment, `times` in a row; what is wrong with how the command ended."""
    with ended(start(*arguments)) as process:
        moment(process, out, luck)
        for _ in range(times):
            process.send_signal(number)
            time.sleep(luck.choice([0, 0.001, 0.02]))
        said = process.communicate(timeout=120)[0]
    if process.returncode == -number and not said:  # it was still being imported: nothing had begun
        return []
    faults = [] if process.returncode in (0, 130) else [f"exit code {process.returncode}, said {said[-300:]!r}"]
    if "Traceback" in said:
        faults.append(f"said {said[-500:]!r}")
    wanted = {"done"} if process.returncode == 0 else {"done", "queued"}
    return faults + [f"status {record(f)['status']}" for f in runs(out) if record(f)["status"] not in wanted]


def runs_are_stopped(drill: Drill, place: Path, times: int, luck: random.Random) -> None:
    """Signals to a run, at every kind of moment, until it has had `times` of each."""
    calms = {}
    for case, (arguments, moment, in_a_row) in CASES.items():
        if id(arguments) not in calms:
            calms[id(arguments)] = place / f"calm-{len(calms)}"
            complete(*arguments, f"out={calms[id(arguments)]}")
        for number in SIGNALS:
            out = place / f"{case}-{number.name}".replace(" ", "-")
            faults = []
            for _ in range(times):
                faults += stopped([*arguments, f"out={out}"], out, moment, number, in_a_row, luck)
            complete(*arguments, f"out={out}")
            faults += differences(the_run(out), the_run(calms[id(arguments)]), EVAL_EVERY)
            sessions = len(record(the_run(out))["sessions"])
            drill.say(f"{number.name} {case}: {times} times, {sessions} sessions", faults)


def preparation_is_stopped(drill: Drill, place: Path, times: int, luck: random.Random) -> None:
    """Signals while data is prepared: nothing half-done is left, and the next start prepares it."""
    text = place / "text.txt"
    words = ["".join(luck.choices("abcdefghij", k=luck.randrange(2, 9))) for _ in range(5000)]
    text.write_text("\n".join(" ".join(luck.choices(words, k=12)) for _ in range(60_000)))
    commands = {
        "a lone run": ("bitnet.train", []),
        "a sweep": ("bitnet.train", ["-m", "seed=0,1"]),
        "bitnet.prepare": ("bitnet.prepare", []),
    }
    for name, (module, more) in commands.items():
        for number in SIGNALS:
            out, faults = place / f"prepare-{name}-{number.name}".replace(" ", "-"), []
            arguments = [*TEXT, f"data.paths=[{text}]", f"data.cache={out}/.data", f"out={out}", *more]
            for turn in range(times):
                with ended(start(*arguments, module=module)) as process:
                    in_preparation(process, out, luck)
                    for _ in range(1 + turn % 2):
                        process.send_signal(number)
                    said = process.communicate(timeout=120)[0]
                faults += [f"exit code {process.returncode}"] if process.returncode != 130 else []
                faults += [f"said {said[-300:]!r}"] if "Traceback" in said else []
                if turn % 2 == 0:  # a second signal may cut the cleaning short; the next start does it then
                    faults += [f"{p.name} was left behind" for p in out.glob(".data/*.building-*")]
            with ended(start(*arguments, module=module)) as process:
                said = process.communicate()[0]
            faults += [] if process.returncode == 0 else [said[-300:]]
            kept = [p.name for p in (out / ".data").iterdir() if p.is_dir()]
            faults += [] if len(kept) == 1 and "building" not in kept[0] else [f"cached: {kept}"]
            drill.say(f"{number.name} while {name} prepares data: {times} times", faults)


def main(times: int) -> int:
    luck, drill = random.Random(0), Drill()
    with tempfile.TemporaryDirectory() as folder:
        preparation_is_stopped(drill, Path(folder), times, luck)
        runs_are_stopped(drill, Path(folder), times, luck)
    return drill.exit_code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3))

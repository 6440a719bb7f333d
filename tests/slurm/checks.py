"""Sweeps on a real SLURM: arrays, failures, preemption, time limits, a controller that dies. Minutes on two cores.

    make test-slurm            # or: python tests/slurm/checks.py [--or-say-why]

Starts a SLURM of its own (cluster.py), installing it with apt where that is possible. Prints a line for each thing that
holds; ends with 1 where one does not, and with 2 where no SLURM can be started (0 with --or-say-why, which says so).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster import ARRAY_LIMIT, CannotStart, cluster, output, provide, until

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["data=synthetic", "data.tokens=4000000", "data.heldout_tokens=2000", "probe.heldout_sequences=4"]
SMALL += ["model=tiny", "eval_every=100", "checkpoint.every=50", "probe.prompts=0", "probe.many_contexts=0"]
SLURM = ["launcher=slurm", "launcher.cpus=1", "launcher.memory_gb=2", "launcher.time_minutes=30"]
_PATIENCE = 240.0  # seconds for anything to happen


def start(out: Path, *arguments: str) -> subprocess.Popen:
    """A training command in the background, its messages in `out`.log."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "bitnet.train", *SMALL, *arguments, f"out={out}"]
    with out.with_suffix(".log").open("a") as log:
        return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, cwd=out.parent, stdout=log, stderr=log)


def said(out: Path) -> str:
    return out.with_suffix(".log").read_text()


def launch(out: Path, *arguments: str) -> tuple[int, str]:
    """A training command to its end: its exit code and what it said."""
    before = len(said(out)) if out.with_suffix(".log").exists() else 0
    code = start(out, *arguments).wait(timeout=_PATIENCE)
    return code, said(out)[before:]


def runs(out: Path) -> dict[int, tuple[Path, dict[str, Any]]]:
    """Folder and record of each run, by its number of steps, which differs between the arms here."""
    found = [(p.parent, json.loads(p.read_text())) for p in out.glob("*/*/run.json")]
    return {run["steps"]: (folder, run) for folder, run in found}


def status(out: Path, steps: int) -> str | None:
    return runs(out)[steps][1]["status"] if steps in runs(out) else None


def step(out: Path, steps: int) -> int:
    """How far a run has come, by its last save."""
    return runs(out)[steps][1]["step"] if steps in runs(out) else 0


def sessions(out: Path, steps: int) -> list[int]:
    """The steps after which a run's sessions began."""
    return [s["after_step"] for s in runs(out)[steps][1].get("sessions", [])]


def left(out: Path, steps: int) -> tuple[str, str]:
    """What a run leaves: its metrics and its last checkpoint, whose name carries the hash of weights, optimizer, generators."""
    folder = runs(out)[steps][0]
    return (folder / "metrics.csv").read_text(), sorted(p.name for p in (folder / "checkpoints").iterdir())[-1]


def jobs() -> int:
    """How many jobs there have been, tasks of arrays counted one by one."""
    return len(output("squeue", "-h", "-r", "-t", "all", "-p", "main").splitlines())


def holds(true: bool, what: str, *evidence: object) -> None:
    if not true:
        raise AssertionError("\n".join([what, *map(str, evidence)]))
    print(f"  {what}", flush=True)


@contextlib.contextmanager
def hurried() -> Iterator[None]:
    """SLURM lets a requeued job wait for two minutes; within the block it starts again at once."""
    over = threading.Event()

    def hurry() -> None:
        while not over.wait(1.0):
            for line in output("squeue", "-h", "-r", "-t", "PENDING", "-o", "%i %r").splitlines():
                job, _, reason = line.partition(" ")
                if reason == "BeginTime":
                    output("scontrol", "update", f"JobId={job}", "StartTime=now")

    thread = threading.Thread(target=hurry)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# -------------------------------------------------------------------------------------------------------------- checks
def steps_per_second(out: Path) -> float:
    """How fast this machine is, from a run without SLURM that also prepares the data."""
    code, messages = launch(out, "steps=300", "threads=1")
    assert code == 0, messages
    timing = runs(out)[300][1]["timing"]
    return timing["steps_timed"] / (timing["train_seconds"] + timing["eval_seconds"])


def check_arrays(out: Path, long: int) -> None:
    """More runs than an array holds; the controller is killed, and started again."""
    arms = [20, 21, 22, 23, long]
    sweep = ["-m", f"steps={','.join(map(str, arms))}", *SLURM]
    before = jobs()
    controller = start(out, *sweep)
    until(lambda: "submitted as" in said(out), "the sweep is submitted", _PATIENCE)
    controller.kill()
    controller.wait()
    arrays = set(output("squeue", "-h", "-r", "-t", "all", "-o", "%F").split())
    holds(jobs() - before == len(arms), f"{len(arms)} runs are {len(arms)} jobs")
    holds(len(arrays) == 2, f"in 2 submissions, since MaxArraySize is {ARRAY_LIMIT}", arrays)
    code, messages = launch(out, *sweep)
    states = {s: r["status"] for s, (_, r) in runs(out).items()}
    all_done = code == 0 and states == dict.fromkeys(arms, "done")
    holds(all_done, "the controller killed and restarted: all are done", states, messages)
    holds(jobs() - before == len(arms) and "runs in the queue already" in messages, "and none was submitted twice", messages)
    began = time.monotonic()
    code, messages = launch(out, *sweep)
    took = time.monotonic() - began
    holds(code == 0 and jobs() - before == len(arms), f"launched again it finds nothing to do ({took:.0f} s)", messages)
    recorded = {r["slurm"]["job"].partition("_")[0] for _, r in runs(out).values()}
    holds(recorded == arrays, "each record names its job", recorded, arrays)


def check_failures(out: Path, calm: Path, long: int) -> None:
    """Submitted and left alone; then one run raises, one is killed."""
    arms, broken = [24, 25, long], 25
    sweep = ["-m", f"steps={','.join(map(str, arms))}", *SLURM]
    code, messages = launch(out, *sweep, "launcher.wait=false", "+launcher.extra.hold=true")
    states = {s: r["status"] for s, (_, r) in runs(out).items()}
    holds(code == 0 and set(states.values()) == {"queued"}, "launcher.wait=false submits and returns", states, messages)
    print("    " + "\n    ".join(messages.strip().splitlines()[-2:]))
    array = runs(out)[broken][1]["slurm"]["job"].partition("_")[0]
    foreign = next((runs(calm)[20][0] / "checkpoints").iterdir())
    (runs(out)[broken][0] / "checkpoints").mkdir()
    placed = Path(shutil.copy(foreign, runs(out)[broken][0] / "checkpoints"))
    before = jobs()
    controller = start(out, *sweep)
    until(lambda: "runs in the queue already" in said(out), "the controller has found them", _PATIENCE)
    output("scontrol", "release", array)
    until(lambda: step(out, long) >= 50, "the long run has saved", _PATIENCE)
    os.kill(runs(out)[long][1]["pid"], signal.SIGKILL)
    code = controller.wait(timeout=_PATIENCE)
    found = {s: r for s, (_, r) in runs(out).items()}
    states = {s: r["status"] for s, r in found.items()}
    expected = {24: "done", broken: "failed", long: "failed"}
    holds(states == expected and code == 1, "one raises, one is killed: the others finish, exit code 1", states, code, said(out))
    for steps in (broken, long):
        print(f"    {found[steps]['reason'].splitlines()[0][:130]}")
    holds(jobs() == before, "without a job submitted twice")
    code = subprocess.run([sys.executable, "-m", "bitnet.report", str(out)], cwd=ROOT, capture_output=True, text=True)
    holds(code.returncode == 0, "the tables can be made", code.stderr)
    placed.unlink()
    code, messages = launch(out, *sweep)
    states = {s: r["status"] for s, (_, r) in runs(out).items()}
    all_done = code == 0 and set(states.values()) == {"done"}
    holds(all_done and jobs() - before == 2, "the next launch runs just those two", states, messages)
    holds(sessions(out, long)[-1] >= 50 and left(out, long) == left(calm, long), "the killed one resumed, to the same bits")


def check_preemption(out: Path, calm: Path, long: int) -> None:
    """A job of higher priority takes the node."""
    controller = start(out, "-m", f"steps={long}", *SLURM)
    until(lambda: step(out, long) >= 50, "the run is at work", _PATIENCE)
    output("sbatch", "-p", "high", "-c", "2", "-o", "/dev/null", "--wrap", "sleep 2")
    code = controller.wait(timeout=_PATIENCE)
    holds(code == 0 and status(out, long) == "done", "preempted by a higher partition, it is requeued and ends well", said(out))
    began = sessions(out, long)
    holds(len(began) == 2 and 50 <= began[1] < long, f"it resumed at the step that it had saved ({began[-1]} of {long})", began)
    stops = [line for line in (runs(out)[long][0] / "log.txt").read_text().splitlines() if "stopped at step" in line]
    holds(len(stops) == 1 and f"step {began[1]}," in stops[0], "where the signal had come", stops)
    holds(left(out, long) == left(calm, long), "metrics and checkpoint have the bits of the undisturbed run")


def hold_until_warned(out: Path, steps: int) -> None:
    """Let a run stand still from its first save on until SLURM has warned it, however fast this machine is."""
    until(lambda: step(out, steps) >= 50, "the run has saved", _PATIENCE)
    process = runs(out)[steps][1]["pid"]
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        os.kill(process, signal.SIGSTOP)
        until(lambda: stands_still(process), "the run stands still", 10)
        until(lambda: warned(process) or not stands_still(process), "the warning", 60)
        os.kill(process, signal.SIGCONT)


def of_process(number: int) -> dict[str, str]:
    lines = Path(f"/proc/{number}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def stands_still(number: int) -> bool:
    return of_process(number)["State"].startswith("T")


def warned(number: int) -> bool:
    """Whether SIGUSR2 waits for a process."""
    found = of_process(number)
    return bool((int(found["ShdPnd"], 16) | int(found["SigPnd"], 16)) >> (signal.SIGUSR2 - 1) & 1)


def check_time_limit(out: Path, controller: subprocess.Popen, calm: Path, long: int) -> None:
    """One minute at a time."""
    code = controller.wait(timeout=2 * _PATIENCE)
    log = (runs(out)[long][0] / "log.txt").read_text() if long in runs(out) else ""
    done = code == 0 and status(out, long) == "done"
    holds(done, "longer than its time limit, it is requeued until it is done", said(out), log[-3000:])
    began = sessions(out, long)
    holds(len(began) > 1 and began == sorted(set(began)), f"in {len(began)} sessions, after steps {began} of {long}", log)
    holds(left(out, long) == left(calm, long), "metrics and checkpoint have the bits of the undisturbed run")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bitnet-slurm-") as place, hurried():
        outs = {name: Path(place) / name for name in ("speed", "calm", "failures", "preempted", "limited")}
        cache = ["data.cache=" + str(Path(place) / "cache")]
        SMALL.extend(cache)
        speed = steps_per_second(outs["speed"])
        long = max(100, round(12 * speed))
        print(f"{speed:.0f} steps a second; the long run has {long} steps", flush=True)
        print("arrays, and a controller that dies", flush=True)
        check_arrays(outs["calm"], long)
        minute = ["launcher.time_minutes=1", "launcher.signal_seconds=15"]
        controller = start(outs["limited"], "-m", f"steps={long}", *SLURM, *minute)
        holding = threading.Thread(target=hold_until_warned, args=(outs["limited"], long))
        holding.start()
        print("runs that fail", flush=True)
        check_failures(outs["failures"], outs["calm"], long)
        print("a time limit", flush=True)
        check_time_limit(outs["limited"], controller, outs["calm"], long)
        holding.join()
        print("preemption", flush=True)
        check_preemption(outs["preempted"], outs["calm"], long)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster is taken down
    try:
        provide()
        with cluster():
            began = time.monotonic()
            main()
            print(f"all of it holds ({time.monotonic() - began:.0f} s)")
    except CannotStart as error:
        print(f"no SLURM can be started here, so sweeps on SLURM are not tested: {error}")
        sys.exit(0 if "--or-say-why" in sys.argv else 2)
    except (AssertionError, TimeoutError, subprocess.TimeoutExpired) as error:
        sys.exit(f"FAILED: {error}")

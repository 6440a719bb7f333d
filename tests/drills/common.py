"""What the drills share: starting runs as a user does, and comparing what they leave, to the bit."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bitnet.runs.columns import COLUMNS  # noqa: E402
from bitnet.training import checkpoint  # noqa: E402 (found through the line above)

DATA = ["data=synthetic", "data.tokens=400000", "data.heldout_tokens=2000", "probe.heldout_sequences=4"]
SMALL = [*DATA, "model=tiny", "threads=1"]
STATEFUL = ["optimizer=adamw", "regularizer=coverage", "stream=shuffled", "probe.redraw=true"]
PARTS = ("model", "optimizer", "probe", "regularizer", "rng")


# ------------------------------------------------------------------------------------------------------------- running
def start(*arguments: str, module: str = "bitnet.train") -> subprocess.Popen:
    """The command, with its output in one pipe."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True
    )


def complete(*arguments: str) -> str:
    """Run the command to its end, which must be a good one; returns what it printed."""
    process = start(*arguments)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    return said


def runs(out: Path) -> list[Path]:
    """Run folders below `out`."""
    return sorted(p.parent for p in out.glob("*/*/run.json"))


def the_run(out: Path) -> Path:
    """The one run folder below `out`."""
    (folder,) = runs(out)
    return folder


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def wait_until(condition: Callable[[], object], process: subprocess.Popen, seconds: float = 600) -> bool:
    """Look as often as possible; False when the process ends, or the time, before the condition holds."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.0001)
    return False


def partials(out: Path) -> list[Path]:
    """Checkpoints that are being written, or that a killed process left."""
    return list(out.glob("*/*/checkpoints/.saving"))


# ----------------------------------------------------------------------------------------------------------- comparing
def state(folder: Path) -> dict[str, str]:
    """A hash of each part of a run's last checkpoint: weights, optimizer memory, probe, regulariser, generators; its facts.

    The name of a checkpoint carries a hash of the whole file, so equal names already say as much; this says which part differs.
    """
    found = checkpoint.read(max((folder / "checkpoints").glob("step-*.safetensors")))
    assert found is not None, f"{folder}: the last checkpoint is damaged"
    assert found.below("model") and found.below("optimizer") and found.below("rng")
    hashes = {part: hashlib.sha256() for part in PARTS}
    for name, tensor in sorted(found.tensors.items()):
        part = hashes[name.split("/")[0]]
        part.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        part.update(tensor.contiguous().reshape(-1).view(_bytes()).numpy().tobytes())
    return {part: h.hexdigest() for part, h in hashes.items()} | {"facts": json.dumps(found.facts), "file": found.path.name}


def _bytes() -> object:
    import torch

    return torch.uint8


def faults_in_rows(folder: Path, eval_every: int, last: int) -> list[str]:
    """What is wrong with `metrics.csv`: torn, duplicate, missing or misplaced rows of a run that reached step `last`."""
    text = (folder / "metrics.csv").read_text(encoding="utf-8")
    lines = text.split("\n")
    faults = [] if lines.pop() == "" else ["the last line is torn"]
    if lines[:1] != [",".join(COLUMNS)]:
        return [*faults, "the header is not that of the columns"]
    rows = [line.split(",") for line in lines[1:]]
    faults += [f"row {i} has {len(r)} cells of {len(COLUMNS)}" for i, r in enumerate(rows, 1) if len(r) != len(COLUMNS)]
    steps = [r[0] for r in rows]
    faults += [f"step {s} stands there {steps.count(s)} times" for s in sorted(set(steps)) if steps.count(s) > 1]
    wanted = [str(s) for s in range(1, last + 1) if s == 1 or s % eval_every == 0 or s == last]
    faults += [f"step {s} is missing" for s in wanted if s not in steps]
    faults += [f"step {s} was not to be evaluated" for s in steps if s not in wanted]
    return faults or ([] if steps == wanted else ["the rows are not in the order of their steps"])


def differences(folder: Path, calm: Path, eval_every: int) -> list[str]:
    """How what a disturbed run left differs from the undisturbed one: status, rows, every part of the state, stray files."""
    run, other = record(folder), record(calm)
    found = [f"{key}: {run[key]} for {other[key]}" for key in ("status", "step") if run[key] != other[key]]
    found += faults_in_rows(folder, eval_every, other["step"])
    if (folder / "metrics.csv").read_bytes() != (calm / "metrics.csv").read_bytes():
        found.append("metrics.csv differs")
    ours, theirs = state(folder), state(calm)
    found += [f"{part} differs" for part in theirs if ours[part] != theirs[part]]
    return found + [f"{p.name} was left behind" for p in stray(folder)]


def stray(folder: Path) -> list[Path]:
    """Files that belong to no finished run."""
    known = {".lock", "checkpoints", "config.yaml", "log.txt", "metrics.csv", "run.json", "samples.json"}
    named = [p for p in folder.iterdir() if p.name not in known]
    kinds = {".safetensors", ".damaged", ".without-rows"}
    return named + [p for p in (folder / "checkpoints").iterdir() if p.suffix not in kinds]


# ----------------------------------------------------------------------------------------------------------- reporting
class Drill:
    """Counts what went wrong and says so at once."""

    def __init__(self) -> None:
        self.failures = 0

    def say(self, what: str, faults: list[str]) -> None:
        self.failures += bool(faults)
        print(f"{'FAILED' if faults else 'ok'}: {what}{': ' if faults else ''}{'; '.join(faults[:5])}", flush=True)

    @property
    def exit_code(self) -> int:
        return 1 if self.failures else 0


@contextlib.contextmanager
def ended(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """No process outlives its drill."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()

"""An unfinished run for the drills that damage it: its arguments, an undisturbed one, and how it goes on."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path

from common import SMALL, STATEFUL, complete, record, the_run

EVERY, EVAL_EVERY, LAST = 5, 3, 24
ARGUMENTS = [*SMALL, *STATEFUL, f"steps={LAST}", f"eval_every={EVAL_EVERY}", f"checkpoint.every={EVERY}", "checkpoint.keep=3"]


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


def set_up(place: Path) -> tuple[Path, Path, list[str]]:
    """An undisturbed run, one that was cut short, and the arguments of both, with a cache in `place`."""
    cached = [*ARGUMENTS, f"data.cache={place}/cache"]
    complete(*cached, f"out={place}/calm")
    calm = the_run(place / "calm")
    return calm, cut_short(calm, place / "left" / calm.parent.name / calm.name), cached


def copy_anew(left: Path, work: Path) -> None:
    """Make `work` what `left` is."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(left, work)

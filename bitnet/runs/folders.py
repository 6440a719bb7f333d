"""Run records: where a run lives, `run.json`, `config.yaml` and `metrics.csv`, each written so that a crash can't tear it.

The readers of these files are in `runs.py`; what the columns mean stands in `columns.py`.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from bitnet.common.errors import UserError

_LABEL_LENGTH = 100


# -------------------------------------------------------------------------------------------------- names and places
def folder_label(overrides: Iterable[str]) -> str:
    """Overrides as one folder-safe, readable word: `optimizer=adamw,wd=paper`; `defaults` when there are none.

    Of a path its last part stands there.
    """
    text = ",".join(o.replace("'", "").replace('"', "") for o in overrides)
    text = re.sub(r"(?<=[=,\[])[^=,\[\]]*/(?=[^/,\]]+)", "", text)
    text = re.sub(r"[^A-Za-z0-9=,._+-]+", "_", text).replace("..", "_").strip(".")
    if len(text) > _LABEL_LENGTH:  # what differs most often stands at the end
        text = f"{text[: _LABEL_LENGTH - 62]}--{text[-60:]}"
    return text or "defaults"


def run_folder(out: Path, group: str | None, name: str) -> Path:
    """The folder of the run called `name` (`<readable>-<id>`): below `out`/<sweep>, or below the date for a run of no sweep.

    A run that was begun before, on an earlier day or with its overrides spelt otherwise, is found again by its id.
    """
    run_id = name.rsplit("-", 1)[1]
    if group is not None:
        here = out / folder_label([group])
        known = sorted(here.glob(f"*-{run_id}/run.json"))
        return known[0].parent if known else here / name
    earlier = sorted(out.glob(f"[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]/*-{run_id}/run.json"))
    return earlier[-1].parent if earlier else out / datetime.now().strftime("%Y-%m-%d") / name


def check_writable(out: Path) -> None:
    """Raise UserError when nothing can be written below `out`."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UserError(f"out={out}: can't be written ({error.strerror}); name another folder with out=FOLDER") from None


def check_inside(folder: Path, out: Path) -> None:
    """Raise UserError when links would have the run in `folder` written outside `out`."""
    for place in (folder, *(folder.iterdir() if folder.is_dir() else ())):
        if (real := place.resolve()) != place and not real.is_relative_to(out.resolve()):
            raise UserError(f"{place}: is a link that leads out of {out}, where nothing is written; remove it")


_CHECKPOINT = re.compile(r"step-(\d{8})-([0-9a-f]{16})\.safetensors")


def checkpoint_name(step: int, digest: str) -> str:
    """What a checkpoint's file is called: its step, and how the hash of its content begins."""
    return f"step-{step:08d}-{digest[:16]}.safetensors"


def checkpoint_parts(name: str) -> tuple[int, str] | None:
    """Step and hash in the name of a checkpoint; None for any other file."""
    parts = _CHECKPOINT.fullmatch(name)
    return None if parts is None else (int(parts[1]), parts[2])


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints in a folder with their steps, the newest first."""
    named = [(checkpoint_parts(path.name), path) for path in folder.glob("step-*")]
    return sorted(((parts[0], path) for parts, path in named if parts is not None), reverse=True)

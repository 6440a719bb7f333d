"""Where runs lie and what their folders and checkpoint files are called; the one walker of run folders."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from bitnet.common.errors import UserError

_LABEL_LENGTH = 100


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


def run_folder(out: Path, group: str | None, name: str, former_group: str | None = None) -> Path:
    """The folder of the run called `name` (`<readable>-<id>`): below `out`/<sweep>, or below the date for a run of no sweep.

    A run that was begun before, on an earlier day or with its overrides spelt otherwise, is found again by its id.

    Args:
        former_group: what the sweep was called before; where only that folder is there, it goes on to be used.
    """
    run_id = name.rsplit("-", 1)[1]
    if group is not None:
        here = out / folder_label([group])
        if former_group is not None and not here.exists() and (former := out / folder_label([former_group])).exists():
            here = former
        known = _begun(here, f"*-{run_id}")
        return known[0] if known else here / name
    earlier = _begun(out, f"[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]/*-{run_id}")
    return earlier[-1] if earlier else out / datetime.now().strftime("%Y-%m-%d") / name


def _begun(top: Path, pattern: str) -> list[Path]:
    """Folders in which a run was begun, in order; its run.json may be lost."""
    return sorted(f for f in top.glob(pattern) if (f / "run.json").exists() or (f / "config.yaml").exists())


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
            where = f"a symbolic link that leads outside {out}; runs are written only below it"
            raise UserError(f"{place}: {where}, so remove the link")


def find_runs(directories: Iterable[Path]) -> Iterator[tuple[Path, str | None]]:
    """The run folders at and below `directories`, each once and in a fixed order; with a reason, folders that can't be listed.

    A run folder holds `run.json` or `metrics.csv`. Nothing is looked for inside one, in hidden folders, or behind links.

    Raises:
        UserError: a directory that is not there.
    """
    seen: set[str] = set()
    for directory in directories:
        if not directory.is_dir():
            raise UserError(f"{directory}: no such folder; give a run, a sweep, or a folder of sweeps")
        blocked: list[OSError] = []
        for at, inside, files in os.walk(directory, onerror=blocked.append):
            inside[:] = sorted(name for name in inside if not name.startswith("."))
            if "run.json" not in files and "metrics.csv" not in files:
                continue
            inside.clear()
            if (real := os.path.realpath(at)) not in seen:
                seen.add(real)
                yield _nameable(at)
        yield from ((Path(error.filename), f"can't be listed: {error.strerror}") for error in blocked)


def _nameable(folder: str) -> tuple[Path, str | None]:
    """A folder, or as much of its name as can be written down, and why it is not read."""
    readable = os.fsencode(folder).decode(errors="replace")
    return Path(readable), None if readable == folder else "its path is no UTF-8 text; rename it"


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

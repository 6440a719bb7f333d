"""Files that others rely on: their hash, checkpoints' names, renames that last, whether they can be written, a closed stdout."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
from pathlib import Path

_CHECKPOINT = re.compile(r"step-(\d{8})-([0-9a-f]{16})\.safetensors")


def sha256(path: Path) -> str:
    """Hex digest of a file's content, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut, where the system can open folders."""
    with contextlib.suppress(PermissionError, IsADirectoryError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def discard_output() -> None:
    """Send what is still printed nowhere: a reader that stops early (`| head`) is no error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def existing(path: Path) -> Path:
    """The nearest folder above that is there."""
    return path if path.exists() else existing(path.parent)


def unwritable(path: Path) -> str | None:
    """Why nothing can be written below `path`, looked at without writing; None when it can."""
    there = existing(path)
    if not there.is_dir():
        return f"{there} is a file"
    return None if os.access(there, os.W_OK | os.X_OK) else f"no permission to write in {there}"

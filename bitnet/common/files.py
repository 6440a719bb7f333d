"""Files that others rely on: whole or not there, their hashes, renames that last, whether they can be written."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path


def write_atomically(path: Path, text: str, *, lasting: bool = True) -> None:
    """Replace a file's content as a whole: a reader, or a crash of a process, sees the old or the new.

    Args:
        lasting: whether it has to be on the disk on return, so that a power cut can't take it back. That takes
            milliseconds, and is not needed for what launching the same command again finds out anew.
    """
    # not mkstemp: what it makes only its owner may read
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if lasting:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def sha256(path: Path) -> str:
    """Hex digest of a file's content, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut, where the system can open folders."""
    with contextlib.suppress(PermissionError, IsADirectoryError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def existing_parent(path: Path) -> Path:
    """The nearest folder above that is there."""
    return path if path.exists() else existing_parent(path.parent)


def why_unwritable(path: Path) -> str | None:
    """Why nothing can be written below `path`, looked at without writing; None when it can."""
    there = existing_parent(path)
    if not there.is_dir():
        return f"{there} is a file"
    return None if os.access(there, os.W_OK | os.X_OK) else f"no permission to write in {there}"

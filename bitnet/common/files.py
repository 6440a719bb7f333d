"""Files that others rely on: whole or not there, their hashes, renames that last, locks, whether they can be written."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from bitnet.common.errors import UserError, is_disk_error


class Locked(Exception):
    """Another process holds the lock."""


_OTHER_OUT = "name a folder on another file system with out=FOLDER"


@contextlib.contextmanager
def hold_lock(path: Path, remedy: str = _OTHER_OUT, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock that a file stands for, which the system releases with the process.

    Args:
        remedy: what to do where the file system grants no locks.
    Raises:
        Locked: when another process holds it and `wait` is not asked for.
        UserError: when the file system grants none, as NFS without its lock service.
        OSError: when the disk is full or broken.
    """
    lock = FileLock(path, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:  # an OSError itself
        raise Locked(f"{path} is held by another process") from None
    except (OSError, NotImplementedError) as error:
        if is_disk_error(error):
            raise
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: can't be locked ({why}), and without locks two processes could do the same; {remedy}") from None
    try:
        yield
    finally:
        lock.release()


def write_atomically(path: Path, text: str, *, lasting: bool = True) -> None:
    """Replace a file's content as a whole: a reader, or a crash of a process, sees the old or the new.

    Args:
        lasting: whether it has to be on the disk on return, so that a power cut can't take it back. That takes
            milliseconds, and is not needed for what launching the same command again finds out anew.
    """
    # not mkstemp: what it makes only its owner may read
    partial = path.with_name(f".{path.name}-{os.getpid()}-{threading.get_ident()}")
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

"""Files that others rely on: their hash, and renames that last."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path


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

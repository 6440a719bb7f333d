"""A running run's sign of life, for whoever looks on from another process."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitnet.runs.facts import Beat
from bitnet.runs.reading import Unreadable, modified_at, read_json_mapping, read_json_or_empty

_NAME = ".progress.json"


def write(folder: Path, values: Mapping[str, Any]) -> None:
    """Replace the heartbeat of the run in `folder`."""
    partial = folder / f"{_NAME}.partial"
    partial.write_text(json.dumps(values), encoding="utf-8")
    os.replace(partial, folder / _NAME)


def load(folder: Path) -> dict[str, Any]:
    """The newest heartbeat: time, step, loss, unique, tokens_per_second, left; empty without one.

    Raises:
        Unreadable: there is one, and it is damaged.
    """
    try:
        return read_json_mapping(folder / _NAME, Beat)
    except Unreadable:
        if (folder / _NAME).exists():
            raise
        return {}


def read(folder: Path) -> dict[str, Any]:
    """The newest heartbeat; empty when there is none that can be read."""
    return read_json_or_empty(folder / _NAME, Beat)


def written_at(folder: Path) -> float:
    """When the newest heartbeat was written by the clock of its file system, seconds since the epoch; 0 without one."""
    return modified_at(folder / _NAME)


def remove(folder: Path) -> None:
    """The run in `folder` is no longer at work."""
    (folder / _NAME).unlink(missing_ok=True)

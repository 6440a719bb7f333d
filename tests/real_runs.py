"""Runs that the training command makes, for the tests of what interrupts and damages them; run_folders.py makes some by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitnet import train


def exit_code(main: Callable[[list[str]], int], *arguments: str) -> int | str | None:
    """With which code a command ends, however it does."""
    try:
        return main(list(arguments))
    except SystemExit as ended:
        return ended.code


def the_run(out: Path | str = "outputs") -> Path:
    """The one run folder below `out` that is of no named sweep: in a folder with the day's name."""
    (found,) = Path(out).glob("[0-9]*/*/run.json")
    return found.parent


def record(folder: Path) -> dict[str, Any]:
    """What run.json says, whatever it is."""
    return json.loads((folder / "run.json").read_text())


def undisturbed(folders: pytest.TempPathFactory, *arguments: str) -> Path:
    """A run that nothing disturbs, in a folder of its own."""
    out = folders.mktemp("calm")
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(sys, "argv", ["bitnet-train"])
        assert exit_code(train.main, *arguments, f"out={out}") == 0
    return the_run(out)

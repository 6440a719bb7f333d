"""Checkpoints: flat tensors in one safetensors file, whose name carries the hash of its content.

No pickle anywhere, so a foreign file can't run code. A file appears whole or not at all (written aside, synced, renamed), and
any later change of its bytes shows, since the name no longer fits; `newest` then sets it aside and falls back to the one before.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bitnet.common.files import sha256, sync_folder
from bitnet.runs.folders import checkpoint_name, checkpoint_parts, checkpoints

_ASIDE = ".saving"  # a folder, since the safetensors library writes to a temporary file of its own beside the one it is told

_OS_ERROR = re.compile(r"(?:os error |Os \{ code: )(\d+)")

_DAMAGED = ".damaged"


@dataclass(frozen=True)
class Checkpoint:
    """The tensors and the plain facts (`step`, `identity`, ...) of a moment in training."""

    path: Path
    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def below(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose name starts with `prefix/`, without it."""
        return {k[len(prefix) + 1 :]: v for k, v in self.tensors.items() if k.startswith(f"{prefix}/")}


def save(folder: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any], keep: int) -> Path:
    """Write a checkpoint and drop all but the newest `keep`. Equal content gives an equal name.

    Damaged ones that `newest` set aside do not count, and stay.

    Raises:
        OSError: when it can't be written; the earlier checkpoints then stand as they were.
    """
    aside = folder / _ASIDE
    _remove(aside)
    aside.mkdir(parents=True)
    partial = aside / "checkpoint"
    try:
        flat = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        save_file(flat, partial, metadata={"facts": json.dumps(facts | {"step": step}, sort_keys=True)})
        partial.chmod(aside.stat().st_mode & 0o666)  # what others may read, the umask says; the writer leaves it to the owner
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        path = folder / checkpoint_name(step, sha256(partial))
        partial.replace(path)
    except SafetensorError as error:  # its writer's word for a full disk, among others
        raise _as_os_error(error, folder) from error
    finally:
        _remove(aside)
    sync_folder(folder)
    for _, old in checkpoints(folder)[keep:]:
        if old != path:
            old.unlink(missing_ok=True)
    return path


def _as_os_error(error: SafetensorError, folder: Path) -> OSError:
    """What the operating system said, out of the writer's own words."""
    code = _OS_ERROR.search(str(error))
    return OSError(f"{folder}: {error}") if code is None else OSError(int(code[1]), os.strerror(int(code[1])), str(folder))


def _remove(aside: Path) -> None:
    """Remove the folder of a save, and what one that was cut short left in it."""
    if aside.exists():
        shutil.rmtree(aside)


def newest(
    folder: Path, say: Callable[[str], None], problem: Callable[[Checkpoint], str | None] = lambda _: None
) -> Checkpoint | None:
    """The newest checkpoint whose content is what its name says and that has no `problem`, or None. For the one process that
    works on the run.

    Each other one is reported through `say` and renamed to `<name>.damaged`, to be looked into. What a process that was
    killed while it saved left half-written is removed.

    Raises:
        OSError: when a damaged one can't be renamed, or a half-written one removed.
    """
    _remove(folder / _ASIDE)
    saved = checkpoints(folder)
    for _, path in saved:
        checkpoint = read(path)
        why = "its content does not fit its name" if checkpoint is None else problem(checkpoint)
        if checkpoint is not None and why is None:
            return checkpoint
        path.replace(path.with_name(path.name + _DAMAGED))
        say(f"checkpoint {path.name} is damaged ({why}), kept as {path.name}{_DAMAGED}; falling back to the one before")
    if saved:
        say("no checkpoint left that can be used: starting from the first step")
    return None


def newest_facts(folder: Path) -> dict[str, Any]:
    """The facts of the newest checkpoint that can be read; empty without one. Neither its hash nor its tensors are looked at."""
    for step, path in checkpoints(folder):
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {}).get("facts", "{}"))
        except (OSError, SafetensorError, ValueError):
            continue
        if isinstance(facts, dict) and facts.get("step") == step:
            return facts
    return {}


def read(path: Path) -> Checkpoint | None:
    """The checkpoint in a file, or None when it is damaged."""
    parts = checkpoint_parts(path.name)
    if parts is None or not path.is_file() or path.name != checkpoint_name(parts[0], sha256(path)):
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a mapping)
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
    except (OSError, SafetensorError, ValueError):
        return None
    # the hash does not cover the step in the name
    belongs = isinstance(facts, dict) and facts.get("step") == parts[0]
    return Checkpoint(path, tensors, facts) if belongs else None

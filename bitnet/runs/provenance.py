"""What a run was made with: versions, the code's commit, the command that was typed."""

from __future__ import annotations

import functools
import shlex
import subprocess
import sys
from importlib import metadata
from typing import Any

from bitnet.common.paths import PACKAGE

_PACKAGES = ("torch", "numpy", "hydra-core", "omegaconf", "transformers", "datasets", "tokenizers", "pandas")


@functools.cache
def provenance() -> dict[str, Any]:
    """What made a run: versions, the code's commit, the command. Found out once a process, and before it forks."""
    versions = {"python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"versions": versions, "git": _git(), "command": shlex.join(sys.orig_argv)}


def _git() -> dict[str, Any] | None:
    """Commit of the checkout that this package lies in, and whether it had uncommitted changes; None outside one."""
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        state = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit.stdout.strip(), "dirty": bool(state.stdout.strip())}

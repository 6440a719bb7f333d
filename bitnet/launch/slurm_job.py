"""What a SLURM job does, as submitit calls it. Light to import: a job hears no warning before this module is loaded."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet.common.console import guard_streams

# A job's first second: a signal that comes before submitit listens would kill it, so it is held back until `Task` begins.
_HOLD_BACK = (
    "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


def python() -> str:
    """The shell's words for this Python, with SIGUSR2 held back."""
    return f"{shlex.quote(sys.executable)} -S -c {shlex.quote(_HOLD_BACK)}"


@dataclass(frozen=True)
class Task:
    """Execute the run in a folder, with `threads` CPU threads and its output in `log.txt` beside its metrics."""

    threads: int | None

    def __call__(self, folder: str) -> float | None:
        log = os.open(Path(folder) / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
        guard_streams()
        from bitnet.training import execute

        return execute.execute(Path(folder), threads=self.threads, wait=True, supervised=True)

    def checkpoint(self, folder: str) -> Any:
        """What runs when the job was requeued: the same, since the folder holds how far the run came."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, folder)

"""Bounds of numbers that come from outside, on a command line or in a record: beyond them something is wrong, or would crash."""

from __future__ import annotations

import os

from bitnet.common.errors import UserError

MOST_COUNT = 10**15  # of steps, tokens or seconds: floating point holds each whole number below, and no machine gets so far

MOST_THREADS = 1024  # of a run, on any machine

_MOST_A_CORE, _ANYWHERE = 4, 64


def check_threads(threads: int) -> None:
    """Make sure that this machine can start so many threads: libraries that can't start them crash without a word.

    Raises:
        UserError: for more than 4 a core, or 64 where that is more.
    """
    cores = os.cpu_count() or 1
    most = max(_ANYWHERE, _MOST_A_CORE * cores)
    if threads > most:
        raise UserError(
            f"threads={threads}: this machine has {cores} cores and takes at most {most}; a run that has begun keeps the number "
            "that its run.json holds, so it goes on where that many fit"
        )

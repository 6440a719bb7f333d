"""How this process gets its memory from the system."""

from __future__ import annotations

import ctypes

# of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

_NEVER = 2**31 - 1  # bytes that would have to be free at the heap's end before they are given back


def keep_large_blocks() -> bool:
    """Let malloc keep large blocks that are freed, where it can: with glibc. Whether it does from now on.

    By itself it maps every block over 32 MB anew and gives it back at once, so that each step of a training loop, whose
    gradients of a large vocabulary are such blocks, faults all of their pages in again: up to half of a step's time. The price
    is that what a process once used stays its own until it ends.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))

"""Large blocks of memory are kept, where the C library can."""

from __future__ import annotations

import platform
import subprocess
import sys

from bitnet.common.memory import keep_large_blocks


def test_large_blocks_are_kept_where_that_can_be(monkeypatch):
    assert keep_large_blocks() == (sys.platform == "linux" and "glibc" in platform.libc_ver()[0])
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())  # a C library without the knob
    assert keep_large_blocks() is False


def test_a_process_that_keeps_large_blocks_faults_their_pages_in_once():
    code = """
import resource, sys
import numpy as np
from bitnet.common.memory import keep_large_blocks
if sys.argv[1] == "keep":
    keep_large_blocks()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(16_000_000)
before = faults()
for _ in range(4):
    np.ones(16_000_000)  # 128 MB
print(faults() - before)
"""
    plain, kept = (
        int(subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, check=True).stdout)
        for how in ("plain", "keep")
    )
    if keep_large_blocks():
        assert kept < plain / 10

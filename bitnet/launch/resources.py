"""What this machine offers to runs: cores, GPUs, and leases on GPUs that the system releases with their process."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitnet.common.files import Locked, hold_lock

SIMULATED_GPUS = "BITNET_SIMULATED_GPUS"  # for tests of the leases on a machine without GPUs


@dataclass(frozen=True)
class Capacity:
    """What this machine offers to runs: `jobs` at once, `threads` for each, on `devices` (empty: the CPU) x `slots`."""

    jobs: int
    threads: int
    devices: tuple[str, ...]
    slots: int


def visible_gpus(count: int | None = None) -> tuple[str, ...]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES gives them.

    `count`: how many torch sees; None: torch is asked here, which takes seconds where it isn't imported yet.
    """
    if SIMULATED_GPUS in os.environ:
        return tuple(str(n) for n in range(int(os.environ[SIMULATED_GPUS])))
    if count is None:
        import torch

        count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(n) for n in range(count)] if visible is None else visible.split(",")
    return tuple(names[:count])


def capacity(runs: int, device: str, jobs: int | None, jobs_per_gpu: int, count: int | None = None) -> Capacity:
    """How many of `runs` go at once, and with what; `count` as for `visible_gpus`.

    On GPUs each run holds one, or one of `jobs_per_gpu` places on it; `cuda:0,cuda:2` as `device` says which GPUs. On the CPU
    as many run as there are cores, and the cores are divided among them.
    """
    there = () if device == "cpu" else visible_gpus(count)
    if device.startswith("cuda:"):
        there = tuple(there[int(n)] for n in re.findall(r"cuda:(\d+)", device) if int(n) < len(there))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    places = len(there) * jobs_per_gpu if there else cores
    at_once = max(1, min(runs, places if jobs is None else jobs))
    return Capacity(at_once, max(1, cores // at_once), there, jobs_per_gpu)


def leases_folder() -> Path:
    """Where GPU leases lie: one place for all of a user's controllers on this machine."""
    return Path(tempfile.gettempdir()) / f"bitnet-leases-{os.getuid() if hasattr(os, 'getuid') else 'user'}"


_LEASE_SECONDS = 0.2  # between tries for a free GPU


@contextlib.contextmanager
def lease(devices: Sequence[str], slots: int, folder: Path) -> Iterator[str | None]:
    """One of `devices`, held until the block or the process ends; None when there are none to hold.

    A lease is a file lock, which the system releases with the process: a crashed run's GPU is free at once, and two
    controllers on one machine share its GPUs without knowing of each other. `slots` leases fit on one device.

    Raises:
        UserError: when the file system of `folder` grants no locks.
    """
    if not devices:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    places = [(device, folder / f"gpu-{device}-{slot}.lock") for slot in range(slots) for device in devices]
    with contextlib.ExitStack() as held:
        yield _free(places, held)


def _free(places: Sequence[tuple[str, Path]], held: contextlib.ExitStack) -> str:
    """The device of the first lock that is free, which `held` then holds; waits until one is."""
    while True:
        for device, lock in places:
            with contextlib.suppress(Locked):
                held.enter_context(hold_lock(lock, "set TMPDIR to a folder on this machine's own disk"))
                return device
        time.sleep(_LEASE_SECONDS)

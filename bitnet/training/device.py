"""Where a run computes, and how it is made to give the same bits each time."""

from __future__ import annotations

import os
import re

import torch

from bitnet.common.errors import UserError
from bitnet.common.limits import check_threads


def pick_device(name: str) -> torch.device:
    """The device that `name` means; `auto` is the first GPU, else the CPU. Of several GPUs, which runs share, the first.

    Raises:
        UserError: for a name that torch doesn't know, or a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if "," in name:
        return _first_of_several(name)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device={name}: allowed are auto, cpu, cuda and cuda:N") from None
    if device.type not in {"cpu", "cuda"}:
        # "mps" among them: the statistics are gathered in float64, which it lacks
        raise UserError(f"device={name}: allowed are auto, cpu, cuda and cuda:N")
    there = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= there:
        raise UserError(f"device={name}: this machine has {there} CUDA devices; try device=cpu or device=auto")
    return device


def _first_of_several(names: str) -> torch.device:
    each = names.split(",")
    if not all(re.fullmatch(r"cuda:\d+", name) for name in each):
        raise UserError(f"device={names}: several devices are GPUs by their numbers, as in device=cuda:0,cuda:1")
    if len(set(each)) < len(each):
        raise UserError(f"device={names}: a GPU is named twice; launcher.jobs_per_gpu=N puts N runs on each")
    devices = [pick_device(name) for name in each]  # all, so that one which is not there is told
    return devices[0]


def describe(device: torch.device) -> str:
    """The device, with the model of a GPU."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def make_deterministic(threads: int) -> None:
    """Ask torch for the algorithms that give the same bits each time; where an operation has none, torch warns.

    Sums are split among threads, so their number is part of what gives the bits. In this mode torch also fills all memory
    that it hands out uninitialised with NaN, for operations that would read it before they write it. None that a step or an
    evaluation uses does (a test holds that filled and unfilled memory give the same bits), and filling takes a tenth of a step.

    Raises:
        UserError: when this machine can't start so many threads.
    """
    check_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; cuBLAS's own condition
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False
    # its backward pass adds in no fixed order; flash attention and the plain form do
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.set_num_threads(threads)

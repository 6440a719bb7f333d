"""The process that runs are forked from, and what each of them does: `python -m bitnet.worker`, started by `server.py`.

It imports torch once, reads one JSON line for each job from its input, forks a process for it, and writes one line when that
process ends. So a run has a process of its own, which can crash, exit or be killed alone, and still starts in milliseconds.
When the controller dies, the input ends: no new run starts, those that run go on to their end.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bitnet.stopping import SIGNALS

_LEASE_SECONDS = 0.2  # between tries for a free GPU


@contextlib.contextmanager
def lease(devices: Sequence[str], slots: int, folder: Path) -> Iterator[str | None]:
    """One of `devices`, held until the block or the process ends; None when there are none to hold.

    A lease is a file lock, which the system releases with the process: a crashed run's GPU is free at once, and two
    controllers on one machine share its GPUs without knowing of each other. `slots` leases fit on one device.
    """
    if not devices:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        for slot in range(slots):
            for device in devices:
                lock = FileLock(folder / f"gpu-{device}-{slot}.lock", timeout=0)
                try:
                    lock.acquire()
                except Timeout:
                    continue
                try:
                    yield device
                finally:
                    lock.release()
                return
        time.sleep(_LEASE_SECONDS)


def work(job: dict[str, Any]) -> int:
    """Execute one run, with its output in `log.txt` beside its metrics; returns the process's exit code."""
    folder = Path(job["folder"])
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        with lease(job["devices"], job["slots"], Path(job["leases"])) as device:
            if device is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = device
            from bitnet import run

            run.execute(folder, threads=job["threads"], device=None if device is None else "cuda:0", wait=True)
    except KeyboardInterrupt:
        return 130
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _fork(job: dict[str, Any]) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the child heeds them: no request to stop is lost
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return pid
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        code = work(job)
    except KeyboardInterrupt:
        code = 130
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _spawn(job: dict[str, Any]) -> int:
    """Where a process that has imported torch can't safely be forked: a fresh interpreter for each run."""
    return subprocess.Popen([sys.executable, "-m", "bitnet.worker", json.dumps(job)], stdin=subprocess.DEVNULL).pid


def _stop(pids: Iterable[int]) -> None:
    """Ask runs to save and end: processes of this one's own, whose ids no other process can have until they are waited for."""
    for pid in pids:
        os.kill(pid, signal.SIGTERM)


def _warm_up() -> None:
    """Import and find out once what every run needs. Nothing is computed, so that no thread of torch's has to be forked.

    What is there by then is kept from the garbage collector for good: it would find nothing, and each look of a forked
    process at all of these objects would copy the memory that they share.
    """
    gc.disable()
    import numpy.random  # noqa: F401
    import torch

    from bitnet import run

    run.provenance()
    # the first optimizer of a process imports a second's worth of modules
    torch.optim.Adam([torch.nn.Parameter(torch.empty(1))])
    gc.freeze()
    gc.enable()


def _count_gpus() -> int:
    """How many GPUs torch sees. Asked in a process of its own, since CUDA can't be used in forks of one that has asked."""
    import torch

    if sys.platform != "linux" or not torch.backends.cuda.is_built():
        return 0
    if pid := os.fork():
        return max(0, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    count = 0
    try:
        count = torch.cuda.device_count()
    finally:
        os._exit(count)


def serve() -> None:
    """Say how many GPUs there are, then fork a process for each line of the input; report each end on the output."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # they are for the runs, which a terminal's Ctrl-C reaches by itself
    _warm_up()
    with contextlib.suppress(BrokenPipeError):
        os.write(1, (json.dumps({"gpus": _count_gpus()}) + "\n").encode())
    start = _fork if sys.platform == "linux" else _spawn
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, str] = {}
    open_input, pending = True, b""
    with selectors.DefaultSelector() as selector:
        selector.register(woken, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        while open_input or running:
            for key, _ in selector.select():
                if key.fd == woken:
                    os.read(woken, 4096)
                    continue
                received = os.read(0, 1 << 16)
                if not received:
                    open_input = False
                    selector.unregister(0)
                *lines, pending = (pending + received).split(b"\n")
                for line in lines:
                    job = json.loads(line)
                    if job == "stop":
                        _stop(running)
                    else:
                        running[start(job)] = job["folder"]
            for pid in list(running):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    report = {"folder": running.pop(pid), "exit": os.waitstatus_to_exitcode(status)}
                    with contextlib.suppress(BrokenPipeError):
                        os.write(1, (json.dumps(report) + "\n").encode())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(work(json.loads(sys.argv[1])))
    serve()

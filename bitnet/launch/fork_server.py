"""The process that runs are forked from, and what each of them does. `fork_client.py` starts it as a module.

It imports torch once, reads one JSON line for each job from its input, forks a process for it, and writes one line with that
process's id and one when it ends. So a run has a process of its own, which can crash, exit or be killed alone, and still starts
in milliseconds. When the controller dies, the input ends: no new run starts, those that run go on to their end.
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
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from bitnet.common.console import guard_streams
from bitnet.common.stopping import SIGNALS, heeded, held_back
from bitnet.launch.resources import lease


@contextlib.contextmanager
def _gpu(job: dict[str, Any]) -> Iterator[str | None]:
    """torch's name of a leased GPU, the only one that this process sees; None when there are none to lease."""
    with lease(job["devices"], job["slots"], Path(job["leases"])) as device:
        if device is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = device
        yield None if device is None else "cuda:0"


def run_job(job: dict[str, Any]) -> int:
    """Execute one run, with its output in `log.txt` beside its metrics; returns the process's exit code.

    Whoever starts the process holds requests to stop back. From here on they are heeded, and none was lost.
    """
    folder = Path(job["folder"])
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    guard_streams()
    try:
        from bitnet.training import execute  # before a request is heeded: an import that one cuts off may end in any exception

        for number in heeded():
            signal.signal(number, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        execute.execute(folder, threads=job["threads"], lease=_gpu(job), wait=True, supervised=True)
    except KeyboardInterrupt:
        return 130
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


class _Forked:
    """A process that was forked, with what `subprocess.Popen` offers of one."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        """Its exit code, None while it runs. Not asked again after that: the system may give its id to another process."""
        done, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if done else None


_Process = _Forked | subprocess.Popen


def _fork(job: dict[str, Any]) -> _Process:
    with held_back():
        pid = os.fork()
        if pid == 0:
            _be_forked(job)
    return _Forked(pid)


def _be_forked(job: dict[str, Any]) -> NoReturn:
    """The run, in the process that was forked for it."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        code = run_job(job)
    except KeyboardInterrupt:
        code = 130
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _spawn(job: dict[str, Any]) -> _Process:
    """Where a process that has imported torch can't safely be forked: a fresh interpreter for each run."""
    with held_back():
        return subprocess.Popen([sys.executable, "-m", "bitnet.launch.fork_server", json.dumps(job)], stdin=subprocess.DEVNULL)


def _stop(processes: Iterable[_Process]) -> None:
    """Ask runs to save and end: processes of this one's own, whose ids no other process can have until they are waited for."""
    for process in processes:
        os.kill(process.pid, signal.SIGTERM)


def _warm_up() -> None:
    """Import and find out once what every run needs. Nothing is computed, so that no thread of torch's has to be forked.

    What is there by then is kept from the garbage collector for good: it would find nothing, and each look of a forked
    process at all of these objects would copy the memory that they share.
    """
    gc.disable()
    import numpy.random  # noqa: F401
    import torch

    from bitnet.runs.provenance import provenance
    from bitnet.training import execute  # noqa: F401

    provenance()
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
    """Say how many GPUs there are, then fork a process for each line of the input; report each start and end on the output."""
    numbers = heeded()
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)  # they are for the runs, which a terminal's Ctrl-C reaches by itself
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # held back from this process's start until here
    _warm_up()
    _report({"gpus": _count_gpus()})
    start = _fork if sys.platform == "linux" else _spawn
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    for number in (*numbers, signal.SIGCHLD):
        # no longer ignored: an interpreter that is spawned would inherit that, but no handler
        signal.signal(number, lambda *_: None)
    running: dict[_Process, str] = {}
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
                        process = start(job)
                        running[process] = job["folder"]
                        _report({"folder": job["folder"], "pid": process.pid})
            for process in list(running):
                code = process.poll()
                if code is not None:
                    _report({"folder": running.pop(process), "exit": code})


def _report(facts: dict[str, Any]) -> None:
    """One line to the controller, which may be gone."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, (json.dumps(facts) + "\n").encode())


if __name__ == "__main__":
    guard_streams()
    if len(sys.argv) > 1:
        sys.exit(run_job(json.loads(sys.argv[1])))
    serve()

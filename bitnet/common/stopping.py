"""Requests to stop: signals that a run answers at its next step boundary, and what becomes of a cluster's job then.

Asked once, a run saves and ends. Asked again, it has `GRACE_SECONDS` left for that; asked a third time, none. What it saved
last stands in any case, and the same command goes on from there.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

from bitnet.common.console import say
from bitnet.common.starting import INTERRUPTED

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR2", "SIGHUP") if hasattr(signal, name))

GRACE_SECONDS = 5.0  # from the second request on, for a run to save and end

_ONE_REQUEST_SECONDS = 0.2  # a Ctrl-C that comes from the terminal and once more from a process above is one request

PATIENCE_SECONDS = 600.0  # longer than any cluster takes from SIGTERM to SIGKILL

_LOOK_SECONDS = 0.1  # between looks at what computes beside the main thread

_Handler = Callable[[int, FrameType | None], None]
_T = TypeVar("_T")


def heeded() -> tuple[signal.Signals, ...]:
    """The signals that ask to stop: SIGNALS, without a SIGHUP that is ignored, as nohup has it."""
    return tuple(s for s in SIGNALS if s.name != "SIGHUP" or signal.getsignal(s) is not signal.SIG_IGN)


@contextlib.contextmanager
def handled(handler: _Handler) -> Iterator[None]:
    """Within the block `handler` gets every request to stop."""
    previous = {s: signal.signal(s, handler) for s in heeded()}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold requests to stop back, here and in a process that is started within the block, which has yet to heed them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Asked:
    """How often it was asked to stop. Signals that come right after each other are one request."""

    def __init__(self) -> None:
        self.times = 0
        self.name = ""  # of the last signal
        self.last = -math.inf

    def note(self, number: int) -> bool:
        """Count a signal; whether it is a request of its own."""
        now = time.monotonic()
        another = now - self.last >= _ONE_REQUEST_SECONDS
        self.times += another
        self.name, self.last = signal.Signals(number).name, now
        return another


class StopRequests:
    """SIGINT, SIGTERM, SIGUSR2 (a cluster's warning) and SIGHUP, turned into a reason that the loop reads at its step boundaries.

    Before the first step there is nothing to save: while `at_once` is set, the first signal raises KeyboardInterrupt. From
    then on they are only noted here. `leave` is what is left to do before the process ends without having saved, when it is
    asked again; None where another process decides about that, and a second signal changes nothing.
    """

    def __init__(self, leave: Callable[[], None] | None = None) -> None:
        self.received: list[str] = []
        self.at_once = True
        self._previous = {s: signal.signal(s, self._note) for s in heeded()}
        # a cluster kills its jobs itself, and between SIGTERM and its warning this one has to wait
        self._listener = _Listener(self, None if self._clusters_handler() else leave)

    def _clusters_handler(self) -> Callable[[int, FrameType | None], Any] | None:
        """The handler that a cluster's launcher had set for its warning; None in any other process."""
        handler = self._previous.get(getattr(signal, "SIGUSR2", None))
        own = handler is signal.default_int_handler or isinstance(handler, _Interrupt)
        return handler if callable(handler) and not own else None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received.append(signal.Signals(number).name)
        if self.at_once and len(self.received) == 1:
            raise KeyboardInterrupt

    def reason(self) -> str | None:
        """The first signal that came, None without one."""
        return self.received[0] if self.received else None

    def requeue(self) -> None:
        """In a cluster's job, hand over to the handler that was there for SIGUSR2: submitit's requeues the job and exits.

        SIGTERM alone does not say what comes: the end of a cancelled job, or a requeue by the cluster itself. Either kills
        the process, so this waits; a job that ended before would pass for one that is over.

        Raises:
            SystemExit: when the job was requeued.
            Exception: of the handler's own, when it may not be requeued any more.
        """
        handler, number = self._clusters_handler(), getattr(signal, "SIGUSR2", None)
        if handler is None or number is None or not self.received:
            return
        deadline = time.monotonic() + PATIENCE_SECONDS
        while "SIGUSR2" not in self.received and time.monotonic() < deadline:
            time.sleep(0.1)
        self._previous[number] = signal.SIG_IGN  # one that comes while the process ends must not requeue the job again
        handler(number, None)

    def restore(self) -> None:
        """Put the handlers back that were there before, but for that of a job which is requeued."""
        self._listener.end()
        for number, handler in self._previous.items():
            signal.signal(number, handler)


class _Listener(threading.Thread):
    """Says what each request does, and ends the process when it is asked again: in a thread of its own.

    While the main thread is in a call that does not return, Python runs no handler; but it writes each signal's number to a
    descriptor at once.
    """

    def __init__(self, requests: StopRequests, leave: Callable[[], None] | None) -> None:
        super().__init__(name="requests to stop", daemon=True)
        self.requests, self.leave = requests, leave
        self.asked, self.deadline = Asked(), math.inf
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.writing, False)
        self.before = signal.set_wakeup_fd(self.writing, warn_on_full_buffer=False)
        self.start()

    def run(self) -> None:
        while self.asked.times < 3 and time.monotonic() < self.deadline:
            left = None if self.deadline == math.inf else max(0.0, self.deadline - time.monotonic())
            if not select.select([self.reading], [], [], left)[0]:
                break
            numbers = os.read(self.reading, 64)
            if not numbers:
                os.close(self.reading)
                return
            if self.before >= 0:  # whoever listened before
                os.write(self.before, numbers)
            for number in numbers:
                if number in SIGNALS and self.asked.note(number):
                    self._answer()
        with contextlib.suppress(Exception):  # a full disk, for one: the process ends all the same
            self.leave()
        os._exit(INTERRUPTED)

    def _answer(self) -> None:
        """One line on what this request does, and what the next one would."""
        does = "stopping, there is nothing to save yet" if self.requests.at_once else "saving at the next step"
        if self.leave is None:
            if self.asked.times == 1:
                say(f"{self.asked.name}: {does}")
            self.asked.times = 1  # the next ones change nothing
            return
        if self.asked.times == 1:
            say(f"{self.asked.name}: {does}; a second signal gives it {GRACE_SECONDS:.0f} s for that")
        elif self.asked.times == 2:
            self.deadline = time.monotonic() + GRACE_SECONDS
            end = f"ends in {GRACE_SECONDS:.0f} s unless it has saved by then"
            say(f"{self.asked.name}: {end}; the last checkpoint stands; a third signal ends it at once")
        else:
            say(f"{self.asked.name}: ends at once; the last checkpoint stands")

    def end(self) -> None:
        """Listen no more; what has come by now is said first."""
        signal.set_wakeup_fd(self.before, warn_on_full_buffer=False)
        os.close(self.writing)
        self.join()


@contextlib.contextmanager
def stop_requests(leave: Callable[[], None] | None = None) -> Iterator[StopRequests]:
    """Listen for requests to stop within the block; `leave`: see `StopRequests`."""
    requests = StopRequests(leave)
    try:
        yield requests
    finally:
        requests.restore()


class _Interrupt:
    """Raises KeyboardInterrupt at the first two requests, and ends the process at the third."""

    def __init__(self) -> None:
        self.asked = Asked()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.asked.note(number):
            return
        if self.asked.times > 2:
            os._exit(INTERRUPTED)
        raise KeyboardInterrupt


@contextlib.contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Within the block a request to stop raises KeyboardInterrupt: where there is nothing to save, but to clean up.

    Python would otherwise die of SIGTERM, SIGUSR2 and SIGHUP on the spot, with half-prepared data left behind. A second
    request interrupts the cleaning up, a third one ends the process. An import or a library that the interruption cut off may
    raise anything; that counts as the interruption, too.

    Raises:
        KeyboardInterrupt: when it was asked to stop.
    """
    interrupt = _Interrupt()
    with handled(interrupt):
        try:
            yield
        except KeyboardInterrupt:
            exec("")  # where one has passed through an exec of text, Python would end by SIGINT, not with the command's exit code
            raise
        except Exception:
            if interrupt.asked.times:
                raise KeyboardInterrupt from None
            raise


def interruptible(call: Callable[[], _T]) -> _T:
    """What `call` returns, or raises, when a library's own code computes it for longer than a person should wait.

    It computes in a thread, while this one waits, where a request to stop interrupts it. The computation can't be stopped: it
    is left to itself, and the process does not wait for it at its end. The library has to release Python's lock.
    """
    results: list[_T] = []
    errors: list[BaseException] = []
    over = threading.Event()  # not the thread's end: Python takes a join that is interrupted for it

    def compute() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)
        over.set()

    threading.Thread(target=compute, name="interruptible", daemon=True).start()
    try:
        while not over.wait(_LOOK_SECONDS):
            pass
    except KeyboardInterrupt:
        atexit.register(_end_without_waiting, over)
        raise
    if errors:
        raise errors[0]
    return results[0]


def _end_without_waiting(over: threading.Event) -> None:
    """End the process here where a thread is in compiled code still: Python would tear it down in the middle of that."""
    if not over.is_set():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(INTERRUPTED)

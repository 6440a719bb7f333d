"""Requests to stop: signals that a run answers at its next step boundary, and what becomes of a cluster's job then."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR2] if hasattr(signal, "SIGUSR2") else []))

_PATIENCE_SECONDS = 600.0  # longer than any cluster takes from SIGTERM to SIGKILL


class StopRequests:
    """SIGINT, SIGTERM and SIGUSR2 (a cluster's warning), turned into a reason that the loop reads at its step boundaries.

    Before the first step there is nothing to save: while `at_once` is set, the first signal raises KeyboardInterrupt. From
    then on they are only noted: a second one changes nothing; a third SIGINT interrupts at once, for a step that hangs.
    """

    def __init__(self) -> None:
        self.received: list[str] = []
        self.at_once = True
        self._previous = {s: signal.signal(s, self._note) for s in SIGNALS}

    def _note(self, number: int, frame: object) -> None:
        name = signal.Signals(number).name
        self.received.append(name)
        if self.received.count("SIGINT") > 2 or (self.at_once and len(self.received) == 1):
            raise KeyboardInterrupt
        # not print: a signal that arrives in the middle of another print would break it
        with contextlib.suppress(OSError):
            os.write(2, f"{name}: {'stopping' if self.at_once else 'saving at the next step'}\n".encode())

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
        number = getattr(signal, "SIGUSR2", None)
        handler = self._previous.get(number)
        if number is None or not self.received or not callable(handler) or handler is signal.default_int_handler:
            return
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while "SIGUSR2" not in self.received and time.monotonic() < deadline:
            time.sleep(0.1)
        self._previous[number] = signal.SIG_IGN  # one that comes while the process ends must not requeue the job again
        handler(number, None)

    def restore(self) -> None:
        """Put the handlers back that were there before, but for that of a job which is requeued."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Listen for requests to stop within the block."""
    requests = StopRequests()
    try:
        yield requests
    finally:
        requests.restore()


@contextlib.contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Within the block every request to stop raises KeyboardInterrupt: where there is nothing to save, but to clean up.

    Python would otherwise die of SIGTERM and SIGUSR2 on the spot, with half-prepared data left behind.
    """
    previous = {s: signal.signal(s, signal.default_int_handler) for s in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

"""What a person sees while a run trains: a bar on a terminal, a plain line at each evaluation elsewhere; its heartbeat, and
the time that its parts take.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from bitnet.common.console import is_watched, say
from bitnet.common.text import format_duration
from bitnet.runs import heartbeat

_BEAT_SECONDS = 1.0


class Progress:
    """Loss, tokens a second and time left of the run in `folder`. `tokens_per_step` scales the rate.

    Once a second they also go into the folder, for whoever looks on from another process.
    """

    def __init__(self, folder: Path, first_step: int, last_step: int, tokens_per_step: int) -> None:
        self.folder, self.last, self.tokens_per_step = folder, last_step, tokens_per_step
        self.timed_from: tuple[int, float] | None = None  # the first step's end: it and its evaluation warm everything up
        self.beaten = 0.0
        self.newest: tuple[int, float | None] = (first_step, None)  # the last step that is done, and its loss
        self.unique: float | int | None = None
        self.bar: tqdm | None = None
        if is_watched():
            self.bar = tqdm(
                total=last_step, initial=first_step, desc=_short(folder.name), unit="step", dynamic_ncols=True, mininterval=0.25
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()
        heartbeat.remove(self.folder)

    def step(self, step: int, loss: float | None) -> None:
        """One more step is done; `loss` is the newest one known, which may be some steps old."""
        if self.timed_from is None:
            self.timed_from = (step, time.monotonic())
        self.newest = (step, loss)
        self.alive()
        if self.bar is None:
            return
        if loss is not None:
            rate = self._rate(step)
            speed = "" if rate is None else f", {rate:,.0f} tok/s"
            self.bar.set_postfix_str(f"loss {loss:.3f}{speed}", refresh=False)
        self.bar.update(step - self.bar.n)

    def alive(self) -> None:
        """Work goes on, in a step or between two: to be called between the parts of whatever may take longer than a step."""
        if time.monotonic() - self.beaten >= _BEAT_SECONDS:
            self._beat(*self.newest)

    def evaluated(self, step: int, row: dict[str, float | int | None]) -> None:
        """An evaluation is done."""
        self.unique = row["UniquePredictions"]
        rate = self._rate(step)
        speed = "" if rate is None else f"  {rate:,.0f} tok/s  {format_duration(self._left(step, rate))} left"
        line = (
            f"{_short(self.folder.name)}  step {step}/{self.last}  loss {row['Loss']:.4f}  unique {row['UniquePredictions']}"
            f"  held-out {row['heldout_loss']:.3f} (predicts {row['heldout_uniq']:.0f} tokens where "
            f"{row['heldout_distinct_targets']:.0f} follow){speed}"
        )
        if self.bar is not None:
            self.bar.clear()
            tqdm.write(line, file=sys.stderr)
            self.bar.refresh()
        else:
            say(line)

    def _beat(self, step: int, loss: float | None) -> None:
        rate = self._rate(step)
        beat = {
            "time": time.time(),
            "step": step,
            "loss": loss,
            "unique": self.unique,
            "tokens_per_second": None if rate is None else round(rate, 1),
            "left": None if rate is None else round(self._left(step, rate), 1),
        }
        heartbeat.write(self.folder, beat)
        self.beaten = time.monotonic()

    def _rate(self, step: int) -> float | None:
        """Tokens a second since the first step; None before there is another."""
        if self.timed_from is None or step <= self.timed_from[0]:
            return None
        first, began = self.timed_from
        return (step - first) * self.tokens_per_step / max(time.monotonic() - began, 1e-9)

    def _left(self, step: int, rate: float) -> float:
        return (self.last - step) * self.tokens_per_step / rate


class Timing:
    """Seconds spent on steps and on evaluations, and the speed, added up over a run's sessions."""

    def __init__(self, before: dict[str, Any], start: int, tokens_per_step: int) -> None:
        self.before, self.start, self.tokens_per_step = before, start, tokens_per_step
        self.began, self.evaluating = time.monotonic(), 0.0

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """What happens within counts as evaluation, not as training."""
        began = time.monotonic()
        yield
        self.evaluating += time.monotonic() - began

    def until(self, step: int) -> dict[str, float | int | None]:
        """The `timing` of run.json after `step`."""
        steps = self.before.get("steps_timed", 0) + step - self.start
        seconds = self.before.get("train_seconds", 0.0) + time.monotonic() - self.began - self.evaluating
        return {
            "train_seconds": round(seconds, 3),
            "eval_seconds": round(self.before.get("eval_seconds", 0.0) + self.evaluating, 3),
            "steps_timed": steps,
            "tokens_per_second": round(steps * self.tokens_per_step / seconds, 1) if seconds > 0 else None,
        }


def _short(name: str, most: int = 48) -> str:
    """A run's name for one line: its beginning and its end, which holds the id."""
    return name if len(name) <= most else f"{name[: most - 14]}...{name[-11:]}"

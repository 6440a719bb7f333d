"""What a person sees while a run trains: a bar on a terminal, a plain line at each evaluation elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm


class Progress:
    """Loss, tokens a second and time left. `tokens_per_step` scales the rate."""

    def __init__(self, title: str, first_step: int, last_step: int, tokens_per_step: int) -> None:
        self.title, self.first, self.last, self.tokens_per_step = title, first_step, last_step, tokens_per_step
        self.began = time.monotonic()
        self.bar: tqdm | None = None
        if sys.stderr.isatty():
            self.bar = tqdm(
                total=last_step, initial=first_step, desc=title, unit="step", dynamic_ncols=True, mininterval=0.25
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()

    def step(self, step: int, loss: float | None) -> None:
        """One more step is done; `loss` is the newest one known, which may be some steps old."""
        if self.bar is None:
            return
        if loss is not None:
            self.bar.set_postfix_str(f"loss {loss:.3f}, {self._rate(step):,.0f} tok/s", refresh=False)
        self.bar.update(step - self.bar.n)

    def evaluated(self, step: int, row: dict[str, float | int | None]) -> None:
        """An evaluation is done."""
        line = (
            f"{self.title}  step {step}/{self.last}  loss {row['Loss']:.4f}  unique {row['UniquePredictions']}"
            f"  held-out {row['heldout_loss']:.3f} ({row['heldout_uniq']:.0f} of {row['heldout_distinct_targets']:.0f} tokens)"
            f"  {self._rate(step):,.0f} tok/s  {_clock(self._left(step))} left"
        )
        if self.bar is not None:
            self.bar.clear()
            tqdm.write(line, file=sys.stderr)
            self.bar.refresh()
        else:
            print(line, file=sys.stderr, flush=True)

    def _rate(self, step: int) -> float:
        return (step - self.first) * self.tokens_per_step / max(time.monotonic() - self.began, 1e-9)

    def _left(self, step: int) -> float:
        return (self.last - step) * self.tokens_per_step / max(self._rate(step), 1e-9)


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60:02d}:{rest % 60:02d}"

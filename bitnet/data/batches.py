"""The batches cut from a file of tokens, each a pure function of (seed, step)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from bitnet.common.errors import UserError


class Batches:
    """Windows of `seq_len` + 1 tokens, one starting every `seq_len` tokens, dealt out `batch_size` at a time.

    `order`: `sequential`, or `random`: each pass deals the windows in its own permutation, drawn from (seed, pass).
    A batch never mixes passes: windows left over at the end of a pass are not used in it. With `at_end="stop"` there is
    one pass, which ends with step `last_step`; with `repeat` there is no last step.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        *,
        batch_size: int,
        seq_len: int,
        order: Literal["sequential", "random"],
        at_end: Literal["stop", "repeat"],
        seed: int,
    ) -> None:
        """`tokens`: integers, one-dimensional; a memory map is read only where a batch needs it.

        Raises:
            UserError: not one window, or not one whole batch, fits into the tokens.
        """
        self._tokens, self._batch_size, self._seq_len = tokens, batch_size, seq_len
        self._order, self._seed = order, seed
        self._windows = (len(tokens) - 1) // seq_len
        if self._windows < 1:
            raise UserError(f"seq_len={seq_len} needs {seq_len + 1:,} tokens, but the data has {len(tokens):,}")
        self.steps_per_pass = self._windows // batch_size
        if self.steps_per_pass < 1:
            raise UserError(
                f"batch_size={batch_size} sequences of seq_len={seq_len} need {batch_size * seq_len + 1:,} tokens, "
                f"but the data has {len(tokens):,}"
            )
        self.last_step: int | None = self.steps_per_pass if at_end == "stop" else None
        self._cached: tuple[int, np.ndarray] | None = None

    def end(self, steps: int) -> int:
        """The last step of a run of `steps`: earlier where a single pass ends."""
        return steps if self.last_step is None else min(steps, self.last_step)

    def at(self, step: int) -> np.ndarray:
        """The batch of a step, counted from 1: int64 [batch_size, seq_len + 1]; inputs [:, :-1], targets [:, 1:].

        Raises:
            IndexError: before step 1, or after `last_step`.
        """
        if step < 1 or (self.last_step is not None and step > self.last_step):
            last = "" if self.last_step is None else f" to {self.last_step}"
            raise IndexError(f"there is no batch for step {step}: steps go from 1{last}")
        number, place = divmod(step - 1, self.steps_per_pass)
        first = place * self._batch_size
        starts = self._window_order(number)[first : first + self._batch_size] * self._seq_len
        return self._tokens[starts[:, None] + np.arange(self._seq_len + 1)].astype(np.int64)

    def _window_order(self, number: int) -> np.ndarray:
        """int64 [windows] for pass `number`, counted from 0. Kept for the pass last asked for."""
        if self._order == "sequential":
            number = 0
        if self._cached is None or self._cached[0] != number:
            self._cached = (number, self._permutation(number) if self._order == "random" else np.arange(self._windows))
        return self._cached[1]

    def _permutation(self, number: int) -> np.ndarray:
        """Sorting raw Philox output: NumPy keeps that stream fixed over versions, unlike `Generator.permutation`."""
        bits = np.random.Philox(np.random.SeedSequence([self._seed, number])).random_raw(self._windows)
        return np.argsort(bits, kind="stable")

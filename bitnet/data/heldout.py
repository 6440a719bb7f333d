"""The held-out text as an evaluation asks for it: sequences to predict, contexts, prompts to continue.

Shapes: H held-out sequences of T tokens, C contexts of P tokens, N = H x T positions.
"""

from __future__ import annotations

import numpy as np

from bitnet.common.errors import UserError


def spread_starts(tokens: np.ndarray, count: int, length: int) -> np.ndarray:
    """Starts of `count` windows of `length` tokens, evenly spread, none overlapping; fewer than `count` when they don't fit."""
    there = (len(tokens) - 1) // length
    return (np.arange(min(count, there)) * there // max(1, min(count, there))) * length


def windows(tokens: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """`length` tokens from each start on; int64, starts x length."""
    return np.stack([tokens[s : s + length] for s in starts]).astype(np.int64)


class Heldout:
    """The held-out sequences and where they lie in the text.

    Raises:
        UserError: when the held-out part is too short for `sequences` windows of seq_len + 1 tokens.
    """

    def __init__(self, tokens: np.ndarray, sequences: int, seq_len: int) -> None:
        self.tokens, self.seq_len = tokens, seq_len
        starts = spread_starts(tokens, sequences, seq_len)
        if len(starts) < sequences:
            raise UserError(
                f"probe.heldout_sequences={sequences}: the held-out part has {len(tokens)} tokens, "
                f"enough for {len(starts)} sequences of seq_len={seq_len}"
            )
        self.windows_HT = windows(tokens, starts, seq_len + 1)
        self.ends_N = (starts[:, None] + 1 + np.arange(seq_len)).ravel()  # where the token lies that each position predicts

    def contexts(self, count: int, length: int) -> np.ndarray | None:
        """C x P contexts, evenly spread; None where the text does not hold so many."""
        starts = spread_starts(self.tokens, count, length)
        return windows(self.tokens, starts, length) if len(starts) == count else None

    def prompts(self, count: int, new_tokens: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Prompts of seq_len tokens and what follows each in the text; None where the text does not hold so many."""
        length = self.seq_len + new_tokens
        starts = spread_starts(self.tokens, count, length)
        if count == 0 or len(starts) < count:
            return None
        both = windows(self.tokens, starts, length)
        return both[:, : self.seq_len], both[:, self.seq_len :]

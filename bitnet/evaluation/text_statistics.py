"""How varied a text of token ids is; pure functions of NumPy arrays. Names and definitions are the papers'.

Shapes: B texts, N tokens in each.
"""

from __future__ import annotations

import numpy as np

REP_LENGTHS = (16, 32, 128)


def _distinct_ngrams(tokens_N: np.ndarray, n: int) -> int:
    return len(np.unique(np.lib.stride_tricks.sliding_window_view(tokens_N, n), axis=0))


def seq_rep(tokens_BN: np.ndarray, n: int) -> float | None:
    """1 - distinct n-grams / n-grams, averaged over texts (seq-rep-n, Welleck et al., arXiv 1908.04319); None below n tokens."""
    ngrams = tokens_BN.shape[1] - n + 1
    return None if ngrams < 1 else float(np.mean([1 - _distinct_ngrams(text, n) / ngrams for text in tokens_BN]))


def distinct_n(tokens_BN: np.ndarray, n: int) -> float | None:
    """Distinct n-grams of all texts together / their tokens (Li et al., arXiv 1510.03055); None below n tokens."""
    if tokens_BN.shape[1] < n:
        return None
    ngrams = np.concatenate([np.lib.stride_tricks.sliding_window_view(text, n) for text in tokens_BN])
    return len(np.unique(ngrams, axis=0)) / tokens_BN.size


def diversity(tokens_BN: np.ndarray) -> float | None:
    """Product over n = 2..4 of 1 - seq-rep-n (Su et al., arXiv 2202.06417); None below 4 tokens."""
    repeats = [seq_rep(tokens_BN, n) for n in (2, 3, 4)]
    return None if None in repeats else float(np.prod([1 - r for r in repeats if r is not None]))


def zipf_slope(tokens: np.ndarray) -> float | None:
    """Least-squares slope of log frequency over log rank; about -1 for text. None below three different tokens."""
    counts = np.sort(np.unique(tokens, return_counts=True)[1])[::-1]
    return None if len(counts) < 3 else float(np.polyfit(np.log(np.arange(1, len(counts) + 1)), np.log(counts), 1)[0])


def text_statistics(tokens_BN: np.ndarray) -> dict[str, float | None]:
    """All of the above for a set of continuations, by the name that columns end in."""
    return {
        "distinct_1": distinct_n(tokens_BN, 1),
        "distinct_2": distinct_n(tokens_BN, 2),
        "seq_rep_4": seq_rep(tokens_BN, 4),
        "diversity": diversity(tokens_BN),
        "zipf": zipf_slope(tokens_BN),
    }


def rep(argmax_N: np.ndarray, ends_N: np.ndarray, text: np.ndarray, length: int) -> float:
    """Share of predictions that occur among the `length` tokens before them (rep/l, Welleck et al., arXiv 1908.04319).

    Args:
        argmax_N: the predicted tokens.
        ends_N: for each the position in `text` of the token that it predicts; what lies before `text` counts as nothing.
        text: the token stream.
    """
    places_NL = ends_N[:, None] - np.arange(1, length + 1)
    before_NL = np.where(places_NL >= 0, text[np.maximum(places_NL, 0)].astype(np.int64), -1)
    return float((before_NL == argmax_N[:, None]).any(axis=1).mean())

"""Tokens of known entropy, for tests."""

from __future__ import annotations

import numpy as np

from bitnet.common.errors import UserError
from bitnet.config.data import SyntheticData
from bitnet.data.corpus import Split

_CHAIN_SEED = 20_240_227  # the chain is data, not part of a run's randomness: the run's seed does not touch it


def synthetic_tokens(data: SyntheticData, split: Split) -> np.ndarray:
    """int64 tokens of a chain in which each token has `branching` equally likely successors.

    On a ring of V hidden places the chain moves on by 1..branching places, uniformly, and shows the label of the place;
    the labels are a fixed permutation. Each place is reached from equally many, so unigrams are uniform (entropy ln V)
    and a token given the one before has entropy ln(branching), exactly.

    Raises:
        UserError: more branches than tokens.
    """
    if data.branching > data.vocab_size:
        raise UserError(f"data.branching={data.branching}: at most data.vocab_size={data.vocab_size} successors exist")
    count, stream = (data.tokens, 1) if split == "train" else (data.heldout_tokens, 2)
    labels = np.random.default_rng(_CHAIN_SEED).permutation(data.vocab_size)
    moves = np.random.default_rng([_CHAIN_SEED, stream]).integers(1, data.branching + 1, size=count)
    return labels[np.cumsum(moves) % data.vocab_size]

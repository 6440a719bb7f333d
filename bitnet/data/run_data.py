"""The data of a run: its prepared tokens, its batches and held-out text, and what its record says of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from bitnet.common.console import say
from bitnet.config.identity import source_key
from bitnet.config.run import RunConfig
from bitnet.data import prepared as prepared_data
from bitnet.data.batches import Batches
from bitnet.data.heldout import Heldout

_prepared: dict[str, prepared_data.Prepared] = {}  # the arms of a sweep share their data: read and verified once a process


def prepare_data(config: RunConfig) -> prepared_data.Prepared:
    """The run's data; made if it isn't there, and verified once in this process."""
    key = source_key(config)
    if key not in _prepared or not _prepared[key].folder.exists():
        _prepared[key] = prepared_data.prepare(config.data, config.tokenizer, say=say)
    return _prepared[key]


def batches_and_heldout(config: RunConfig, prepared: prepared_data.Prepared) -> tuple[Batches, Heldout]:
    """The batches and the held-out text of a run.

    Raises:
        UserError: when there is too little data for them.
    """
    batches = Batches(
        prepared.train,
        batch_size=config.batch_size,
        seq_len=config.seq_len,
        order=config.data.order,
        at_end=config.data.at_end,
        seed=config.seed,
    )
    return batches, Heldout(prepared.heldout, config.probe.heldout_sequences, config.seq_len)


def data_facts(config: RunConfig, prepared: prepared_data.Prepared) -> dict[str, Any]:
    """What `run.json` says of the data: above all ln V and the unigram entropy, which losses are read against."""
    return {
        "name": config.data.source,
        "folder": str(prepared.folder),
        "sha256": prepared.sha256,
        "train_tokens": len(prepared.train),
        "heldout_tokens": len(prepared.heldout),
        "vocab_size": prepared.vocab_size,
        "ln_vocab": float(np.log(prepared.vocab_size)),
        "unigram_entropy": prepared.unigram_entropy,
    }

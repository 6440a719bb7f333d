"""From a configuration and its data to everything that the training loop receives."""

from __future__ import annotations

import functools

import numpy as np
import torch

from bitnet.config.run import RunConfig
from bitnet.data.prepared import Prepared
from bitnet.data.run_data import batches_and_heldout
from bitnet.data.tokenizer import decode
from bitnet.evaluation.probe import Probe
from bitnet.model.transformer import BitNet
from bitnet.training import losses, optim, schedules
from bitnet.training.loop import Trainer


def build(config: RunConfig, prepared: Prepared, device: torch.device) -> Trainer:
    """Everything that the loop receives. The initial weights depend on the seed alone, not on the device."""
    batches, heldout = batches_and_heldout(config, prepared)
    torch.manual_seed(config.seed)
    model = BitNet(config.model, config.quant, prepared.vocab_size, max(config.seq_len, config.probe.context_length))
    model = model.to(device)

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16")

    hidden_size, lag = config.model.hidden_size, config.schedule_lag
    applied_lr, applied_wd = schedules.applied_rates(config.lr, config.wd, config.steps, hidden_size, lag)
    state = losses.initial_state(config.regularizer.kind, prepared.vocab_size, config.regularizer.memory)
    first_batch = batches.at(1)
    return Trainer(
        model=model,
        optimizer=optim.build_optimizer(model, config.optimizer),
        batches=batches,
        probe=Probe(model, config.probe, seed=config.seed, first_batch=first_batch, heldout=heldout, autocast=autocast),
        lr=schedules.lr_schedule(config.lr, config.steps, hidden_size),
        wd=schedules.wd_schedule(config.wd, config.steps),
        applied_lr=applied_lr,
        applied_wd=applied_wd,
        clip=config.clip,
        smoothing=config.smoothing,
        regularizer=config.regularizer,
        log_frequency_V=log_frequencies(config, prepared).to(device),
        autocast=autocast,
        decode=functools.partial(decode, prepared.folder),
        device=device,
        reset_at_step=schedules.reset_step(config.optimizer.reset_at, config.steps, lag),
        regularizer_state={k: v.to(device) for k, v in state.items()},
    )


def log_frequencies(config: RunConfig, prepared: Prepared) -> torch.Tensor:
    """Log of the add-one smoothed unigram frequencies of the training tokens, V; empty where no regulariser asks for them."""
    if config.regularizer.kind != "token_frequency":
        return torch.empty(0)
    counts_V = np.ones(prepared.vocab_size)
    for start in range(0, len(prepared.train), 1 << 24):
        counts_V += np.bincount(prepared.train[start : start + (1 << 24)], minlength=prepared.vocab_size)
    return torch.from_numpy(np.log(counts_V / counts_V.sum())).float()

"""Those that take part: each a step to time, the functions that do its parts, and an evaluation where it has one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bitnet.benchmark.cases import FLOAT, OURS, REFERENCE, TRANSFORMERS
from bitnet.benchmark.reference import PlainTrainer, ReferenceModel
from bitnet.benchmark.stopwatch import Watched
from bitnet.common.memory import keep_large_blocks
from bitnet.config.run import RunConfig
from bitnet.data.prepared import Prepared
from bitnet.data.run_data import batches_and_heldout
from bitnet.training import optim, schedules
from bitnet.training.build import build
from bitnet.training.device import make_deterministic
from bitnet.training.loop import LossWatch

_TRAIN_TOKENS, _HELDOUT_TOKENS = 400_000, 100_000


@dataclass(frozen=True)
class Contender:
    """`step(n)` does step n, counted from 1, and gives its loss; `evaluate(n)` measures all that a run records at step n."""

    step: Callable[[int], Tensor]
    watched: list[Watched]
    evaluate: Callable[[int], object] | None = None


def made_up_tokens(vocabulary: int) -> Prepared:
    """Tokens of frequencies like those of words, 1 / rank: how often tokens repeat is all that a step's time could depend on."""
    share_V = 1 / (np.arange(vocabulary) + 2.7)
    edges_V = np.cumsum(share_V / share_V.sum())
    draws = np.random.default_rng(0).random(_TRAIN_TOKENS + _HELDOUT_TOKENS)
    tokens = np.searchsorted(edges_V, draws).clip(max=vocabulary - 1).astype(np.uint32)
    return Prepared(Path(), vocabulary, tokens[:_TRAIN_TOKENS], tokens[_TRAIN_TOKENS:], "", 0.0, {})


def contender(name: str, config: RunConfig, device: torch.device, threads: int) -> Contender:
    """The contender of that name, which has set up this process as its own kind of training does."""
    return BUILDERS[name](config, made_up_tokens(config.data.vocab_size), device, threads)


def harness(config: RunConfig, prepared: Prepared, device: torch.device, threads: int) -> Contender:
    """This harness: what `training.execute` sets up, and the loop's step with its look at the loss."""
    keep_large_blocks()
    make_deterministic(threads)
    trainer = build(config, prepared, device)
    trainer.model.train()
    watch = LossWatch(device)
    last: tuple = ()

    def step(number: int) -> Tensor:
        nonlocal last
        last = trainer.update(number)
        watch.see(number, last[0])
        return last[0]

    watched = [
        (trainer, "batch", "data"),
        (trainer.model, "hidden", "forward"),
        (trainer, "losses", "head + loss"),
        (torch.autograd, "backward", "backward"),
        (optim, "clip_gradients", "clip"),
        (optim, "set_rates", "optimizer"),
        (trainer.optimizer, "step", "optimizer"),
        (trainer.optimizer, "zero_grad", "optimizer"),
    ]
    return Contender(step, watched, lambda number: trainer.row(number, 0, *last))


def reference(config: RunConfig, prepared: Prepared, device: torch.device, threads: int) -> Contender:
    """The readable reference, with Adam unfused."""
    torch.set_num_threads(threads)
    torch.manual_seed(config.seed)
    c = config.model
    model = ReferenceModel(prepared.vocab_size, c.hidden_size, c.ffn_size, c.num_layers, c.num_heads).to(device)
    adam = torch.optim.Adam(model.parameters(), betas=config.optimizer.betas, eps=config.optimizer.eps)
    return _plain(plain_trainer(config, prepared, model, adam), (model, "hidden", "forward"))


def transformers(config: RunConfig, prepared: Prepared, device: torch.device, threads: int) -> Contender:
    """transformers' own model of BitNet b1.58, quantised as it trains, with the optimizer that its users have: fused AdamW."""
    torch.set_num_threads(threads)
    torch.manual_seed(config.seed)
    model = _LogitsOnly(transformers_model(config, prepared.vocab_size)).to(device)
    adamw = torch.optim.AdamW(model.parameters(), betas=config.optimizer.betas, eps=config.optimizer.eps, fused=True)
    return _plain(plain_trainer(config, prepared, model, adamw), (model.whole.model, "forward", "forward"))


class _LogitsOnly(nn.Module):
    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, ids: Tensor) -> Tensor:
        return self.whole(input_ids=ids, use_cache=False).logits


def transformers_model(config: RunConfig, vocabulary: int) -> nn.Module:
    """`BitNetForCausalLM` of a run's size, every projection but the head replaced by transformers' own online quantised one."""
    from transformers import BitNetConfig, BitNetForCausalLM
    from transformers.integrations.bitnet import AutoBitLinear

    c = config.model
    sizes = {"hidden_size": c.hidden_size, "intermediate_size": c.ffn_size, "num_hidden_layers": c.num_layers}
    heads = {"num_attention_heads": c.num_heads, "num_key_value_heads": c.num_kv_heads, "rms_norm_eps": c.norm_eps}
    ends = {"bos_token_id": None, "eos_token_id": None}
    model = BitNetForCausalLM(BitNetConfig(vocab_size=vocabulary, **sizes, **heads, **ends))
    # what `quantization_config` does to a model that is loaded, which an untrained one is not
    for name, module in list(model.model.named_modules()):
        if isinstance(module, nn.Linear):
            quantised = AutoBitLinear(module.in_features, module.out_features, bias=False, online_quant=True)
            quantised.weight = module.weight
            model.model.set_submodule(name, quantised)
    return model


def plain_trainer(config: RunConfig, prepared: Prepared, model: nn.Module, optimizer: torch.optim.Optimizer) -> PlainTrainer:
    """A plain step on the batches and with the rates of a run."""
    applied_lr, applied_wd = schedules.applied_rates(
        config.lr, config.wd, config.steps, config.model.hidden_size, config.schedule_lag
    )
    batches, _ = batches_and_heldout(config, prepared)
    return PlainTrainer(model, optimizer, batches, lambda step: (applied_lr(step), applied_wd(step)), config.clip.max_norm)


def _plain(trainer: PlainTrainer, forward: Watched) -> Contender:
    watched = [
        (trainer, "batch", "data"),
        forward,
        (trainer, "loss", "head + loss"),
        (torch.autograd, "backward", "backward"),
        (trainer, "clip", "clip"),
        (trainer.optimizer, "step", "optimizer"),
        (trainer.optimizer, "zero_grad", "optimizer"),
    ]
    return Contender(trainer.update, watched)


Builder = Callable[[RunConfig, Prepared, torch.device, int], Contender]

BUILDERS: dict[str, Builder] = {REFERENCE: reference, TRANSFORMERS: transformers, FLOAT: harness, OURS: harness}

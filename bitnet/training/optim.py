"""Optimizers: which parameters decay, how (coupled or decoupled), and gradient clipping. One fused step, no synchronisation."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from bitnet.config.run import OptimizerConfig
from bitnet.model.transformer import BitNet

# `Adam(weight_decay)` adds L2 to the gradient, so that Adam's normalisation acts on it too: the study's optimizer.
# `AdamW` shrinks the weight by lr x weight_decay (Loshchilov & Hutter, arXiv 1711.05101).
OPTIMIZERS: dict[str, type[Optimizer]] = {"adam_l2": Adam, "adamw": AdamW}


def split_by_decay(model: BitNet, scope: str) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters that decay under `scope`, and the others.

    `all`: every one; `matrices`: those with two axes (embedding and head included, gains not); `bitlinear`: BitLinear weights.
    """
    bitlinear = {id(m.weight) for m in model.bitlinears()}
    in_scope = {
        "all": lambda p: True,
        "matrices": lambda p: p.ndim >= 2,
        "bitlinear": lambda p: id(p) in bitlinear,
    }[scope]
    parameters = list(model.parameters())
    return [p for p in parameters if in_scope(p)], [p for p in parameters if not in_scope(p)]


def build_optimizer(model: BitNet, config: OptimizerConfig) -> Optimizer:
    """The optimizer, with one group that decays and, where the scope leaves some out, one that doesn't."""
    decayed, rest = split_by_decay(model, config.decay_scope)
    groups = [{"params": decayed, "decays": True}] + ([{"params": rest, "decays": False}] if rest else [])
    return OPTIMIZERS[config.kind](groups, betas=config.betas, eps=config.eps, weight_decay=0.0, fused=True)


def set_rates(optimizer: Optimizer, lr: float, weight_decay: float) -> None:
    """The learning rate and weight decay of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        group["weight_decay"] = weight_decay if group["decays"] else 0.0


def reset_moments(optimizer: Optimizer) -> None:
    """Drop the running means of the gradients and their bias correction, as if training began here."""
    optimizer.state.clear()


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
    """Scale the gradients to a global norm of at most `max_norm` (None: leave them); returns the norm before, on the device."""
    parameters = list(parameters)
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


@torch.no_grad()
def state_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's memory as flat names to tensors: `<parameter index>/<name>`."""
    state = optimizer.state_dict()["state"]
    return {f"{index}/{name}": value for index, memory in state.items() for name, value in memory.items()}


def expected_state(optimizer: Optimizer) -> dict[str, Tensor]:
    """What `state_tensors` has after any step, as empty tensors: two running means for each parameter, and its step count."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    count = torch.empty((), dtype=torch.float32)
    return {
        f"{index}/{name}": tensor
        for index, p in enumerate(parameters)
        for name, tensor in (("step", count), ("exp_avg", p.detach()), ("exp_avg_sq", p.detach()))
    }


def load_state_tensors(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `state_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

"""Continuations of held-out prompts, greedy and sampled, with the draws fixed by the seed.

Shapes: P prompts, L tokens in each, N new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from bitnet.model.transformer import BitNet


def _drawn(logits_PV: Tensor, uniform_P: Tensor) -> Tensor:
    """One token for each row from softmax(logits), by inverting its cumulative distribution at `uniform`."""
    cumulative_PV = logits_PV.double().softmax(dim=-1).cumsum(dim=-1)
    ids_P = torch.searchsorted(cumulative_PV, uniform_P[:, None], right=True).squeeze(1)
    return ids_P.clamp(max=logits_PV.shape[-1] - 1)  # rounding can leave the last sum below the uniform


@torch.no_grad()
def continuations(
    model: BitNet,
    prompts_PL: Tensor,
    uniform_NP: Tensor,
    window: int,
    autocast: Callable[[], AbstractContextManager],
    alive: Callable[[], None] = lambda: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Greedy and sampled continuations of the prompts, each P x N, int64.

    The model sees at most the last `window` tokens, since it was trained on no longer context.

    Args:
        uniform_NP: numbers in [0, 1), one for each sampled token: equal for arms of one seed, so that they can be compared.
        alive: called before each new token.
    """
    count = len(prompts_PL)
    ids = torch.cat([prompts_PL, prompts_PL])
    for uniform_P in uniform_NP:
        alive()
        with autocast():
            logits_QV = model.logits(model.hidden(ids[:, -window:])[:, -1])
        chosen_Q = torch.cat([logits_QV[:count].argmax(dim=-1), _drawn(logits_QV[count:], uniform_P)])
        ids = torch.cat([ids, chosen_Q[:, None]], dim=1)
    new = ids[:, prompts_PL.shape[1] :].cpu().numpy()
    return new[:count], new[count:]

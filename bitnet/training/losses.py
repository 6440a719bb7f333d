"""Training losses and regularisers over logits; pure functions of tensors.

Shapes: N positions, V vocabulary. All values are nats per position.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def cross_entropy(logits_NV: Tensor, targets_N: Tensor, epsilon: float = 0.0, form: str = "study") -> Tensor:
    """Mean cross-entropy with label smoothing.

    With lse = logsumexp(z): `study` gives the target 1 - eps and every *other* token eps / V, as the study wrote it (the
    weights sum to 1 - eps / V); `standard` gives every token eps / V and the target 1 - eps more (Szegedy et al., arXiv
    1512.00567).
    """
    if epsilon == 0.0:
        return F.cross_entropy(logits_NV, targets_N)
    if form == "standard":
        return F.cross_entropy(logits_NV, targets_N, label_smoothing=epsilon)
    share = epsilon / logits_NV.shape[-1]
    logp_NV = F.log_softmax(logits_NV, dim=-1)
    logp_target_N = logp_NV.gather(1, targets_N[:, None]).squeeze(1)
    return -((1 - epsilon - share) * logp_target_N + share * logp_NV.sum(dim=-1)).mean()


# ------------------------------------------------------------------------------------------------------ regularisers
# Each takes (logits_NV, log_frequency_V, state) and returns its unweighted value and its next state.
def entropy_penalty(logits_NV: Tensor, log_frequency_V: Tensor, state: State) -> tuple[Tensor, State]:
    """1 - H / ln V with H the mean entropy of each prediction: the study's lambda (1 - H), normalised to 0..1."""
    logp_NV = F.log_softmax(logits_NV, dim=-1)
    entropy = -(logp_NV.exp() * logp_NV).sum(dim=-1).mean()
    return 1 - entropy / math.log(logits_NV.shape[-1]), state


def token_frequency_penalty(logits_NV: Tensor, log_frequency_V: Tensor, state: State) -> tuple[Tensor, State]:
    """Mean over positions of sum_v p_v ln f_v + ln V: large when probability sits on tokens that the corpus repeats.

    The study writes -lambda log p_freq, a reward for rare tokens; as an addition to the loss its sign turns. `f` are the
    corpus's add-one smoothed unigram frequencies; ln V makes the value 0 for a uniform corpus.
    """
    p_NV = F.softmax(logits_NV, dim=-1)
    # not a matrix product: autocast would round ln f to bfloat16
    return (p_NV * log_frequency_V).sum(dim=-1).mean() + math.log(logits_NV.shape[-1]), state


def diversity_penalty(logits_NV: Tensor, log_frequency_V: Tensor, state: State) -> tuple[Tensor, State]:
    """1 - H(mean prediction of the batch) / ln V: 1 when every position predicts one and the same token."""
    p_V = F.softmax(logits_NV, dim=-1).mean(dim=0)
    entropy = torch.special.entr(p_V).sum()
    return 1 - entropy / math.log(logits_NV.shape[-1]), state


def coverage_penalty(logits_NV: Tensor, log_frequency_V: Tensor, state: State) -> tuple[Tensor, State]:
    """Minus the probability given to tokens not predicted lately: the study's bonus for tokens not seen lately.

    `state["recent_V"]` is a running mean of the batch's mean prediction (share `state["memory"]` kept a step); a token counts
    by 1 - min(1, V recent_v), that is fully at 0 and not at all from the uniform share on.
    """
    p_V = F.softmax(logits_NV, dim=-1).mean(dim=0)
    recent_V, memory = state["recent_V"], state["memory"]
    unseen_V = 1 - (recent_V * p_V.shape[0]).clamp(max=1)
    following = {"recent_V": memory * recent_V + (1 - memory) * p_V.detach(), "memory": memory}
    return -(p_V * unseen_V).sum(), following


def z_loss(logits_NV: Tensor, log_frequency_V: Tensor, state: State) -> tuple[Tensor, State]:
    """Mean squared logsumexp: keeps the softmax normaliser near 1 (PaLM, arXiv 2204.02311, sec. 5)."""
    return torch.logsumexp(logits_NV, dim=-1).square().mean(), state


Regularizer = Callable[[Tensor, Tensor, State], tuple[Tensor, State]]

REGULARIZERS: dict[str, Regularizer | None] = {
    "none": None,
    "entropy": entropy_penalty,
    "token_frequency": token_frequency_penalty,
    "diversity": diversity_penalty,
    "coverage": coverage_penalty,
    "z_loss": z_loss,
}


def initial_state(kind: str, vocab_size: int, memory: float) -> State:
    """What a regulariser remembers before the first step; empty for those that remember nothing."""
    if kind != "coverage":
        return {}
    return {"recent_V": torch.zeros(vocab_size), "memory": torch.tensor(memory)}

"""Optimizers against their update rules written out, decay scopes, clipping, and going on from a saved state."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bitnet.config.run import ModelConfig, OptimizerConfig, QuantConfig
from bitnet.model.transformer import BitNet, part_of
from bitnet.training import optim

B158 = QuantConfig(weights="ternary", activations="int8")


def built(tied: bool = False) -> BitNet:
    torch.manual_seed(0)
    config = ModelConfig(hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=2, ffn_size=32, tied_head=tied)
    return BitNet(config, B158, 20, 8)


def backward(model: BitNet, step: int) -> None:
    ids = torch.randint(20, (3, 9), generator=torch.Generator().manual_seed(step))
    F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()


def settings(step: int) -> tuple[float, float]:
    """LR and weight decay of a step; the decay goes off half-way, as at the boundary."""
    return 1e-2 / step, 0.1 if step < 4 else 0.0


# ------------------------------------------------------------------------------------------------------- the update rules
class NaiveAdam:
    """Kingma & Ba, arXiv 1412.6980, algorithm 1; decay added to the gradient (L2) or taken off the weight (decoupled)."""

    def __init__(self, parameters: list[Tensor], config: OptimizerConfig, decays: list[bool]) -> None:
        self.w = [p.detach().double().clone() for p in parameters]
        self.m, self.v = ([torch.zeros_like(w) for w in self.w] for _ in range(2))
        self.config, self.decays, self.t = config, decays, 0

    def step(self, gradients: list[Tensor], lr: float, weight_decay: float) -> None:
        self.t += 1
        b1, b2 = self.config.betas
        for i, gradient in enumerate(gradients):
            g, decay = gradient.double(), weight_decay if self.decays[i] else 0.0
            if self.config.kind == "adam_l2":
                g = g + decay * self.w[i]
            else:
                self.w[i] = self.w[i] - lr * decay * self.w[i]
            self.m[i] = b1 * self.m[i] + (1 - b1) * g
            self.v[i] = b2 * self.v[i] + (1 - b2) * g**2
            m_hat, v_hat = self.m[i] / (1 - b1**self.t), self.v[i] / (1 - b2**self.t)
            self.w[i] = self.w[i] - lr * m_hat / (v_hat.sqrt() + self.config.eps)


@pytest.mark.parametrize("scope", ["all", "matrices", "bitlinear"])
@pytest.mark.parametrize("kind", ["adam_l2", "adamw"])
def test_the_optimizer_is_its_equations(kind, scope):
    """Six steps with a changing LR and a weight decay that goes off mid-run."""
    model, config = built(), OptimizerConfig(kind=kind, decay_scope=scope)
    optimizer = optim.build_optimizer(model, config)
    parameters = list(model.parameters())
    decaying = {id(p) for p in optim.split_by_decay(model, scope)[0]}
    naive = NaiveAdam(parameters, config, [id(p) in decaying for p in parameters])
    for step in range(1, 7):
        lr, decay = settings(step)
        optim.set_rates(optimizer, lr, decay)
        optimizer.zero_grad()
        backward(model, step)
        naive.step([p.grad for p in parameters], lr, decay)
        optimizer.step()
        for p, w in zip(parameters, naive.w, strict=True):
            torch.testing.assert_close(p.detach().double(), w, rtol=1e-5, atol=2e-6)


def test_coupled_decay_moves_a_weight_by_the_learning_rate_whatever_its_strength():
    """Why it matters which: without a gradient, Adam normalises L2 into a full step; decoupled decay is lr x wd x w."""
    for kind, shrunk in (("adam_l2", 1 - 0.01), ("adamw", 1 - 0.01 * 0.1)):
        model = built()
        optimizer = optim.build_optimizer(model, OptimizerConfig(kind=kind))
        gain = model.norm.weight
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optim.set_rates(optimizer, 0.01, 0.1)
        optimizer.step()
        torch.testing.assert_close(gain.detach(), torch.full((16,), shrunk), rtol=0, atol=1e-6)


# ----------------------------------------------------------------------------------------------------------------- scopes
@pytest.mark.parametrize(
    ("scope", "parts"),
    [("all", {"embedding", "attention", "ffn", "head", "norm"}), ("matrices", {"embedding", "attention", "ffn", "head"}),
     ("bitlinear", {"attention", "ffn"})],
)  # fmt: skip
@pytest.mark.parametrize("tied", [False, True])
def test_a_decay_scope_selects_whole_parts(scope, parts, tied):
    model = built(tied)
    names = {id(p): n for n, p in model.named_parameters()}
    decayed, rest = (({names[id(p)] for p in group}) for group in optim.split_by_decay(model, scope))
    assert decayed == {n for n in names.values() if part_of(n) in parts}
    assert rest == set(names.values()) - decayed


@pytest.mark.parametrize("scope", ["all", "matrices", "bitlinear"])
def test_every_parameter_is_optimised_once(scope):
    model = built(tied=True)
    optimizer = optim.build_optimizer(model, OptimizerConfig(kind="adamw", decay_scope=scope))
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len(set(held)) and set(held) == {id(p) for p in model.parameters()}


def test_what_does_not_decay_stays_without_a_gradient():
    model = built()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = optim.build_optimizer(model, OptimizerConfig(kind="adamw", decay_scope="bitlinear"))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optim.set_rates(optimizer, 0.01, 0.1)
    optimizer.step()
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == (part_of(name) not in {"attention", "ffn"}), name


# --------------------------------------------------------------------------------------------------------------- clipping
def test_the_norm_is_over_all_gradients():
    model = built()
    backward(model, 1)
    naive = math.sqrt(sum(float(x) ** 2 for p in model.parameters() for x in p.grad.flatten().double()))
    before = [p.grad.clone() for p in model.parameters()]
    assert optim.clip_gradients(model.parameters(), None).item() == pytest.approx(naive, rel=1e-5)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))
    clipped = naive / 3
    assert optim.clip_gradients(model.parameters(), clipped).item() == pytest.approx(naive, rel=1e-5)  # the norm before
    for p, g in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.grad, g / 3, rtol=1e-4, atol=1e-9)


def test_a_small_gradient_is_not_scaled_up():
    model = built()
    backward(model, 1)
    before = [p.grad.clone() for p in model.parameters()]
    optim.clip_gradients(model.parameters(), 1e6)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))


def test_clipping_comes_before_l2():
    """The L2 term is the optimizer's own: with the gradient clipped to nothing it alone moves the weights."""
    model = built()
    optimizer = optim.build_optimizer(model, OptimizerConfig(kind="adam_l2"))
    backward(model, 1)
    optim.clip_gradients(model.parameters(), 1e-12)
    before = model.embedding.weight.detach().clone()
    optim.set_rates(optimizer, 0.01, 0.1)
    optimizer.step()
    torch.testing.assert_close(model.embedding.weight.detach(), before - 0.01 * before.sign(), rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------- going on
def advance(model: BitNet, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optim.set_rates(optimizer, *settings(step))
        backward(model, step)
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("scope", ["all", "matrices"])
@pytest.mark.parametrize("kind", ["adam_l2", "adamw"])
def test_a_saved_state_goes_on_with_the_same_bits(kind, scope):
    config = OptimizerConfig(kind=kind, decay_scope=scope)
    straight = built()
    through = optim.build_optimizer(straight, config)
    advance(straight, through, range(1, 4))
    tensors = {n: t.clone() for n, t in optim.state_tensors(through).items()}
    weights = {n: t.clone() for n, t in straight.state_dict().items()}
    advance(straight, through, range(4, 8))

    resumed = built()
    resumed.load_state_dict(weights)
    optimizer = optim.build_optimizer(resumed, config)
    optim.load_state_tensors(optimizer, tensors)
    advance(resumed, optimizer, range(4, 8))
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_state_names_are_flat_and_complete():
    model = built()
    optimizer = optim.build_optimizer(model, OptimizerConfig(kind="adamw", decay_scope="matrices"))
    assert optim.state_tensors(optimizer) == {}
    advance(model, optimizer, range(1, 2))
    names = {n.split("/")[1] for n in optim.state_tensors(optimizer)}
    assert names == {"step", "exp_avg", "exp_avg_sq"}
    assert len(optim.state_tensors(optimizer)) == 3 * len(list(model.parameters()))


# ------------------------------------------------------------------------------------------------------------- forgetting
@pytest.mark.parametrize("scope", ["all", "matrices"])
@pytest.mark.parametrize("kind", ["adam_l2", "adamw"])
def test_a_step_after_forgetting_is_the_first_of_a_new_optimizer(kind, scope):
    config = OptimizerConfig(kind=kind, decay_scope=scope)
    model, kept = built(), built()
    optimizer, keeping = optim.build_optimizer(model, config), optim.build_optimizer(kept, config)
    advance(model, optimizer, range(1, 5))
    advance(kept, keeping, range(1, 5))
    optim.reset_moments(optimizer)
    assert optim.state_tensors(optimizer) == {}
    fresh = built()
    fresh.load_state_dict(model.state_dict())
    advance(fresh, optim.build_optimizer(fresh, config), range(5, 8))
    advance(model, optimizer, range(5, 8))
    advance(kept, keeping, range(5, 8))
    assert all(torch.equal(t, fresh.state_dict()[n]) for n, t in model.state_dict().items())
    assert not any(torch.equal(p, q) for p, q in zip(model.parameters(), kept.parameters(), strict=True))
    assert {int(t) for n, t in optim.state_tensors(optimizer).items() if n.endswith("/step")} == {3}


def test_what_was_saved_after_forgetting_holds_no_memory_and_loads():
    model, other = built(), built()
    optimizer, loaded = (optim.build_optimizer(m, OptimizerConfig(kind="adamw")) for m in (model, other))
    advance(model, optimizer, range(1, 3))
    optim.reset_moments(optimizer)
    advance(other, loaded, range(1, 2))
    optim.load_state_tensors(loaded, optim.state_tensors(optimizer))
    assert optim.state_tensors(loaded) == {}

"""Checks of what changes a model: schedules, gradients, weight decay, resumption, and the data that it is trained on.

As in `checks/study.py`, each is a function of a `Subject`. Values by hand are worked out here from the configuration's numbers,
not by the functions that they are held against.

Shapes: B sequences, T tokens, H held-out sequences, V vocabulary, O x I a weight.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitnet.checks.study import codes_are_ternary
from bitnet.checks.subject import CheckResult, Subject, differing
from bitnet.config.run import CosineDecay, CosineLR, FaqLinear, RunConfig, TwoStageLinear
from bitnet.model.quant import quantise_rows
from bitnet.training import checkpoint, optim
from bitnet.training.loop import Trainer

_STEPS = 4  # trained for the checks of resumption

_STOCK = 1 / 8  # of the held-out sequences may stand in the training tokens: boilerplate of documentation does


# ------------------------------------------------------------------------------------------------------------ schedules
def learning_rate(s: Subject) -> CheckResult:
    """The schedule at step 1, at the end of warm-up, at the boundary and at T."""
    return _held_against(s.trainer.lr, lr_by_hand(s.config), "{:.4g}")


def weight_decay(s: Subject) -> CheckResult:
    """The schedule on either side of the boundary and at T."""
    return _held_against(s.trainer.wd, wd_by_hand(s.config), "{:.3g}")


def learning_rate_of_updates(s: Subject) -> CheckResult:
    """Each update runs at its own step's value; under a lag of 1 at that of the step before, the first at the full peak."""
    c, lag = s.config, s.config.schedule_lag
    first = {1: c.lr.peak * _peak_scale(c)} if lag else {}
    rest = {step + lag: value for step, value in lr_by_hand(c).items() if step + lag <= c.steps}
    return _held_against(s.trainer.applied_lr, first | rest, "{:.4g}")


def _held_against(schedule: Callable[[int], float], by_hand: dict[int, float], form: str) -> CheckResult:
    found = {step: schedule(step) for step in by_hand}
    good = all(math.isclose(found[step], by_hand[step], rel_tol=1e-9, abs_tol=1e-12) for step in by_hand)
    said, wanted = (", ".join(f"{form.format(v)} at {k:,}" for k, v in of.items()) for of in (found, by_hand))
    return CheckResult(good, said, wanted)


def _peak_scale(c: RunConfig) -> float:
    """sqrt(reference width / width), or 1."""
    reference = c.lr.reference_hidden_size
    return 1.0 if reference is None else (reference / c.model.hidden_size) ** 0.5


def _turn(boundary: float, steps: int) -> int:
    """The first step of stage 2, counted off."""
    return next(t for t in range(1, steps + 1) if t >= boundary * steps - 1e-9 * steps)


def lr_by_hand(c: RunConfig) -> dict[int, float]:
    """Step to learning rate, from the formulas in the docstrings of the configuration."""
    lr, steps, scale = c.lr, c.steps, _peak_scale(c)
    warm = int(lr.warmup_steps)
    values: dict[int, float] = {1: lr.peak / warm} if warm > 1 else {}
    if warm >= 1:
        values[warm] = lr.peak
    if isinstance(lr, TwoStageLinear):
        turn, middle, last = lr.boundary * steps, lr.peak * lr.mid_fraction, lr.peak * lr.end_fraction
        at = _turn(lr.boundary, steps)
        values[at] = middle + (last - middle) * (at - turn) / (steps - turn)
        values[steps] = last
    elif isinstance(lr, FaqLinear):
        at = _turn(lr.boundary, steps)
        values[at] = lr.end + (lr.second_peak - lr.end) * (steps - at) / (steps - warm)
        values[steps] = lr.end
    else:
        values[steps] = lr.peak * (lr.end_fraction if isinstance(lr, CosineLR) else 1.0)
    return {step: value * scale for step, value in sorted(values.items())}


def wd_by_hand(c: RunConfig) -> dict[int, float]:
    """Step to weight decay: the last of stage 1, the first of stage 2, and T."""
    at = _turn(c.wd.boundary, c.steps)
    if isinstance(c.wd, CosineDecay):
        risen = c.wd.peak * math.sin(math.pi / 2 * (at - 1) / (c.wd.boundary * c.steps)) ** 2
        return {at - 1: risen, at: 0.0, c.steps: 0.0} if at > 1 else {at: 0.0, c.steps: 0.0}
    before = {at - 1: c.wd.stage1} if at > 1 else {}
    return before | {at: c.wd.stage2, c.steps: c.wd.stage2}


# ------------------------------------------------------------------------------------------------------------ gradients
def gradient_everywhere(s: Subject) -> CheckResult:
    """A batch moves every parameter tensor."""
    loss, extra = s.trainer.losses(s.inputs_BT, s.targets_BT)
    (loss if extra is None else loss + extra).backward()
    named = dict(s.trainer.model.named_parameters())
    without = [name for name, p in named.items() if p.grad is None or not bool(p.grad.any())]
    s.trainer.optimizer.zero_grad(set_to_none=True)
    missed = f", none in {without[0]}" if without else ""
    return CheckResult(not without, f"{len(named) - len(without)} of {len(named)} tensors{missed}", f"{len(named)}")


def straight_through_gradient(s: Subject) -> CheckResult:
    """The gradient of a BitLinear is that of a plain product of its quantised operands: rounding counts as the identity."""
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for m in s.trainer.model.bitlinears():
        x = torch.randn(8, m.weight.shape[1], generator=generator).to(s.device).requires_grad_()
        c = torch.randn(8, m.weight.shape[0], generator=generator).to(s.device)
        got = torch.autograd.grad((m(x) * c).sum(), (m.weight, x))
        with torch.no_grad():
            quantised = m.norm(x) if m.quantise_input is None else m.quantise_input(m.norm(x))
            weight = m.weight if m.quantise_weight is None else quantise_rows(m.weight, m.blocks, m.quantise_weight)
        wanted = (c.T @ quantised, torch.autograd.grad((m.norm(x) * (c @ weight)).sum(), x)[0])
        worst = max([worst, *(float((g - w).norm() / w.norm()) for g, w in zip(got, wanted, strict=True))])
    return CheckResult(worst < 1e-4, f"{worst:.1e} relative difference", "0, within 1e-4")


# --------------------------------------------------------------------------------------------------------- weight decay
def decoupled_decay(s: Subject) -> CheckResult:
    """AdamW, without a gradient, multiplies what decays by 1 - lr x weight_decay and leaves the rest."""
    return _decay(s, "adamw", lambda w, lr, wd, eps: w * (1 - lr * wd), "each weight x (1 - lr x wd)")


def coupled_decay(s: Subject) -> CheckResult:
    """Adam with L2, without a gradient, moves every weight that decays by lr, however small the decay: the study's optimizer."""
    return _decay(s, "adam_l2", lambda w, lr, wd, eps: w - lr * wd * w / (wd * w.abs() + eps), "each weight by lr towards 0")


def _decay(s: Subject, kind: str, formula: Callable[[Tensor, float, float, float], Tensor], says: str) -> CheckResult:
    lr, wd, config = 1e-2, 0.1, s.config.optimizer.model_copy(update={"kind": kind})
    model = s.fresh().model
    decays, rest = optim.split_by_decay(model, config.decay_scope)
    before = {p: p.detach().clone() for p in [*decays, *rest]}
    optimizer = optim.build_optimizer(model, config)
    optim.set_rates(optimizer, lr, wd)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    off = sum(_wrong(p, formula(before[p], lr, wd, config.eps), lr) for p in decays) + sum(_wrong(p, before[p], lr) for p in rest)
    total = sum(p.numel() for p in model.parameters())
    return CheckResult(off == 0, f"{off:,} of {total:,} weights otherwise", f"{says}; scope {config.decay_scope}")


def _wrong(p: nn.Parameter, wanted: Tensor, lr: float) -> int:
    """How many entries are further from `wanted` than fp32 rounding explains."""
    return int(((p.detach() - wanted).abs() > 1e-6 * wanted.abs() + 1e-4 * lr).sum())


# ----------------------------------------------------------------------------------------------- determinism, resumption
def same_seed_same_bits(s: Subject) -> CheckResult:
    """Built and trained twice, everything is equal to the last bit; another seed gives other weights."""
    last = _steps(s)
    once, again = (_trained(s.fresh(), 1, last) for _ in range(2))
    different = _unequal(once.tensors(), again.tensors())
    other = s.fresh(seed=s.config.seed + 1)
    moved = differs(other.model.head.weight, s.trainer.model.head.weight)
    said = f"{different} tensors differ after {last} steps; another seed: {'another' if moved else 'THE SAME'} model"
    return CheckResult(different == 0 and moved, said, "0; another model")


def resumed_same_bits(s: Subject) -> CheckResult:
    """Stopped in the middle and gone on with from a checkpoint, training ends at the same bits."""
    last = _steps(s)
    if last < 2:
        return CheckResult(None, "the data holds one step", "")
    half = last // 2
    stopped = _trained(s.fresh(), 1, half)
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoint.save(Path(folder), half, stopped.tensors(), {"id": "check"}, 1)
        saved = checkpoint.read(path)
    if saved is None:
        return CheckResult(False, "the checkpoint can't be read back", "0 tensors differ")
    resumed = s.fresh(seed=s.config.seed)
    resumed.load(saved)
    whole, parts = _trained(stopped, half + 1, last), _trained(resumed, half + 1, last)
    different = _unequal(whole.tensors(), parts.tensors())
    return CheckResult(
        different == 0, f"{different} of {len(whole.tensors())} tensors differ after {half} + {last - half} steps", "0"
    )


def checkpoint_round_trip(s: Subject) -> CheckResult:
    """What is read is what was saved, and a file with one wrong bit is refused."""
    tensors = _trained(s.fresh(), 1, 1).tensors()
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoint.save(Path(folder), 1, tensors, {"id": "check"}, 1)
        saved = checkpoint.read(path)
        different = len(tensors) if saved is None else _unequal(tensors, saved.tensors)
        with path.open("rb+") as file:
            file.seek(-1, 2)
            last = file.read(1)
            file.seek(-1, 2)
            file.write(bytes([last[0] ^ 1]))
        refused = checkpoint.read(path) is None
    said = f"{different} of {len(tensors)} tensors differ; a flipped bit is {'refused' if refused else 'NOT SEEN'}"
    return CheckResult(different == 0 and refused, said, "0; refused")


def _steps(s: Subject) -> int:
    return min(_STEPS, s.config.steps, s.trainer.batches.last_step or _STEPS)


def _trained(trainer: Trainer, first: int, last: int) -> Trainer:
    trainer.model.train()
    for step in range(first, last + 1):
        trainer.update(step)
    return trainer


def _unequal(a: dict[str, Tensor], b: dict[str, Tensor]) -> int:
    """How many tensors are not the same bits, or only in one of both."""
    there = a.keys() & b.keys()
    return len(a.keys() ^ b.keys()) + sum(differs(a[k], b[k]) for k in there)


def differs(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are not the same bits, on whatever devices."""
    return not torch.equal(a.detach().cpu(), b.detach().cpu())


# ----------------------------------------------------------------------------------------------------- data, evaluation
def targets_follow_inputs(s: Subject) -> CheckResult:
    """Each target is the token that follows its input, in the order of the training tokens."""
    wrong = differing(s.inputs_BT[:, 1:], s.targets_BT[:, :-1])
    windows = torch.cat([s.inputs_BT, s.targets_BT[:, -1:]], dim=1).cpu().numpy()
    lost = sum(not _occurs(window, s.prepared.train) for window in windows)
    return CheckResult(wrong == 0 and lost == 0, f"{wrong} targets out of place, {lost} windows not in the data", "0, 0")


def heldout_is_held_out(s: Subject) -> CheckResult:
    """Hardly a held-out sequence of the evaluation stands in the training tokens.

    Stock phrases occur in any two parts of a corpus, a share of `_STOCK` is let pass; a split that leaks gives nearly all.
    """
    windows = s.trainer.probe.heldout.windows_HT
    known = sum(_occurs(window, s.prepared.train) for window in windows)
    most = int(_STOCK * len(windows))
    said = f"{known} of {len(windows)} sequences of {windows.shape[1]} tokens are in the training data"
    return CheckResult(known <= most, said, f"at most {most}")


def _occurs(window: np.ndarray, tokens: np.ndarray) -> bool:
    """Whether the tokens hold this sequence: places of its first token, narrowed down one token after the other."""
    places = np.flatnonzero(tokens[: len(tokens) - len(window) + 1] == window[0])
    for offset, token in enumerate(window[1:], start=1):
        places = places[tokens[places + offset] == token]
    return bool(len(places))


def heldout_loss_is_plain(s: Subject) -> CheckResult:
    """The held-out loss of an evaluation is the mean cross-entropy, computed plainly."""
    row, _ = s.evaluation
    windows = s.trainer.probe.heldout_HT
    total = [F.cross_entropy(s.logits(w[None, :-1])[0].double(), w[1:], reduction="sum") for w in windows]
    plain = float(torch.stack(total).sum()) / (windows.shape[0] * (windows.shape[1] - 1))
    return CheckResult(math.isclose(row["heldout_loss"], plain, rel_tol=1e-4), f"{row['heldout_loss']:.5f}", f"{plain:.5f}")


OURS = (
    ("codes", "-1, 0 and 1", codes_are_ternary, ""),
    ("schedules", "learning rate", learning_rate, ""),
    ("schedules", "learning rate of updates", learning_rate_of_updates, ""),
    ("schedules", "weight decay", weight_decay, ""),
    ("gradients", "reach every parameter", gradient_everywhere, ""),
    ("gradients", "straight-through is the identity", straight_through_gradient, ""),
    ("weight decay", "AdamW is decoupled", decoupled_decay, ""),
    ("weight decay", "Adam with L2 is coupled", coupled_decay, ""),
    ("training", "same seed, same bits", same_seed_same_bits, ""),
    ("training", "resumed, same bits", resumed_same_bits, ""),
    ("training", "checkpoint round trip", checkpoint_round_trip, ""),
    ("data", "targets are the next tokens", targets_follow_inputs, ""),
    ("data", "held-out text is not trained on", heldout_is_held_out, ""),
    ("data", "held-out loss, computed plainly", heldout_loss_is_plain, ""),
)

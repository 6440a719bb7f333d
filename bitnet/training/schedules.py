"""Learning-rate and weight-decay schedules: pure functions of the step (1..steps), plain numbers in and out.

A new schedule is one function, its config beside the others in `config/run.py`, and one entry in the table at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from bitnet.config.base import boundary_step
from bitnet.config.run import CosineDecay, LRConfig, WDConfig

Schedule = Callable[[int], float]


def warmup(step: int, warmup_steps: int, peak: float) -> float | None:
    """Linear from 0: peak x step / warmup_steps; None once the warm-up is over (from `warmup_steps` on)."""
    return peak * step / warmup_steps if step < warmup_steps else None


def two_stage_linear(
    step: int, *, steps: int, warmup_steps: int, peak: float, boundary: float, mid_fraction: float, end_fraction: float
) -> float:
    """The study's schedule: peak to `mid_fraction` x peak at the boundary, on to `end_fraction` x peak at `steps`; continuous."""
    rising = warmup(step, warmup_steps, peak)
    if rising is not None:
        return rising
    turn = boundary * steps
    if step < boundary_step(boundary, steps):
        return peak * (1 - (1 - mid_fraction) * (step - warmup_steps) / (turn - warmup_steps))
    return peak * (mid_fraction - (mid_fraction - end_fraction) * (step - turn) / (steps - turn))


def faq_linear(
    step: int, *, steps: int, warmup_steps: int, peak: float, second_peak: float, end: float, boundary: float
) -> float:
    """The FAQ's lines: end + (P - end)(T - t)/(T - w), with P = peak before the boundary and second_peak from it on.

    Source: "The Era of 1-bit LLMs: Training Tips, Code and FAQ"; for P1 = 1.5e-3, P2 = 1e-3, T = 100k, end = 3e-5 and
    w = 375 it drops from 7.68e-4 to 5.16e-4 at T/2.
    """
    rising = warmup(step, warmup_steps, peak)
    if rising is not None:
        return rising
    p = peak if step < boundary_step(boundary, steps) else second_peak
    return end + (p - end) * (steps - step) / (steps - warmup_steps)


def cosine(step: int, *, steps: int, warmup_steps: int, peak: float, end_fraction: float) -> float:
    """Half a cosine from the peak, at the end of the warm-up, to `end_fraction` x peak at `steps` (arXiv 1608.03983)."""
    rising = warmup(step, warmup_steps, peak)
    if rising is not None:
        return rising
    share = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * (end_fraction + (1 - end_fraction) * 0.5 * (1 + math.cos(math.pi * share)))


def constant(step: int, *, steps: int, warmup_steps: int, peak: float) -> float:
    """The peak, after the warm-up."""
    rising = warmup(step, warmup_steps, peak)
    return peak if rising is None else rising


def two_stage_decay(step: int, *, steps: int, stage1: float, stage2: float, boundary: float) -> float:
    """`stage1` before the boundary, `stage2` from step boundary x steps on."""
    return stage1 if step < boundary_step(boundary, steps) else stage2


def cosine_decay(step: int, *, steps: int, peak: float, boundary: float) -> float:
    """Half a cosine up from 0, reaching `peak` at the boundary, then 0 (BitNet b1.58 2B4T, arXiv 2504.12285, sec. 2.2)."""
    if step >= boundary_step(boundary, steps):
        return 0.0
    return peak * 0.5 * (1 - math.cos(math.pi * step / (boundary * steps)))


LR_SCHEDULES = {"two_stage_linear": two_stage_linear, "faq": faq_linear, "cosine": cosine, "constant": constant}

WD_SCHEDULES = {"two_stage": two_stage_decay, "cosine": cosine_decay}


def lr_schedule(config: LRConfig, steps: int, hidden_size: int) -> Schedule:
    """The learning rate at a step. `reference_hidden_size` scales every peak by sqrt(reference / hidden_size)."""
    knobs = config.model_dump(exclude={"kind", "reference_hidden_size"})
    if config.reference_hidden_size is not None:
        scale = math.sqrt(config.reference_hidden_size / hidden_size)
        knobs |= {k: v * scale for k, v in knobs.items() if k in {"peak", "second_peak", "end"}}
    formula = LR_SCHEDULES[config.kind]
    return lambda step: formula(step, steps=steps, **knobs)


def wd_schedule(config: WDConfig, steps: int) -> Schedule:
    """The weight decay at a step."""
    knobs = config.model_dump(exclude={"kind", "first_step"})
    formula = WD_SCHEDULES[config.kind]
    return lambda step: formula(step, steps=steps, **knobs)


def first_weight_decay(config: WDConfig) -> float:
    """What the optimizer was built with: the first update's weight decay under a lag."""
    if config.first_step is not None:
        return config.first_step
    return 0.0 if isinstance(config, CosineDecay) else config.stage1


def applied(schedule: Schedule, lag: int, first: float) -> Schedule:
    """What each update uses. Under a lag of 1 that is the step before's value, and `first` at step 1.

    The study stepped its scheduler after its optimizer: its first update ran at the full peak.
    """
    if lag == 0:
        return schedule
    return lambda step: first if step == 1 else schedule(step - 1)


def applied_rates(lr: LRConfig, wd: WDConfig, steps: int, hidden_size: int, lag: int) -> tuple[Schedule, Schedule]:
    """The learning rate and the weight decay that each update uses."""
    rates = applied(lr_schedule(lr, steps, hidden_size), lag, peak_lr(lr, hidden_size))
    return rates, applied(wd_schedule(wd, steps), lag, first_weight_decay(wd))


def reset_step(share: float | None, steps: int, lag: int) -> int | None:
    """The step before whose update the optimizer forgets: the first one that uses the values from share x steps on."""
    return None if share is None else boundary_step(share, steps) + lag


def peak_lr(config: LRConfig, hidden_size: int) -> float:
    """The largest learning rate, which the optimizer is built with."""
    return config.peak * (1.0 if config.reference_hidden_size is None else math.sqrt(config.reference_hidden_size / hidden_size))

"""The training loop: receives what it needs, built, and reads from top to bottom.

Shapes: B sequences, T tokens, N = B x T positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

from bitnet.config.run import CheckpointConfig, ClipConfig, RegularizerConfig, SmoothingConfig
from bitnet.data.batches import Batches
from bitnet.evaluation.probe import Probe, Row
from bitnet.model.transformer import BitNet
from bitnet.runs.metrics_file import MetricsFile, is_evaluated
from bitnet.runs.record import RunRecord
from bitnet.runs.statuses import DIVERGED, DONE, QUEUED
from bitnet.training import checkpoint, losses, optim
from bitnet.training.progress import Progress, Timing
from bitnet.training.schedules import Schedule

# columns that are known before a step's update, and so also at a step whose update broke the model
BEFORE_UPDATE = {"Step", "Loss", "LR", "WD", "tokens", "train_loss", "regularizer_loss", "lr_applied", "wd_applied", "grad_norm"}

_LOOK_EVERY = 50  # steps between looks at the loss on a device that runs ahead of Python


@dataclass
class Trainer:
    """All that training changes, and all that decides how."""

    model: BitNet
    optimizer: Optimizer
    batches: Batches
    probe: Probe
    lr: Schedule
    wd: Schedule
    applied_lr: Schedule
    applied_wd: Schedule
    clip: ClipConfig
    smoothing: SmoothingConfig
    regularizer: RegularizerConfig
    log_frequency_V: Tensor
    autocast: Callable[[], AbstractContextManager]
    decode: Callable[[Sequence[int]], str]
    device: torch.device
    reset_at_step: int | None = None  # the step before whose update the optimizer forgets its running means
    regularizer_state: losses.State = field(default_factory=dict)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a step, each B x T."""
        windows_BT = torch.from_numpy(self.batches.at(step)).to(self.device, non_blocking=True)
        return windows_BT[:, :-1], windows_BT[:, 1:]

    def losses(self, inputs_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor | None]:
        """Cross-entropy of a batch and, where there is a regulariser, its weighted addition."""
        with self.autocast():
            logits_NV = self.model(inputs_BT).flatten(0, 1)
            loss = losses.cross_entropy(logits_NV, targets_BT.flatten(), self.smoothing.epsilon, self.smoothing.form)
            penalty = losses.REGULARIZERS[self.regularizer.kind]
            if penalty is None:
                return loss, None
            extra, self.regularizer_state = penalty(logits_NV.float(), self.log_frequency_V, self.regularizer_state)
            return loss, self.regularizer.weight * extra

    def update(self, step: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """One optimizer step; loss, addition and gradient norm stay on the device."""
        if step == self.reset_at_step:
            optim.reset_moments(self.optimizer)
        optim.set_rates(self.optimizer, self.applied_lr(step), self.applied_wd(step))
        loss, extra = self.losses(*self.batch(step))
        (loss if extra is None else loss + extra).backward()
        norm = optim.clip_gradients(self.model.parameters(), self.clip.max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach(), None if extra is None else extra.detach(), norm

    def row(self, step: int, tokens: int, loss: Tensor, extra: Tensor | None, norm: Tensor) -> Row:
        """The columns of an evaluation."""
        return {
            "Step": step,
            "Loss": float(loss),
            "LR": self.lr(step),
            "WD": self.wd(step),
            "tokens": tokens,
            "train_loss": float(loss),
            "regularizer_loss": None if extra is None else float(extra),
            "lr_applied": self.applied_lr(step),
            "wd_applied": self.applied_wd(step),
            "grad_norm": float(norm),
        } | self.probe.measure(step)

    def texts(self) -> list[dict[str, str]]:
        """The continuations of the last evaluation, for people to read."""
        return [{name: self.decode(ids) for name, ids in sample.items()} for sample in self.probe.samples]

    def tensors(self) -> dict[str, Tensor]:
        """The whole state, flat."""
        parts = {
            "model": self.model.state_dict(),
            "optimizer": optim.state_tensors(self.optimizer),
            "probe": self.probe.state(),
            "regularizer": self.regularizer_state,
            "rng": {"cpu": torch.get_rng_state()},
        }
        if self.device.type == "cuda":
            parts["rng"] = parts["rng"] | {"cuda": torch.cuda.get_rng_state(self.device)}
        # safetensors refuses two names for one memory: a tied head is saved once
        if self.model.head.weight is self.model.embedding.weight:
            parts["model"] = {k: v for k, v in parts["model"].items() if k != "head.weight"}
        return {f"{part}/{name}": t for part, named in parts.items() for name, t in named.items()}

    def load(self, saved: checkpoint.Checkpoint) -> None:
        """The inverse of `tensors`, for a checkpoint that has all of them."""
        tied = self.model.head.weight is self.model.embedding.weight
        weights = saved.below("model")
        self.model.load_state_dict(weights | {"head.weight": weights["embedding.weight"]} if tied else weights)
        optim.load_state_tensors(self.optimizer, saved.below("optimizer"))
        self.probe.load_state(saved.below("probe"))
        self.regularizer_state = {k: v.to(self.device) for k, v in saved.below("regularizer").items()}
        rng = saved.below("rng")
        torch.set_rng_state(rng["cpu"])
        if self.device.type == "cuda" and "cuda" in rng:
            torch.cuda.set_rng_state(rng["cuda"], self.device)


class LossWatch:
    """Finds the first step whose loss is not finite, without making the device wait for Python.

    On the CPU each loss is looked at. On an accelerator the device keeps the step itself, and Python sees a copy that is up
    to `_LOOK_EVERY` steps old; nothing computed after that step is kept.
    """

    def __init__(self, device: torch.device) -> None:
        self.direct = device.type == "cpu"
        self.state = torch.zeros(2, dtype=torch.float64, device=device)  # first bad step (0: none), newest loss
        self.copy = torch.zeros(2, dtype=torch.float64, pin_memory=device.type == "cuda")
        self.copied: torch.cuda.Event | None = None
        self.loss: float | None = None

    def see(self, step: int, loss: Tensor) -> int | None:
        """Note a step's loss; the first bad step, if one is known by now."""
        if self.direct:
            self.loss = float(loss)
            return None if math.isfinite(self.loss) else step
        first = torch.where((self.state[0] == 0) & ~torch.isfinite(loss), step, self.state[0])
        self.state = torch.stack([first, loss.double()])
        if step % _LOOK_EVERY:
            return None
        if self.copied is not None:
            self.copied.synchronize()  # 50 steps old: over by now
            bad, self.loss = self.copy.tolist()
            if bad:
                return int(bad)
        self.copy.copy_(self.state, non_blocking=True)
        if self.state.is_cuda:
            self.copied = torch.cuda.Event()
            self.copied.record()
        return None

    def certain(self) -> int | None:
        """The first bad step so far, waiting for the device."""
        bad = 0 if self.direct else int(self.state[0])
        return bad or None


@dataclass(frozen=True)
class Outcome:
    """How a run ended: at which step, and why."""

    status: str  # DONE, DIVERGED or QUEUED
    step: int
    reason: str | None


def train(
    trainer: Trainer,
    record: RunRecord,
    *,
    start: int,
    last: int,
    eval_every: int,
    saving: CheckpointConfig,
    branch_at: Collection[int],
    for_branches: Callable[[Path], None],
    facts: dict,
    stopped: Callable[[], str | None],
    timing: Timing,
    progress: Progress,
) -> Outcome:
    """Train from the step after `start` to `last`.

    Evaluates at step 1, every `eval_every` steps and at `last`; saves every `saving.every` steps, at `last`, and when
    `stopped()` names a reason to stop; what it saves at the steps `branch_at` is also given to `for_branches`.
    `facts` go into every checkpoint, with the hash of the rows that were written until then.
    """
    metrics = MetricsFile(record.metrics, start)
    watch = LossWatch(trainer.device)
    trainer.model.train()
    for step in range(start + 1, last + 1):
        loss, extra, norm = trainer.update(step)
        bad = watch.see(step, loss if extra is None else loss + extra)

        reason = stopped()
        evaluate = is_evaluated(step, eval_every, last)
        save = step % saving.every == 0 or step == last or step in branch_at or reason is not None
        if bad is None and (evaluate or save):
            bad = watch.certain()
        if bad is not None:
            return Outcome(DIVERGED, bad, f"the loss is not finite at step {bad}")

        if evaluate:
            with timing.evaluation():
                row = trainer.row(step, step * timing.tokens_per_step, loss, extra, norm)
            if not math.isfinite(row["heldout_loss"]):
                known = {c: v for c, v in row.items() if c in BEFORE_UPDATE and v is not None and math.isfinite(v)}
                metrics.append(known)
                return Outcome(DIVERGED, step, f"the held-out loss is not finite after the update of step {step}")
            metrics.append(row)
            record.write_samples(step, trainer.texts())
            progress.evaluated(step, row)
        if save:
            progress.alive()
            rows = {"metrics_sha256": metrics.sha256}
            saved = checkpoint.save(record.checkpoints, step, trainer.tensors(), facts | rows, saving.keep)
            if step in branch_at:
                for_branches(saved)
        if evaluate or save:
            record.update(step=step, timing=timing.until(step))
        if reason is not None and step < last:
            return Outcome(QUEUED, step, reason)
        progress.step(step, watch.loss)
    return Outcome(DONE, last, None)

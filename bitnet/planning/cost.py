"""What a run costs: parameters and bytes without running it, seconds from a few measured steps.

Bytes come from a dry step on torch's meta device, whose tensors have shapes and no content: it goes through the same model,
loss and regulariser as a run does, so that no formula here can fall behind them.
"""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bitnet.config.run import CheckpointConfig, RunConfig
from bitnet.data.prepared import Prepared
from bitnet.evaluation.probe import CHUNK_LOGITS
from bitnet.model.transformer import BitNet, parameter_counts
from bitnet.training import build, losses
from bitnet.training.device import make_deterministic
from bitnet.training.loop import Trainer

# Adam's two running means; its step counter is one number a parameter tensor.
_STATES = 2


# Bytes that are alive at once for each logit of a chunk while an evaluation looks at it: 29 seen with `LiveBytes`.
_EVALUATION_BYTES = 32

_ROW_BYTES = 700  # of metrics.csv

_RECORD_BYTES = 16_000  # run.json, config.yaml and log.txt

_WARM_UP, _LEAST, _MOST = 2, 3, 40  # steps before the clock starts, and while it runs

_SECONDS = 1.0  # timed for each shape, where _LEAST steps don't take longer


# --------------------------------------------------------------------------------------------------------------- bytes
@dataclass(frozen=True)
class Footprint:
    """Of one run: parameters; bytes on its device at the worst moment; bytes of one checkpoint."""

    parameters: int
    memory: int
    checkpoint: int


class LiveBytes(TorchDispatchMode):
    """Adds up the storages that operations under it make while they are alive; `peak` is the most at once, in bytes."""

    def __init__(self, tensors: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.alive: dict[int, weakref.ref] = {}
        self.now = self.peak = 0
        for tensor in tensors:
            self._add(tensor)

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self.alive:
            return

        def gone(_: weakref.ref) -> None:
            del self.alive[key]
            self.now -= size

        self.alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return out


def footprint(config: RunConfig, vocab_size: int) -> Footprint:
    """Parameters and bytes of a run; under `precision=bf16` the memory is that of fp32, an upper bound."""
    with torch.device("meta"):
        model = BitNet(config.model, config.quant, vocab_size, max(config.seq_len, config.probe.context_length))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    codes = sum(m.weight.numel() for m in model.bitlinears() if m.ternary)  # int8, kept for the flip rate
    state = losses.initial_state(config.regularizer.kind, vocab_size, config.regularizer.memory)
    sequence = config.seq_len * vocab_size  # logits
    chunk = min(max(config.probe.heldout_sequences, config.batch_size), max(1, CHUNK_LOGITS // sequence)) * sequence
    # gradients are dropped before an evaluation, and made anew in the next step
    busiest = max(peak_of_a_step(model, config, vocab_size, state), weights + _EVALUATION_BYTES * chunk)
    kept = _STATES * weights + codes + sum(t.nbytes for t in state.values())
    small = torch.get_rng_state().nbytes + 4 * len(list(model.parameters()))
    return Footprint(parameter_counts(model)["total"], busiest + kept, weights + kept + small)


def peak_of_a_step(model: BitNet, config: RunConfig, vocab_size: int, state: losses.State) -> int:
    """Bytes alive at the worst moment of a forward and backward pass: weights, gradients, what autograd keeps, logits."""
    state = {name: t.to("meta") for name, t in state.items()}
    penalty = losses.REGULARIZERS[config.regularizer.kind]
    with LiveBytes([*model.parameters(), *model.buffers()]) as live, torch.device("meta"):
        ids_BT = torch.zeros(config.batch_size, config.seq_len, dtype=torch.int64)
        logits_NV = model(ids_BT).flatten(0, 1)
        loss = losses.cross_entropy(logits_NV, ids_BT.flatten(), config.smoothing.epsilon, config.smoothing.form)
        if penalty is not None:
            loss = loss + penalty(logits_NV, torch.zeros(vocab_size), state)[0]
        loss.backward()
    return live.peak


def disk_bytes(checkpoint: int, saving: CheckpointConfig, steps: int, eval_every: int) -> int:
    """What a finished run leaves on disk; while it saves, one more checkpoint is there."""
    saves = -(-steps // saving.every)
    rows = 2 + steps // eval_every
    return checkpoint * min(saving.keep, saves) + rows * _ROW_BYTES + _RECORD_BYTES


def available_memory(device: torch.device) -> int | None:
    """Bytes that are free on the device; None where the system doesn't say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = [_proc_available(), _cgroup_available()]
    return min((f for f in free if f is not None), default=None)


def _proc_available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _cgroup_available() -> int | None:
    """What a container's limit leaves (cgroup v2); page cache counts as used there, so that this errs on the safe side."""
    folder = Path("/sys/fs/cgroup")
    try:
        return int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text())
    except (OSError, ValueError):  # no such files, or `max`: no limit
        return None


# ---------------------------------------------------------------------------------------------------------------- time
@dataclass(frozen=True)
class Speed:
    """Seconds of one step and of one evaluation."""

    step: float
    evaluation: float

    def seconds(self, first: int, last: int, eval_every: int) -> float:
        """From the step after `first` to `last`, with the evaluations among them: at 1, every `eval_every`, and at `last`."""
        extra = {step for step in (1, last) if first < step <= last and step % eval_every}
        evaluations = max(0, last // eval_every - first // eval_every) + len(extra)
        return max(0, last - first) * self.step + evaluations * self.evaluation


def shape_of(config: RunConfig) -> str:
    """What decides the speed of a run: equal for runs that need one measurement."""
    parts = {"model", "quant", "batch_size", "seq_len", "precision", "optimizer", "regularizer", "smoothing", "probe", "threads"}
    return config.model_dump_json(include=parts)


def measure(config: RunConfig, vocab_size: int, device: torch.device, threads: int | None) -> Speed:
    """Train a few steps on made-up tokens, evaluate, and look at the clock; nothing is written.

    Sets torch's threads (None: as they are) and deterministic algorithms for this process, as a run does.
    """
    make_deterministic(threads or torch.get_num_threads())
    trainer = build.build(*_stand_in(config, vocab_size), device)
    trainer.model.train()
    for step in range(1, 1 + _WARM_UP):
        out = trainer.update(step)
    block = 1 if device.type == "cpu" else 10  # a GPU runs ahead of Python: looked at once in ten steps
    seconds: list[float] = []
    while len(seconds) < _LEAST or (sum(seconds) * block < _SECONDS and len(seconds) < _MOST):
        began = _now(device)
        for _ in range(block):
            step += 1
            out = trainer.update(step)
        seconds.append((_now(device) - began) / block)
    return Speed(statistics.median(seconds), _evaluation(trainer, step, out, device))


def _evaluation(trainer: Trainer, step: int, out: tuple, device: torch.device) -> float:
    """Seconds of the quicker of two: the first one also sets things up."""
    seconds = []
    for _ in range(2):
        began = _now(device)
        trainer.row(step, 0, *out)
        seconds.append(_now(device) - began)
    return min(seconds)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _stand_in(config: RunConfig, vocab_size: int) -> tuple[RunConfig, Prepared]:
    """The run on made-up tokens that just suffice, read again and again: what tokens they are does not change the time."""
    sequences = max(config.batch_size, config.probe.heldout_sequences)
    tokens = np.random.default_rng(0).integers(vocab_size, size=sequences * config.seq_len + 1, dtype=np.int64)
    again = config.data.model_copy(update={"at_end": "repeat", "order": "sequential"})
    prepared = Prepared(Path(), vocab_size, tokens, tokens, "", 0.0, {})
    return config.model_copy(update={"data": again}), prepared

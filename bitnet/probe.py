"""What a run is asked at each evaluation: the study's two metrics, the held-out text, the weights.

Shapes: C contexts, P their length, B sequences of T tokens in the first training batch, H held-out sequences, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from bitnet.config import ProbeConfig
from bitnet.metrics import Predictions, distinct, mean_magnitude
from bitnet.model import PARTS, BitNet, part_of

_CONTEXT_STREAM = 101  # keeps this generator's numbers apart from every other use of the seed
CHUNK_LOGITS = 1 << 24  # logits held at a time: 64 MB in fp32

Row = dict[str, float | int | None]


def random_tokens(seed: int, step: int | None, count: int, vocab_size: int) -> np.ndarray:
    """`count` uniform token ids for a seed and, unless it is None, a step; int64.

    From raw Philox output, a stream that NumPy keeps fixed over versions, unlike that of `Generator.integers`. The remainder
    favours the lower ids by less than vocab_size / 2^64.
    """
    # a spawn key, not a longer seed: the order of the batches is drawn from (seed, pass), and pass 101 is a pass too
    stream = np.random.SeedSequence(seed, spawn_key=(_CONTEXT_STREAM,) if step is None else (_CONTEXT_STREAM, step))
    return (np.random.Philox(stream).random_raw(count) % np.uint64(vocab_size)).astype(np.int64)


class Probe:
    """Evaluates a model; the same questions at every step and, for equal seeds, in every arm."""

    def __init__(
        self,
        model: BitNet,
        config: ProbeConfig,
        *,
        seed: int,
        first_batch: np.ndarray,
        heldout: np.ndarray,
        autocast: Callable[[], AbstractContextManager],
    ) -> None:
        self.model, self.config, self.seed, self.autocast = model, config, seed, autocast
        self.device = next(model.parameters()).device
        self.vocab_size = model.embedding.num_embeddings
        self.first_batch_BT = torch.from_numpy(first_batch).to(self.device)
        self.heldout_HT = torch.from_numpy(heldout).to(self.device)
        self.codes = self._codes()

    def contexts(self, step: int) -> Tensor:
        """The study's contexts, C x P: uniform token ids, one draw for the run or, with `redraw`, one for each step."""
        c = self.config
        ids = random_tokens(self.seed, step if c.redraw else None, c.contexts * c.context_length, self.vocab_size)
        return torch.from_numpy(ids.reshape(c.contexts, c.context_length)).to(self.device)

    @torch.no_grad()
    def measure(self, step: int) -> Row:
        """Every column that an evaluation fills from the model alone."""
        self.model.eval()
        row = self._contexts(step) | self._first_batch() | self._heldout() | self._weights()
        counted = "contexts_uniq" if self.config.metric == "random_contexts" else "first_batch_uniq"
        self.model.train()
        return row | {"UniquePredictions": row[counted]}

    def _contexts(self, step: int) -> Row:
        with self.autocast():
            logits_CV = self.model.head(self.model.hidden(self.contexts(step))[:, -1])
        return {"contexts_uniq": distinct(logits_CV.argmax(dim=-1)), "contexts_positions": self.config.contexts}

    def _predictions(self, windows_BT: Tensor) -> dict[str, float]:
        length = windows_BT.shape[1] - 1
        gathered = Predictions(self.vocab_size, self.device)
        for chunk_BT in windows_BT.split(max(1, CHUNK_LOGITS // (length * self.vocab_size))):
            with self.autocast():
                logits_BTV = self.model(chunk_BT[:, :-1])
            gathered.add(logits_BTV.flatten(0, 1), chunk_BT[:, 1:].flatten())
        return gathered.result()

    def _first_batch(self) -> Row:
        r = self._predictions(self.first_batch_BT)
        names = {"uniq": "uniq", "positions": "positions", "distinct_targets": "distinct_targets"}
        names |= {"top1_prob": "top1_prob", "entropy_mean": "entropy"}
        return {f"first_batch_{column}": r[name] for name, column in names.items()}

    def _heldout(self) -> Row:
        r = self._predictions(self.heldout_HT)
        named = {"loss", "uniq", "positions", "distinct_targets"}
        return {f"heldout_{k}" if k in named else k: v for k, v in r.items()}

    def _codes(self) -> Tensor | None:
        """All ternary codes, flat, int8; None for a model without ternary weights."""
        codes = [m.codes().flatten() for m in self.model.bitlinears() if m.ternary]
        return torch.cat(codes) if codes else None

    def _weights(self) -> Row:
        row: dict[str, Tensor | None] = dict.fromkeys(["ternary_neg", "ternary_zero", "ternary_pos", "flip_rate"])
        codes = self._codes()
        if codes is not None and self.codes is not None:
            shares = torch.bincount(codes.int() + 1, minlength=3).double() / codes.numel()
            row |= dict(zip(["ternary_neg", "ternary_zero", "ternary_pos"], shares, strict=True))
            row["flip_rate"] = (codes != self.codes).double().mean()
            self.codes = codes
        by_part: dict[str, list[Tensor]] = {p: [] for p in PARTS}
        for name, parameter in self.model.named_parameters():
            by_part[part_of(name)].append(parameter)
        row |= {f"latent_{part}": mean_magnitude(tensors) for part, tensors in by_part.items()}
        present = {k: v for k, v in row.items() if v is not None}
        numbers = torch.stack(list(present.values())).tolist()
        return dict.fromkeys(row) | dict(zip(present, numbers, strict=True))

    def state(self) -> dict[str, Tensor]:
        """What the next evaluation needs of the last one."""
        return {} if self.codes is None else {"codes": self.codes}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        if self.codes is not None:
            self.codes = tensors["codes"].to(self.device)

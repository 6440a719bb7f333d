"""What a run is asked at each evaluation: the study's two metrics, the held-out text, continuations, the weights.

Shapes: C contexts, P their length, B sequences of T tokens in the first training batch, H held-out sequences, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from bitnet.config.run import ProbeConfig
from bitnet.data.heldout import Heldout
from bitnet.evaluation.continuations import continuations
from bitnet.evaluation.predictions import Predictions, distinct
from bitnet.evaluation.text_statistics import REP_LENGTHS, rep, text_statistics
from bitnet.evaluation.weights import ternary_codes_of, weight_statistics
from bitnet.model.transformer import BitNet
from bitnet.runs.columns import HOW, MANY_CONTEXTS, TEXT_NUMBERS

# keep these generators' numbers apart from every other use of the seed
_CONTEXT_STREAM, _SAMPLE_STREAM = 101, 102

_SHOWN = 2  # continuations that are kept for people to read

CHUNK_LOGITS = 1 << 24  # logits held at a time: 64 MB in fp32

Row = dict[str, float | int | None]


def _random_bits(seed: int, key: tuple[int, ...], count: int) -> np.ndarray:
    """`count` uint64 of raw Philox output, a stream that NumPy keeps fixed over versions, unlike that of `Generator.integers`."""
    # a spawn key, not a longer seed: the order of the batches is drawn from (seed, pass), and pass 101 is a pass too
    return np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)).random_raw(count)


def random_tokens(seed: int, step: int | None, count: int, vocab_size: int) -> np.ndarray:
    """`count` uniform token ids for a seed and, unless it is None, a step; int64.

    The remainder favours the lower ids by less than vocab_size / 2^64. More tokens of a seed begin with the fewer ones.
    """
    key = (_CONTEXT_STREAM,) if step is None else (_CONTEXT_STREAM, step)
    return (_random_bits(seed, key, count) % np.uint64(vocab_size)).astype(np.int64)


class Probe:
    """Evaluates a model; the same questions at every step and, for equal seeds, in every arm.

    After `measure`, `samples` has the token ids of a few prompts, their continuations, and what followed in the text.
    `alive` is called between the parts of an evaluation, which may take much longer than a step.
    """

    def __init__(
        self,
        model: BitNet,
        config: ProbeConfig,
        *,
        seed: int,
        first_batch: np.ndarray,
        heldout: Heldout,
        autocast: Callable[[], AbstractContextManager],
    ) -> None:
        self.model, self.config, self.seed, self.heldout, self.autocast = model, config, seed, heldout, autocast
        self.device = next(model.parameters()).device
        self.vocab_size = model.embedding.num_embeddings
        self.first_batch_BT = torch.from_numpy(first_batch).to(self.device)
        self.heldout_HT = torch.from_numpy(heldout.windows_HT).to(self.device)
        self.codes = ternary_codes_of(model)
        self.samples: list[dict[str, list[int]]] = []
        self.alive: Callable[[], None] = lambda: None

    def contexts(self, step: int, count: int | None = None) -> Tensor:
        """The study's contexts, C x P: uniform token ids, one draw for the run or, with `redraw`, one for each step."""
        c = self.config
        count = c.contexts if count is None else count
        ids = random_tokens(self.seed, step if c.redraw else None, count * c.context_length, self.vocab_size)
        return torch.from_numpy(ids.reshape(count, c.context_length)).to(self.device)

    @torch.no_grad()
    def measure(self, step: int) -> Row:
        """Every column that an evaluation fills from the model alone."""
        self.model.eval()
        row = self._contexts(step) | self._many_contexts(step) | self._first_batch() | self._heldout() | self._text()
        self.alive()
        codes = ternary_codes_of(self.model)
        row |= weight_statistics(self.model, codes, self.codes)
        self.codes = codes
        counted = "contexts_uniq" if self.config.metric == "random_contexts" else "first_batch_uniq"
        self.model.train()
        return row | {"UniquePredictions": row[counted]}

    def _next(self, contexts_CP: Tensor) -> Tensor:
        """The argmax at the last position of each context, C."""
        argmaxes = []
        for chunk_CP in contexts_CP.split(max(1, CHUNK_LOGITS // self.vocab_size)):
            self.alive()
            with self.autocast():
                argmaxes.append(self.model.logits(self.model.hidden(chunk_CP)[:, -1]).argmax(dim=-1))
        return torch.cat(argmaxes)

    def _contexts(self, step: int) -> Row:
        return {"contexts_uniq": distinct(self._next(self.contexts(step))), "contexts_positions": self.config.contexts}

    def _many_contexts(self, step: int) -> Row:
        """The same count over more contexts, random ones and held-out text: does it measure the model or its own ceiling?"""
        most, length = self.config.many_contexts, self.config.context_length
        row: Row = {f"{kind}_uniq_{n}": None for kind in ("random", "text") for n in MANY_CONTEXTS}
        if most == 0:
            return row
        text_CP = self.heldout.contexts(most, length)
        random_C = self._next(self.contexts(step, most))
        text_C = None if text_CP is None else self._next(torch.from_numpy(text_CP).to(self.device))
        for n in (n for n in MANY_CONTEXTS if n <= most):
            row[f"random_uniq_{n}"] = distinct(random_C[:n])
            row[f"text_uniq_{n}"] = None if text_C is None else distinct(text_C[:: most // n])  # spread evenly at each size
        return row

    def _predictions(self, windows_BT: Tensor) -> Predictions:
        length = windows_BT.shape[1] - 1
        gathered = Predictions(self.vocab_size, self.device)
        for chunk_BT in windows_BT.split(max(1, CHUNK_LOGITS // (length * self.vocab_size))):
            self.alive()
            with self.autocast():
                logits_BTV = self.model(chunk_BT[:, :-1])
            gathered.add(logits_BTV.flatten(0, 1), chunk_BT[:, 1:].flatten())
        return gathered

    def _first_batch(self) -> Row:
        r = self._predictions(self.first_batch_BT).result()
        names = {"uniq": "uniq", "positions": "positions", "distinct_targets": "distinct_targets"}
        names |= {"top1_prob": "top1_prob", "entropy_mean": "entropy"}
        return {f"first_batch_{column}": r[name] for name, column in names.items()}

    def _heldout(self) -> Row:
        gathered = self._predictions(self.heldout_HT)
        argmax_N = torch.cat(gathered.argmax).cpu().numpy()
        named = {"loss", "uniq", "positions", "distinct_targets"}
        row: Row = {f"heldout_{k}" if k in named else k: v for k, v in gathered.result().items()}
        return row | {f"rep_{n}": rep(argmax_N, self.heldout.ends_N, self.heldout.tokens, n) for n in REP_LENGTHS}

    def _text(self) -> Row:
        """Continuations of held-out prompts and their numbers; the first `_SHOWN` are kept for people to read."""
        c = self.config
        found = self.heldout.prompts(c.prompts, c.new_tokens)
        if found is None:
            return {f"{how}_{name}": None for how in HOW for name in TEXT_NUMBERS}
        prompts_PL, followed_PN = found
        bits = _random_bits(self.seed, (_SAMPLE_STREAM,), c.new_tokens * c.prompts)
        uniform_NP = torch.from_numpy((bits >> np.uint64(11)) * 2.0**-53).view(c.new_tokens, c.prompts).to(self.device)
        prompts = torch.from_numpy(prompts_PL).to(self.device)
        both = continuations(self.model, prompts, uniform_NP, self.heldout.seq_len, self.autocast, self.alive)
        made = dict(zip(HOW, both, strict=True))
        texts = {"prompt": prompts_PL, **made, "heldout": followed_PN}
        self.samples = [{name: ids[i].tolist() for name, ids in texts.items()} for i in range(min(_SHOWN, c.prompts))]
        return {f"{how}_{name}": value for how, ids in made.items() for name, value in text_statistics(ids).items()}

    def reference(self) -> dict[str, float | None]:
        """The text numbers of what really follows the prompts, to hold the model's beside; empty without prompts."""
        found = self.heldout.prompts(self.config.prompts, self.config.new_tokens)
        return {} if found is None else text_statistics(found[1])

    def state(self) -> dict[str, Tensor]:
        """What the next evaluation needs of the last one."""
        return {} if self.codes is None else {"codes": self.codes}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        if self.codes is not None:
            self.codes = tensors["codes"].to(self.device)

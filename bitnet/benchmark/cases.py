"""What is measured: sizes of model and step, and who takes part."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from bitnet.cli.compose import compose_config, register_plugins, run_config
from bitnet.common.errors import UserError, suggestion
from bitnet.config.run import RunConfig

REFERENCE, TRANSFORMERS, FLOAT, OURS = "reference", "transformers", "float", "ours"

CONTENDERS = {
    REFERENCE: "the same step as a tutorial writes it: eager, full logits, torch.optim.Adam unfused",
    TRANSFORMERS: "transformers' BitNetForCausalLM with online quantisation and fused AdamW",
    FLOAT: "this harness with quant=float: what quantisation costs",
    OURS: "this harness as a run trains",
}

# What a step divides into; `other` is the rest, so that they add up to the whole.
PARTS = ("data", "forward", "head + loss", "backward", "clip", "optimizer", "other")

STUDY_VOCABULARY, SMALL_VOCABULARY = 50_257, 2_048

_SIZE = re.compile(r"(\d+):(\d+)x(\d+)(?::(\d+))?")


@dataclass(frozen=True)
class Case:
    """A hidden size, the sequences of a step and their tokens, and the vocabulary."""

    hidden: int
    batch: int
    length: int
    vocabulary: int

    def __str__(self) -> str:
        usual = _usual_vocabulary(self.hidden) == self.vocabulary
        return f"{self.hidden}:{self.batch}x{self.length}" + ("" if usual else f":{self.vocabulary}")

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.batch * self.length


def _usual_vocabulary(hidden: int) -> int:
    return STUDY_VOCABULARY if hidden >= 256 else SMALL_VOCABULARY


DEFAULT_SIZES = ",".join(f"{hidden}:{step}" for hidden in (64, 128, 256, 512, 768, 1024) for step in ("4x32", "8x256"))
QUICK_SIZES = "64:4x32,256:4x32"


def parse_sizes(text: str) -> list[Case]:
    """`256:4x32,64:4x32:2048` as cases: hidden size, sequences x tokens, and a vocabulary where it is not the usual one.

    Raises:
        UserError: naming the first size that can't be used.
    """
    return [_parse_size(size.strip()) for size in text.split(",")]


def _parse_size(size: str) -> Case:
    found = _SIZE.fullmatch(size)
    numbers = [] if found is None else [int(n) for n in found.groups() if n is not None]
    if found is None or 0 in numbers:
        raise UserError(f"--sizes {size}: a size is HIDDEN:SEQUENCESxTOKENS or HIDDEN:SEQUENCESxTOKENS:VOCABULARY, as 256:4x32")
    if numbers[0] % 8:
        raise UserError(f"--sizes {size}: the hidden size is shared by 4 heads of even width; a multiple of 8 is needed")
    return Case(numbers[0], numbers[1], numbers[2], numbers[3] if len(numbers) > 3 else _usual_vocabulary(numbers[0]))


def parse_contenders(text: str) -> list[str]:
    """`ours,reference` as names, in the order of `CONTENDERS`.

    Raises:
        UserError: naming the first that is none.
    """
    named = [name.strip() for name in text.split(",")]
    for name in named:
        if name not in CONTENDERS:
            raise UserError(f"--contenders {name}: allowed are {', '.join(CONTENDERS)}{suggestion(name, CONTENDERS)}")
    return [name for name in CONTENDERS if name in named]


@functools.cache
def run_of(case: Case, *, quant: str = "b158") -> RunConfig:
    """The run of the default recipe that a case stands for, with an evaluation as a run makes it."""
    register_plugins()
    size = [f"model.hidden_size={case.hidden}", f"model.ffn_size={2 * case.hidden}"]
    step = [f"batch_size={case.batch}", f"seq_len={case.length}", f"data.vocab_size={case.vocabulary}"]
    return run_config(compose_config(["data=synthetic", "data.at_end=repeat", f"quant={quant}", *size, *step]))

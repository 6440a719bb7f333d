"""Where a run's tokens come from, as typed, frozen parts of the configuration: text sources and tokenizers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bitnet.config.base import ConfigModel, Count, FilePath, OpenFraction


class DataBase(ConfigModel):
    """What every source shares.

    `encode`: `lines` (non-empty lines one by one, the study's) or `documents` (whole documents, one end mark between).
    `order`: `sequential` (the study's) or `random` (every window once a pass, shuffled by seed).
    `at_end`: `stop` the run when the pass ends (the study's), or `repeat`.
    """

    encode: Literal["lines", "documents"] = "lines"
    order: Literal["sequential", "random"] = "sequential"
    at_end: Literal["stop", "repeat"] = "stop"
    cache: FilePath


class PydocsData(DataBase):
    """Docstrings and documentation topics of the standard library and of the installed dependencies, up to `max_bytes`."""

    source: Literal["pydocs"]
    max_bytes: Count = 20_000_000
    heldout_fraction: OpenFraction = 0.05


class HubData(DataBase):
    """A text dataset of the Hugging Face hub, by `datasets.load_dataset(dataset, subset)`."""

    source: Literal["hub"]
    dataset: str
    subset: str | None = None
    train_split: str = "train"
    heldout_split: str = "validation"
    column: str = "text"


class TextData(DataBase):
    """The user's own UTF-8 files, or folders, of which `*.txt` and `*.md` are read (not what is hidden or in a cache).

    Without `heldout_paths`, `heldout_fraction` of it is held out. No text may be in both parts.
    """

    source: Literal["text"]
    paths: list[FilePath] = []
    heldout_paths: list[FilePath] = []
    heldout_fraction: OpenFraction = 0.05


class SyntheticData(DataBase):
    """A token chain in which each token has `branching` equally likely successors: entropy ln(branching), unigrams uniform."""

    source: Literal["synthetic"]
    vocab_size: Annotated[Count, Field(ge=2)]
    tokens: Count
    heldout_tokens: Count
    branching: Count


DataConfig = Annotated[PydocsData | HubData | TextData | SyntheticData, Field(discriminator="source")]


class GPT2Tokenizer(ConfigModel):
    """The GPT-2 byte-level BPE from a local folder (`path`) or, without one, from the hub."""

    kind: Literal["gpt2"]
    path: FilePath | None = None


class BPETokenizer(ConfigModel):
    """A byte-level BPE trained on the training text."""

    kind: Literal["bpe"]
    vocab_size: Annotated[Count, Field(ge=257)] = 8192


class NoTokenizer(ConfigModel):
    """For sources that make tokens themselves."""

    kind: Literal["none"]


TokenizerConfig = Annotated[GPT2Tokenizer | BPETokenizer | NoTokenizer, Field(discriminator="kind")]

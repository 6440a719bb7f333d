"""The two tokenizers, both byte-level BPE: GPT-2's, and one trained on the training text. Any text encodes."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from bitnet.common.errors import UserError
from bitnet.common.stopping import interruptible
from bitnet.config.data import BPETokenizer, GPT2Tokenizer
from bitnet.data.hub import hub_unreachable
from bitnet.data.text_files import cut_runs

END_MARK = "<|endoftext|>"

MIN_PAIR_COUNT = 2  # a pair that occurs once teaches the vocabulary nothing


def local_files(config: GPT2Tokenizer) -> list[Path]:
    """What the folder `tokenizer.path` gives: tokenizer.json, or else vocab.json and merges.txt.

    Raises:
        UserError: naming the folder or the file that is missing.
    """
    if config.path is None:
        return []
    folder = Path(config.path).expanduser()
    if not folder.is_dir():
        raise UserError(f"tokenizer.path={config.path}: there is no such folder")
    if (whole := folder / "tokenizer.json").is_file():
        return [whole]
    parts = [folder / "vocab.json", folder / "merges.txt"]
    for part in parts:
        if not part.is_file():
            raise UserError(f"tokenizer.path={config.path}: {part.name} is missing (tokenizer.json alone would do too)")
    return parts


def fingerprint(config: GPT2Tokenizer | BPETokenizer) -> dict[str, object]:
    """What determines the tokenizer, besides the text that a BPE is trained on. Where the files lie does not."""
    if isinstance(config, BPETokenizer):
        return config.model_dump()
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in local_files(config)}
    return {"kind": config.kind, "files": files}


def gpt2(config: GPT2Tokenizer) -> Tokenizer:
    """GPT-2's tokenizer from the folder `tokenizer.path`, or from the hub or its local cache.

    Built from the files directly: `transformers` loads slowly, and its fifth version answers an unreachable hub with a
    tokenizer that is empty, not with an error.

    Raises:
        UserError: a file is missing or can't be used, or neither hub nor cache has it.
    """
    files = [_from_hub()] if config.path is None else local_files(config)
    try:
        tokenizer = _byte_level(models.BPE.from_file(*map(str, files))) if len(files) > 1 else _from_file(files[0])
    except Exception as error:  # the library raises a bare Exception for malformed files
        raise UserError(f"tokenizer=gpt2: {files[0]} can't be used: {_first_line(error)}") from error
    if tokenizer.get_vocab_size() == 0:
        raise UserError(f"tokenizer=gpt2: {files[0]} holds no vocabulary")
    return tokenizer


def _from_hub() -> Path:
    """GPT-2's tokenizer.json, downloaded or from the cache."""
    from huggingface_hub import hf_hub_download

    reason = hub_unreachable()
    try:
        return Path(hf_hub_download("gpt2", "tokenizer.json", local_files_only=reason is not None))
    except (OSError, ValueError) as error:
        why = _first_line(error) if reason is None else f"the hub can't be reached ({reason}) and no cache has it"
        raise UserError(
            f"tokenizer=gpt2 can't be loaded: {why}; set tokenizer.path to a folder with vocab.json and merges.txt, "
            "or use tokenizer=bpe"
        ) from error


def _from_file(path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(path))


def _byte_level(model: models.BPE) -> Tokenizer:
    """A tokenizer of GPT-2's kind: split by its pattern, every byte a symbol, an end mark set apart if it has one."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if tokenizer.token_to_id(END_MARK) is not None:
        tokenizer.add_special_tokens([END_MARK])
    return tokenizer


def splits_as_gpt2(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer splits a text before it merges as GPT-2's does, and changes nothing of it first."""
    splitter = tokenizer.pre_tokenizer
    is_plain = isinstance(splitter, pre_tokenizers.ByteLevel) and splitter.use_regex and not splitter.add_prefix_space
    return is_plain and tokenizer.normalizer is None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def train_bpe(config: BPETokenizer, texts: Iterable[str]) -> Tokenizer:
    """A byte-level BPE with exactly `tokenizer.vocab_size` entries: 256 bytes, the end mark, and merges. Deterministic.

    Raises:
        UserError: the text has too few repeated pairs to fill the vocabulary.
    """
    tokenizer = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=MIN_PAIR_COUNT,
        special_tokens=[END_MARK],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    parts = (part for text in texts for part in cut_runs(text))
    interruptible(lambda: tokenizer.train_from_iterator(_batched(parts), trainer=trainer))  # minutes, on a large text
    if (reached := tokenizer.get_vocab_size()) != config.vocab_size:
        raise UserError(
            f"tokenizer.vocab_size={config.vocab_size}: the training text fills only {reached} entries; "
            f"ask for at most {reached} or give more text"
        )
    return tokenizer


def _batched(texts: Iterable[str], size: int = 1000) -> Iterator[list[str]]:
    """Lists of texts: crossing into the library once per text would cost more than the counting."""
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def end_mark_id(tokenizer: Tokenizer) -> int:
    """The token that stands between documents.

    Raises:
        UserError: the tokenizer has none.
    """
    token = tokenizer.token_to_id(END_MARK)
    if token is None:
        raise UserError(f"data.encode=documents needs {END_MARK} in the tokenizer's vocabulary; use data.encode=lines")
    return token


@functools.lru_cache(maxsize=4)
def _saved(folder: Path) -> Tokenizer | None:
    path = folder / "tokenizer.json"
    return _from_file(path) if path.is_file() else None


def decode(folder: Path, ids: Sequence[int]) -> str:
    """The text of `ids` by a prepared folder's tokenizer, end marks included; numbers where it has no tokenizer."""
    tokenizer = _saved(Path(folder))
    ids = [int(i) for i in ids]
    return " ".join(map(str, ids)) if tokenizer is None else tokenizer.decode(ids, skip_special_tokens=False)

"""Token files, made once and memory-mapped."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from tokenizers import Tokenizer
from tqdm import tqdm

from bitnet.common.console import is_watched
from bitnet.common.errors import UserError, is_disk_error
from bitnet.common.files import sha256, sync_folder
from bitnet.common.stopping import interruptible
from bitnet.config.data import BPETokenizer, DataConfig, GPT2Tokenizer, NoTokenizer, SyntheticData, TokenizerConfig
from bitnet.config.identity import OF_DATA
from bitnet.data.corpus import Corpus, Encode, Split
from bitnet.data.sources import open_corpus
from bitnet.data.synthetic import synthetic_tokens
from bitnet.data.text_files import LONGEST_WORD
from bitnet.data.tokenizer import end_mark_id, fingerprint, gpt2, splits_as_gpt2, train_bpe

FORMAT = 1  # raise it whenever the same configuration would give other tokens: old folders are then left alone

SPLITS: tuple[Split, ...] = ("train", "heldout")

NOT_CONTENT = OF_DATA | {"cache", "paths", "heldout_paths"}  # files count by their hashes, not their places

_MANY_UNKNOWN = 1e-3  # of the tokens: WikiText's token form says <unk> at one in fifty, a text about such texts now and then

CHUNK_CHARACTERS = 4_000_000  # of text encoded at once: bounds the memory, keeps all cores busy

# Of one text encoded in one piece, where cutting it changes no token: a tokenizer takes hundreds of bytes a character of one.
PIECE_CHARACTERS = 250_000

# GPT-2's pre-tokenizer joins neither across a newline between two visible characters, nor a blank to what stands before it.
_COUNTED_AT_ONCE = 1 << 22  # tokens

_SAFE_CUT = re.compile(r"(?<=\S)\n(?=\S)|(?= \S)")


@dataclass(frozen=True)
class Prepared:
    """Prepared data: two memory-mapped files of uint16 (or uint32, for a vocabulary over 65,536) tokens.

    `sha256`: over the vocabulary size and both files, the data's identity. `unigram_entropy`: nats, of the training
    tokens. `manifest`: source, tokenizer, counts, file hashes and versions, as in `folder`/manifest.json.
    """

    folder: Path
    vocab_size: int
    train: np.memmap
    heldout: np.memmap
    sha256: str
    unigram_entropy: float
    manifest: dict[str, Any]


# ---------------------------------------------------------------------------------------------------------- preparing
def prepare(data: DataConfig, tokenizer: TokenizerConfig, *, say: Callable[[str], None] = print) -> Prepared:
    """The token files of a source and a tokenizer, made in `data.cache` unless they are there and sound.

    Any number of processes may call this at once: one builds, the others wait. `say` gets a line when work starts and
    ends; nothing when there is none to do, unless what was prepared would be refused now.

    Raises:
        UserError: the source, the tokenizer or the cache folder can't be used.
    """
    corpus, identity, folder = _locate(data, tokenizer)
    if (found := open_prepared(folder, say)) is not None:
        if corpus is not None and corpus.problem is not None:
            say(f"note: {corpus.problem} (prepared before, and used as it is)")
        return found
    check_fit(corpus)
    with _only_builder(folder, say):
        if (found := open_prepared(folder, lambda _: None)) is None:
            _build(folder, data, tokenizer, corpus, identity, say)
            found = open_prepared(folder, say)
    if found is None:
        raise UserError(f"data.cache={data.cache}: what was just written there reads back differently; check the disk")
    return found


def find(data: DataConfig, tokenizer: TokenizerConfig) -> Prepared | None:
    """The token files of a source and a tokenizer where they are there and sound; makes none.

    Raises:
        UserError: the source or the tokenizer can't be used.
    """
    corpus, _, folder = _locate(data, tokenizer)
    if (found := open_prepared(folder, lambda _: None)) is None:
        check_fit(corpus)
    return found


def check_fit(corpus: Corpus | None) -> None:
    """Raise UserError for a corpus that must not be prepared."""
    if corpus is not None and corpus.problem is not None:
        raise UserError(corpus.problem)


def _locate(data: DataConfig, tokenizer: TokenizerConfig) -> tuple[Corpus | None, dict[str, Any], Path]:
    """The corpus, what determines its tokens, and the folder that is named after that."""
    corpus = None if isinstance(data, SyntheticData) else open_corpus(data)
    identity = _identity(data, tokenizer, corpus)
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    return corpus, identity, Path(data.cache).expanduser() / f"{_readable(data, tokenizer, corpus)}-{key}"


def _identity(data: DataConfig, tokenizer: TokenizerConfig, corpus: Corpus | None) -> dict[str, Any]:
    """All that determines the tokens, as plain JSON."""
    return {
        "format": FORMAT,
        "data": data.model_dump(mode="json", exclude=NOT_CONTENT),
        "source": {} if corpus is None else corpus.fingerprint,
        "tokenizer": {} if isinstance(tokenizer, NoTokenizer) else fingerprint(tokenizer),
    }


def _readable(data: DataConfig, tokenizer: TokenizerConfig, corpus: Corpus | None) -> str:
    if isinstance(data, SyntheticData):
        return f"synthetic-v{data.vocab_size}-b{data.branching}"
    size = str(tokenizer.vocab_size) if isinstance(tokenizer, BPETokenizer) else ""
    return f"{corpus.name if corpus else data.source}-{tokenizer.kind}{size}-{data.encode}"


@contextlib.contextmanager
def _only_builder(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the folder's lock; the system drops it with the process that held it. Half-built folders are removed."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{folder}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"data: waiting for another process to prepare {folder}")
            lock.acquire()
    except OSError as error:
        raise UserError(f"data.cache={folder.parent}: can't be written: {error.strerror}") from error
    try:
        for remains in folder.parent.glob(f"{folder.name}.building-*"):
            shutil.rmtree(remains)
        yield
    finally:
        lock.release()


def _build(
    folder: Path,
    data: DataConfig,
    tokenizer: TokenizerConfig,
    corpus: Corpus | None,
    identity: dict[str, Any],
    say: Callable[[str], None],
) -> None:
    """Write everything beside `folder`, the manifest last, then rename: `folder` is whole or not there."""
    started = time.monotonic()
    say(f"data: preparing {folder} (once)")
    for note in () if corpus is None else corpus.notes:
        say(f"data: {note}")
    building = folder.with_name(f"{folder.name}.building-{os.getpid()}")
    try:
        building.mkdir()
        if isinstance(data, SyntheticData):
            vocab_size, tallies = data.vocab_size, _write_synthetic(building, data)
        else:
            assert corpus is not None and not isinstance(tokenizer, NoTokenizer)  # config lets no other pair through
            vocab_size, tallies = _write_text(building, data.encode, tokenizer, corpus)
        config = {"data": data.model_dump(mode="json"), "tokenizer": tokenizer.model_dump(mode="json")}
        manifest = config | {"identity": identity} | _contents(building, vocab_size, tallies)
        manifest["manifest_sha256"] = _manifest_hash(manifest)
        write_durably(building / "manifest.json", json.dumps(manifest, indent=2).encode())
        if folder.exists():
            shutil.rmtree(folder)
        building.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        if not is_disk_error(error):
            raise
        raise UserError(f"data.cache={folder.parent}: {error.strerror}; make room there, or name another folder") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)  # renamed away, unless something failed
    say(
        f"data: {tallies['train'].tokens:,} training and {tallies['heldout'].tokens:,} held-out tokens, "
        f"vocabulary {vocab_size:,}, {time.monotonic() - started:.0f} s"
    )
    unknown = sum(tally.unknown for tally in tallies.values())
    if unknown > _MANY_UNKNOWN * sum(tally.tokens for tally in tallies.values()):
        say(
            f"note: this text contains '<unk>' {unknown:,} times (WikiText in token form); it is easy to predict and lowers the "
            "loss; the raw form has the actual words"
        )


def _contents(folder: Path, vocab_size: int, tallies: dict[Split, _Tally]) -> dict[str, Any]:
    """The measured part of the manifest: counts, hashes, versions."""
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(folder.iterdir())}
    return {
        "vocab_size": vocab_size,
        "dtype": _dtype(vocab_size).name,
        "sha256": _data_hash(vocab_size, files),
        "unigram_entropy": tallies["train"].entropy(),
        "counts": {split: tally.counts() for split, tally in tallies.items()},
        "files": files,
        "versions": {name: importlib.metadata.version(name) for name in ("numpy", "tokenizers")}
        | {"python": platform.python_version()},
    }


def _data_hash(vocab_size: int, files: dict[str, Any]) -> str:
    parts = (str(vocab_size), *(files[f"{split}.bin"]["sha256"] for split in SPLITS))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _manifest_hash(manifest: dict[str, Any]) -> str:
    """Of all that a manifest says but this hash itself."""
    own = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def _check_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Raise ValueError where a manifest is not what was written, or does not fit the token files that it lies beside."""
    vocab_size, files = manifest["vocab_size"], manifest["files"]
    if not {f"{split}.bin" for split in SPLITS} <= files.keys():
        raise ValueError("manifest.json has changed")
    for name, expected in files.items():
        if (folder / name).stat().st_size != expected["bytes"] or sha256(folder / name) != expected["sha256"]:
            raise ValueError(f"{name} has changed")
    if manifest["sha256"] != _data_hash(vocab_size, files):
        raise ValueError("manifest.json has changed")
    if manifest["dtype"] != (dtype := _dtype(vocab_size)).name:
        raise ValueError(f"manifest.json: dtype={manifest['dtype']}, but a vocabulary of {vocab_size:,} has {dtype}")
    for split in SPLITS:
        if files[f"{split}.bin"]["bytes"] != (tokens := manifest["counts"][split]["tokens"]) * dtype.itemsize:
            raise ValueError(f"manifest.json: {split}.bin does not hold {tokens:,} tokens")
    if "manifest_sha256" in manifest:
        if manifest["manifest_sha256"] != _manifest_hash(manifest):
            raise ValueError("manifest.json has changed")
    else:  # written by an older version, without a hash
        occurrences = np.zeros(vocab_size, dtype=np.int64)
        tokens_N = np.memmap(folder / "train.bin", dtype, mode="r")
        for start in range(0, len(tokens_N), _COUNTED_AT_ONCE):
            occurrences += np.bincount(tokens_N[start : start + _COUNTED_AT_ONCE], minlength=vocab_size)
        if not math.isclose(manifest["unigram_entropy"], _Tally(occurrences).entropy(), rel_tol=1e-9):
            raise ValueError(f"manifest.json: unigram_entropy={manifest['unigram_entropy']} is not that of train.bin")


def open_prepared(folder: Path, say: Callable[[str], None]) -> Prepared | None:
    """What is in the folder, or None when it is not there or is not what its manifest says."""
    if not folder.exists():
        return None
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        _check_manifest(folder, manifest)
        return Prepared(
            folder=folder,
            vocab_size=manifest["vocab_size"],
            train=np.memmap(folder / "train.bin", dtype=manifest["dtype"], mode="r"),
            heldout=np.memmap(folder / "heldout.bin", dtype=manifest["dtype"], mode="r"),
            sha256=manifest["sha256"],
            unigram_entropy=manifest["unigram_entropy"],
            manifest=manifest,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        say(f"data: {folder} does not match its manifest ({error}); preparing it again")
        return None


# ------------------------------------------------------------------------------------------------------ writing tokens
@dataclass
class _Tally:
    """Running counts of one split; under `lines` a document is a line."""

    occurrences: np.ndarray  # int64 [vocab_size]
    documents: int = 0
    bytes: int = 0
    unknown: int = 0  # times that the text says "<unk>"

    @property
    def tokens(self) -> int:
        return int(self.occurrences.sum())

    def counts(self) -> dict[str, int]:
        distinct = int(np.count_nonzero(self.occurrences))
        return {"tokens": self.tokens, "distinct_tokens": distinct, "documents": self.documents, "bytes": self.bytes}

    def entropy(self) -> float:
        """Unigram entropy in nats."""
        shares = self.occurrences[self.occurrences > 0] / self.tokens
        return float(-(shares * np.log(shares)).sum())


def _dtype(vocab_size: int) -> np.dtype:
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def _write_synthetic(folder: Path, data: SyntheticData) -> dict[Split, _Tally]:
    tallies: dict[Split, _Tally] = {}
    for split in SPLITS:
        tokens = interruptible(functools.partial(synthetic_tokens, data, split))
        write_durably(folder / f"{split}.bin", tokens.astype(_dtype(data.vocab_size)).tobytes())
        tallies[split] = _Tally(np.bincount(tokens, minlength=data.vocab_size), documents=1)
    return tallies


def _write_text(
    folder: Path, encode: Encode, config: GPT2Tokenizer | BPETokenizer, corpus: Corpus
) -> tuple[int, dict[Split, _Tally]]:
    """Train or load the tokenizer, encode both splits, save all three files. Returns the vocabulary size and counts."""
    pieces = (piece for text in corpus.read("train", encode) for piece in cut_long(text, PIECE_CHARACTERS))
    tokenizer = train_bpe(config, pieces) if isinstance(config, BPETokenizer) else gpt2(config)
    longest = min(PIECE_CHARACTERS, CHUNK_CHARACTERS) if splits_as_gpt2(tokenizer) else CHUNK_CHARACTERS
    write_durably(folder / "tokenizer.json", tokenizer.to_str(pretty=True).encode())
    tokenizer.encode_special_tokens = True  # "<|endoftext|>" written out in a text is text, not the end of a document
    vocab_size = tokenizer.get_vocab_size()
    tallies: dict[Split, _Tally] = {}
    for split in SPLITS:
        tally = tallies[split] = _Tally(np.zeros(vocab_size, np.int64))
        with (folder / f"{split}.bin").open("wb") as file, _bar(split) as bar:
            for ids in _encoded(_pieces(corpus.read(split, encode), encode, longest, tally, bar), tokenizer, encode):
                tally.occurrences += np.bincount(ids, minlength=vocab_size)
                file.write(ids.astype(_dtype(vocab_size)).tobytes())
            _flush(file)
        if tally.tokens == 0:
            raise UserError(f"data: the {split} part of {corpus.name} is empty; give more text or data.heldout_paths")
    return vocab_size, tallies


def _bar(split: Split) -> tqdm:
    return tqdm(desc=f"encoding {split}", unit="B", unit_scale=True, disable=not is_watched())


def _pieces(texts: Iterable[str], encode: Encode, longest: int, tally: _Tally, bar: tqdm) -> Iterator[tuple[str, bool]]:
    """(text to encode, in pieces of about `longest` characters, whether an end mark stands before it); counts what passes."""
    for text in texts:
        size = len(text.encode())
        after_another = encode == "documents" and tally.documents > 0
        for i, piece in enumerate(cut_long(text, longest)):
            tally.unknown += piece.count("<unk>")
            yield piece, after_another and i == 0
        tally.documents += 1
        tally.bytes += size
        bar.update(size)


def cut_long(text: str, longest: int) -> Iterator[str]:
    """`text` in pieces of about `longest` characters that GPT-2's tokenizer and a BPE of ours encode to the tokens of the whole.

    A word of `LONGEST_WORD` characters and more is cut itself, since the memory that it takes has to have a bound.
    """
    start = 0
    while len(text) - start > longest:
        end = start + longest + LONGEST_WORD
        place = _SAFE_CUT.search(text, start + longest, end)
        if place is None and end >= len(text):
            break
        cut = end if place is None else place.end()
        yield text[start:cut]
        start = cut
    yield text[start:]


def _encoded(pieces: Iterable[tuple[str, bool]], tokenizer: Tokenizer, encode: Encode) -> Iterator[np.ndarray]:
    """int64 token ids, one array for each chunk of pieces."""
    mark = [end_mark_id(tokenizer)] if encode == "documents" else []
    for chunk in _chunks(pieces):
        encodings = interruptible(functools.partial(tokenizer.encode_batch_fast, [t for t, _ in chunk], add_special_tokens=False))
        ids = [i for (_, marked), e in zip(chunk, encodings, strict=True) for i in (mark + e.ids if marked else e.ids)]
        yield np.asarray(ids, dtype=np.int64)


def _chunks(pieces: Iterable[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    chunk, size = [], 0
    for piece in pieces:
        chunk.append(piece)
        size += len(piece[0])
        if size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def write_durably(path: Path, content: bytes) -> None:
    """Write a file that a power cut can't take back once this returns."""
    with path.open("wb") as file:
        file.write(content)
        _flush(file)

"""The user's own text files as a corpus."""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bitnet.common.errors import UserError
from bitnet.config.data import TextData
from bitnet.data.corpus import Corpus, Encode, Split, nonempty_lines


@dataclass(frozen=True)
class _Span:
    """Bytes `start` to `end` of a file, both at the start of a line."""

    path: Path
    start: int
    end: int

    def read(self, encode: Encode) -> Iterator[str]:
        with self.path.open("rb") as file:
            file.seek(self.start)
            if encode == "documents":
                text = _unix(file.read(self.end - self.start))
                yield from (text,) if text.strip() else ()
                return
            position = self.start
            while position < self.end:
                line = file.readline()
                position += len(line)
                if text := _unix(line):
                    yield from nonempty_lines(text)


def _unix(raw: bytes) -> str:
    return raw.decode().replace("\r\n", "\n")


def text_corpus(data: TextData) -> Corpus:
    if not data.paths:
        raise UserError("data.paths=[]: data=text needs files or folders of *.txt or *.md, as in data.paths=[book.txt]")
    train = text_files(data.paths, "data.paths")
    heldout = text_files(data.heldout_paths, "data.heldout_paths")
    if both := set(train) & set(heldout):
        raise UserError(f"data.heldout_paths: {min(both)} is also in data.paths; held-out text must not be trained on")
    hashes = {"train": [checked_hash(path) for path in train], "heldout": [checked_hash(path) for path in heldout]}
    spans = {"train": _whole(train), "heldout": _whole(heldout)}
    if not heldout:
        spans["train"], spans["heldout"] = _cut(spans["train"], data.heldout_fraction)

    def read(split: Split, encode: Encode) -> Iterator[str]:
        for span in spans[split]:
            yield from span.read(encode)

    return Corpus(re.sub(r"[^\w.-]+", "_", Path(data.paths[0]).resolve().stem)[:40] or "text", hashes, read)


def text_files(paths: Iterable[str], key: str) -> list[Path]:
    """The files that `paths` name, resolved: a file itself, a folder's `*.txt` and `*.md` at any depth, sorted.

    Raises:
        UserError: a path that does not exist, or a folder without such a file.
    """
    files: list[Path] = []
    for name in paths:
        path = Path(name).expanduser().resolve()
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix in {".txt", ".md"} and p.is_file())
            if not found:
                raise UserError(f"{key}: the folder {name} holds no *.txt or *.md file")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise UserError(f"{key}: there is no file or folder {name}")
    return files


def checked_hash(path: Path) -> str:
    """The file's sha256.

    Raises:
        UserError: the file is empty, can't be read, or is not UTF-8 text.
    """
    sha256, decoder, blank = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")(), True
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                if b"\0" in block:
                    raise UserError(f"data: {path} is not text: it holds NUL bytes")
                blank = blank and not decoder.decode(block).strip()
                sha256.update(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise UserError(f"data: {path} is not UTF-8 text ({error.reason}); convert it to UTF-8") from None
    except OSError as error:
        raise UserError(f"data: {path} can't be read: {error.strerror}") from None
    if blank:
        raise UserError(f"data: {path} is empty: it holds no text")
    return sha256.hexdigest()


def _whole(files: Iterable[Path]) -> list[_Span]:
    return [_Span(path, 0, path.stat().st_size) for path in files]


def _cut(spans: list[_Span], fraction: float) -> tuple[list[_Span], list[_Span]]:
    """All but the last `fraction` of the bytes, and the rest, cut at the next start of a line."""
    left = int((1 - fraction) * sum(span.end for span in spans))
    train: list[_Span] = []
    for i, span in enumerate(spans):
        if left < span.end:
            with span.path.open("rb") as file:
                file.seek(left)
                file.readline()
                cut = file.tell()
            parts = [_Span(span.path, 0, cut), _Span(span.path, cut, span.end)]
            return train + parts[:1], [part for part in parts[1:] if part.start < part.end] + spans[i + 1 :]
        train.append(span)
        left -= span.end
    return train, []

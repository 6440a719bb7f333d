"""The user's own text files as a corpus: in two parts, of which neither has what the other has."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitnet.common.errors import UserError
from bitnet.config.data import TextData
from bitnet.data.corpus import Corpus, Encode, Split
from bitnet.data.text_files import BLOCK, TextFile, examine, find_files, read_lines, read_text

READING = 2  # of peculiar files, part of what determines their text: they were read otherwise before

_LINE_END = re.compile(rb"\r\n?|\n")

_NO_WORD = 10_000  # bytes without a blank: a text that has none

_CONTINUATION = range(0x80, 0xC0)  # bytes of UTF-8 that no character begins with


@dataclass(frozen=True)
class _Span:
    """Bytes `start` to `end` of a file."""

    file: TextFile
    start: int
    end: int

    def read(self, encode: Encode) -> Iterator[str]:
        if encode == "documents":
            text = "".join(read_text(self.file.path, self.start, self.end))
            yield from (text,) if text.strip() else ()
        else:
            yield from (line for line in read_lines(self.file.path, self.start, self.end) if line.strip())

    def has_text(self) -> bool:
        return any(block.strip() for block in read_text(self.file.path, self.start, self.end))


def text_corpus(data: TextData) -> Corpus:
    """The files and folders that `data` names, as training and held-out text.

    Raises:
        UserError: there are none, one can't be used, or they can't be split.
    """
    if not data.paths:
        raise UserError("data.paths=[]: data=text needs files or folders of *.txt or *.md, as in data.paths=[book.txt]")
    found = {"data.paths": find_files(data.paths, "data.paths")}
    found["data.heldout_paths"] = find_files(data.heldout_paths, "data.heldout_paths")
    seen = {path: examine(path) for path in {p for f in found.values() for p in f.files}}
    train, heldout = ([seen[path] for path in f.files] for f in found.values())
    hashes: dict[str, object] = {"train": [file.sha256 for file in train], "heldout": [file.sha256 for file in heldout]}
    spans, cut_in_line = {"train": _whole(train), "heldout": _whole(heldout)}, False
    if not heldout:
        spans["train"], spans["heldout"], cut_in_line = _cut(train, data.heldout_fraction)
    if cut_in_line or any(file.peculiar for file in seen.values()):
        hashes["reading"] = READING

    def read(split: Split, encode: Encode) -> Iterator[str]:
        for span in spans[split]:
            yield from span.read(encode)

    notes = [f"{key}: {f.summary()}" for key, f in found.items() if f.in_folders]
    notes += [note for key, files in zip(found, (train, heldout), strict=True) for note in _repeated(files, key)]
    name = re.sub(r"[^\w.-]+", "_", Path(data.paths[0]).resolve().stem)[:40] or "text"
    return Corpus(name, hashes, read, tuple(notes), _in_both(spans["train"], spans["heldout"]))


def _whole(files: Sequence[TextFile]) -> list[_Span]:
    return [_Span(file, 0, file.size) for file in files]


def _in_both(train: Sequence[_Span], heldout: Sequence[_Span]) -> str | None:
    """Which file has held-out text that another one, or the same named again, has in training; None where none has."""
    places: dict[str, list[_Span]] = {}
    for span in train:
        places.setdefault(span.file.text_sha256, []).append(span)
    for span in heldout:
        for other in places.get(span.file.text_sha256, []):
            if other.end == span.start and other.file is span.file:  # the two parts of one file
                continue
            same = "is named twice" if other.file.path == span.file.path else f"has the same text as {other.file.path}"
            both = "once to train on and once held out; held-out text must not be trained on"
            return f"data: {span.file.path} {same}, {both}; remove one, or name the held-out text by data.heldout_paths"
    return None


def _repeated(files: Sequence[TextFile], key: str) -> list[str]:
    """What is said of texts that are in one part more than once."""
    places: dict[str, list[Path]] = {}
    for file in files:
        places.setdefault(file.text_sha256, []).append(file.path)
    several = [found for found in places.values() if len(found) > 1]
    return [f"note: {key}: {len(found)} times the same text: {', '.join(map(str, found))}" for found in several]


# --------------------------------------------------------------------------------------------------------- splitting a text
def _cut(files: Sequence[TextFile], fraction: float) -> tuple[list[_Span], list[_Span], bool]:
    """All but the last `fraction` of the bytes, and the rest, cut at the next start of a line; whether within a line after all.

    Raises:
        UserError: nothing would be left on one side.
    """
    size, spans = sum(file.size for file in files), _whole(files)
    left = min(int((1 - fraction) * size), size - 1)
    place = next(i for i, span in enumerate(spans) if (left := left - span.end) < 0)
    left += spans[place].end
    for where, within in ((_line_start(spans[place], left), False), (_blank(spans[place], left), True)):
        if where is not None:
            parts = [_Span(files[place], 0, where), _Span(files[place], where, files[place].size)]
            train, heldout = spans[:place] + parts[:1], [p for p in parts[1:] if p.start < p.end] + spans[place + 1 :]
            if all(any(span.has_text() for span in part) for part in (train, heldout)):
                return train, heldout, within
    raise UserError(
        f"data.heldout_fraction={fraction}: this text can't be split: neither a line nor a word begins in its last part; "
        "give more text, or name data.heldout_paths"
    )


def _line_start(span: _Span, left: int) -> int | None:
    """Where the next line begins, or the file ends; None in a line of a block and more."""
    block = _bytes_from(span, left)
    at_end = left + len(block) == span.end
    if (found := _LINE_END.search(block)) is not None and (at_end or found.end() < len(block)):  # or its newline may follow
        return left + found.end()
    return span.end if at_end else None


def _blank(span: _Span, left: int) -> int | None:
    """Where the next blank stands; in what is longer than any word, its next character; None where neither is."""
    block = _bytes_from(span, left)
    if (place := block.find(b" ")) >= 0:
        return left + place
    if len(block) < _NO_WORD:
        return None
    return left + next(i for i, byte in enumerate(block) if byte not in _CONTINUATION)


def _bytes_from(span: _Span, left: int) -> bytes:
    with span.file.path.open("rb") as file:
        file.seek(left)
        return file.read(min(BLOCK, span.end - left))

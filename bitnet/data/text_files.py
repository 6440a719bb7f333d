"""The user's own text files: which ones paths and folders give, what a look through each finds, and its text."""

from __future__ import annotations

import codecs
import hashlib
import io
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bitnet.common.errors import UserError
from bitnet.common.text import counted

SUFFIXES = (".txt", ".md")

# Folders that programs keep beside a user's files, besides those whose names begin with a dot.
CACHES = {"__pycache__", "__MACOSX", "node_modules"}

BLOCK = 1 << 20  # bytes read at once

LONGEST_WORD = BLOCK  # characters without a blank or a line's end, from which on a text is cut where it may change a token

# Characters of one kind in a row, which GPT-2's pre-tokenizer takes for one word, from which on a BPE learns from parts of it:
# the time that it takes to learn from a word grows with the square of the word's length.
LONGEST_RUN = 1 << 12

_RUN = re.compile(rf"[^\W\d_]{{{LONGEST_RUN}}}|\d{{{LONGEST_RUN}}}|(?:[^\w\s]|_){{{LONGEST_RUN}}}|\s{{{LONGEST_RUN}}}")


# ------------------------------------------------------------------------------------------------------------ which files
@dataclass
class Found:
    """The files that paths give, resolved, and how many in folders were left out, by reason."""

    files: list[Path]
    skipped: Counter[str]
    in_folders: bool = False

    def summary(self) -> str:
        """`3 files read, 2 skipped: 1 hidden or in a cache, 1 not *.txt or *.md`."""
        left_out = ", ".join(f"{n:,} {reason}" for reason, n in sorted(self.skipped.items()))
        read = f"{counted(len(self.files), 'file')} read"
        return f"{read}, {self.skipped.total():,} skipped: {left_out}" if left_out else read


def find_files(paths: Iterable[str], key: str) -> Found:
    """The files that `paths` name: a file itself, a folder's `*.txt` and `*.md` at any depth, sorted.

    In a folder hidden files and folders, `CACHES` and links to folders are skipped, as is what is no file.

    Raises:
        UserError: a path that does not exist or can't be read more than once, or a folder without such a file.
    """
    found = Found([], Counter())
    for name in paths:
        path = Path(name).expanduser()
        mode = _mode(path, name, key)
        if stat.S_ISDIR(mode):
            inside = sorted(_inside(path.resolve(), found.skipped))
            if not inside:
                raise UserError(f"{key}: the folder {name} holds no *.txt or *.md file")
            found.files += inside
            found.in_folders = True
        elif stat.S_ISREG(mode):
            found.files.append(path.resolve())
        else:
            raise UserError(f"{key}: {name} is a pipe or a device, and text is read more than once; put it into a file")
    return found


def _mode(path: Path, name: str, key: str) -> int:
    """What the path is, for `stat`."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{key}: there is no file or folder {name}") from None
    except OSError as error:
        raise UserError(f"{key}: {name} can't be read: {error.strerror}") from None


def _inside(folder: Path, skipped: Counter[str]) -> Iterator[Path]:
    """A folder's text files; what is left out is counted, a folder as one."""
    for at, folders, files in os.walk(folder):
        for name in [n for n in folders if _is_private(n) or os.path.islink(os.path.join(at, n))]:
            folders.remove(name)
            skipped["hidden or in a cache" if _is_private(name) else "behind a link to a folder"] += 1
        for name in files:
            path = Path(at, name)
            if _is_private(name):
                skipped["hidden or in a cache"] += 1
            elif path.suffix not in SUFFIXES:
                skipped["not *.txt or *.md"] += 1
            elif not path.is_file():
                skipped["not a file"] += 1
            else:
                yield path


def _is_private(name: str) -> bool:
    return name.startswith(".") or name in CACHES


# ------------------------------------------------------------------------------------------------------------ what is in them
@dataclass(frozen=True)
class TextFile:
    """What a look through a file finds.

    `sha256`: of its bytes. `text_sha256`: of its text, the same for a copy with other line ends. `peculiar`: whether it has a
    byte order mark, lines that end in a lone carriage return, or a longer word than `LONGEST_WORD` or `LONGEST_RUN`.
    """

    path: Path
    size: int
    sha256: str
    text_sha256: str
    peculiar: bool


def examine(path: Path) -> TextFile:
    """A file, looked through once.

    Raises:
        UserError: the file is empty, can't be read, or is not UTF-8 text.
    """
    raw, text_hash = hashlib.sha256(), hashlib.sha256()
    decoder, words = _decoder(at_start=True), _Words()
    size, marked, blank, long, before = 0, False, True, False, ""
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                if b"\0" in block:
                    raise UserError(f"data: {path} is not text: it holds NUL bytes")
                marked = marked or (size == 0 and block.startswith(codecs.BOM_UTF8))
                size += len(block)
                raw.update(block)
                text = decoder.decode(block)
                text_hash.update(text.encode())
                words.add(text)
                long = long or has_long_run(before + text)
                before = text[-LONGEST_RUN:]
                blank = blank and not text.strip()
        text_hash.update(decoder.decode(b"", final=True).encode())
    except UnicodeDecodeError as error:
        raise UserError(f"data: {path} is not UTF-8 text ({error.reason}); convert it to UTF-8") from None
    except OSError as error:
        raise UserError(f"data: {path} can't be read: {error.strerror}") from None
    if blank:
        raise UserError(f"data: {path} is empty: it holds no text")
    peculiar = marked or "\r" in _line_ends(decoder) or words.longest >= LONGEST_WORD or long
    return TextFile(path, size, raw.hexdigest(), text_hash.hexdigest(), peculiar)


def _decoder(*, at_start: bool) -> io.IncrementalNewlineDecoder:
    """Bytes to text whose lines all end in a newline; at a file's start without its byte order mark."""
    return io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig" if at_start else "utf-8")(), translate=True)


def _line_ends(decoder: io.IncrementalNewlineDecoder) -> tuple[str, ...]:
    """Those that the decoder met: of a newline, a carriage return, and both."""
    met = decoder.newlines
    return (met,) if isinstance(met, str) else met or ()


class _Words:
    """The length of the longest word so far, in characters: exact only for one that is longer than a block."""

    def __init__(self) -> None:
        self.longest = self._open = 0

    def add(self, text: str) -> None:
        breaks = [place for mark in " \n" if (place := text.find(mark)) >= 0]
        self._open += min(breaks, default=len(text))
        self.longest = max(self.longest, self._open)
        if breaks:
            self._open = len(text) - 1 - max(text.rfind(mark) for mark in " \n")


def has_long_run(text: str) -> bool:
    """Whether `LONGEST_RUN` characters of one kind stand in a row."""
    # Such a run fills one at least of these windows, but hardly any window of prose lacks a blank, a line's end or visible text.
    half = LONGEST_RUN // 2
    windows = (text[at : at + half] for at in range(0, len(text) - half + 1, half))
    may_be = any((" " not in window and "\n" not in window) or window.isspace() for window in windows)
    return may_be and _RUN.search(text) is not None


def cut_runs(text: str) -> Iterator[str]:
    """`text` in parts in which no more than `LONGEST_RUN` characters of one kind stand in a row."""
    start = 0
    for run in _RUN.finditer(text) if has_long_run(text) else ():
        yield text[start : run.end()]
        start = run.end()
    yield text[start:]


def read_text(path: Path, start: int, end: int) -> Iterator[str]:
    """The text between two bytes of a file, in blocks."""
    decoder = _decoder(at_start=start == 0)
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(min(BLOCK, end - start)):
            start += len(block)
            yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


def read_lines(path: Path, start: int, end: int) -> Iterator[str]:
    """The lines between two bytes of a file, each with its newline."""
    parts: list[str] = []
    for block in read_text(path, start, end):
        for line in io.StringIO(block, newline="\n"):
            parts.append(line)
            if line.endswith("\n"):
                yield "".join(parts)
                parts.clear()
    if parts:
        yield "".join(parts)

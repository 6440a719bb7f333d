"""A source of text: what determines its content, and its texts, split by split.

The order is fixed, so the same fingerprint always gives the same texts. Nothing here tokenises.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Split = Literal["train", "heldout"]

Encode = Literal["lines", "documents"]


@dataclass(frozen=True)
class Corpus:
    """A source of text.

    `name`: short and readable, fit for a folder's name. `fingerprint`: what determines the content, as plain JSON.
    `read(split, encode)`: the texts in order; with `lines` the non-empty lines, each with its blanks and its newline.
    `notes`: what whoever prepares it is told. `problem`: why it must not be prepared; what was prepared before there was this
    rule still stands, or the runs that began with it could not be finished.
    """

    name: str
    fingerprint: dict[str, Any]
    read: Callable[[Split, Encode], Iterator[str]]
    notes: tuple[str, ...] = ()
    problem: str | None = None


def nonempty_lines(text: str) -> Iterator[str]:
    """The lines of `text` that are more than white space, unchanged: leading blanks and the newline belong to a line.

    This is how the study's loader saw its lines: a row of WikiText on the hub keeps both, and only then does the
    training split give the 18,700 batches of 128 tokens that the study counts.
    """
    return (line for line in io.StringIO(text, newline="\n") if line.strip())

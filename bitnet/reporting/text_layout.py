"""Sections of strings as plain text, Markdown or LaTeX.

In plain text no line is wider than asked for: cells wrap, and columns that don't fit go into a further block under the same
first column.
"""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pandas as pd
from tabulate import tabulate

FORMATS = {"plain": "simple", "md": "pipe", "markdown": "pipe", "latex": "latex_booktabs"}

_PADDING = 2  # tabulate keeps this much free beside a heading, and between columns

_FIRST_COLUMN, _NARROW_FIRST, _HEAD, _NARROW_HEAD, _CELL = 34, 20, 24, 8, 34  # widest text before it wraps


@dataclass(frozen=True)
class Section:
    """One printed table, or several with the same caption; the index of a frame is its first column.

    A section of level 1 opens those of level 2 that follow it.
    """

    title: str
    caption: str
    frames: list[pd.DataFrame] = field(default_factory=list)
    level: int = 2


def render(section: Section, style: str, width: int | None) -> str:
    """The section as text.

    Args:
        style: a key of `FORMATS`.
        width: widest line in characters; md and latex are not split.
    """
    if style != "plain":
        width = None
    parts = [_title(section, style, width), _caption(section.caption, style, width)]
    for frame in (frame for frame in section.frames if len(frame)):
        for block in _fitting(_wrapped(frame, width), width):
            head = [_literal(name, style) for name in (block.index.name, *block.columns)]
            lines = zip(block.index, block.to_numpy().tolist(), strict=True)
            rows = [[_literal(cell, style) for cell in (name, *cells)] for name, cells in lines]
            align = ["left", *("left" if _is_prose(block[c]) else "right" for c in block.columns)]
            table = tabulate(rows, head, tablefmt=FORMATS[style], disable_numparse=True, colalign=align)
            parts.append((_OPTION.sub(r"\g<0>{}", table) if style == "latex" else table) + "\n")
    return "\n".join(parts)


# At the start of a row, what LaTeX takes for an option of the `\\` or the rule before it.
_OPTION = re.compile(r"^ *(?=[\[*])", re.MULTILINE)

_MARKDOWN = re.compile(r"[\\`*_{}\[\]#|~$^]")  # what makes something else of a text than itself


def _literal(text: str, style: str) -> str:
    """Text that may hold anything a configuration does, so that Markdown shows it and makes neither HTML nor cells of it.

    What LaTeX makes something of, tabulate escapes; here it only loses the empty lines that no cell can hold.
    """
    if style == "plain":
        return text
    line = " ".join(str(text).split())
    return line if style == "latex" else _MARKDOWN.sub(r"\\\g<0>", html.escape(line, quote=False))


def remark(text: str, style: str) -> str:
    """A line beside the sections: of LaTeX a comment."""
    return f"% {_literal(text, style)}" if style == "latex" else _literal(text, style)


def _title(section: Section, style: str, width: int | None) -> str:
    title = " ".join(section.title.split())  # a line break would end the comment that it is in LaTeX
    if style == "latex":
        return f"% {title}"
    if style != "plain":
        return f"{'#' * section.level} {_literal(title, style)}\n"
    lines = wrap(title, width or len(title))
    return f"{lines}\n{'#='[section.level - 1] * _widest([lines])}"


def _caption(caption: str, style: str, width: int | None) -> str:
    if style == "latex":
        return "\n".join(f"% {line}" for line in caption.splitlines())
    lines = [_literal(line, style) for line in caption.splitlines()]
    return "\n".join(lines if width is None else (textwrap.fill(line, width) for line in lines)) + "\n"


def _is_prose(cells: pd.Series) -> bool:
    return bool(cells.str.contains(r"[A-Za-z]{4}").any())


def _wrapped(frame: pd.DataFrame, width: int | None) -> pd.DataFrame:
    if width is None:
        return frame
    wrapped = frame.apply(lambda column: column.map(lambda cell: wrap(cell, _CELL)))
    wrapped.columns = [_head(name, wrapped[name].tolist()) for name in frame.columns]
    rest = sum(_PADDING + _width(name, wrapped[name]) for name in wrapped.columns)
    names = [wrap(name, _FIRST_COLUMN) for name in frame.index]
    if _width(frame.index.name, names) + rest > width:
        names = [wrap(name, _NARROW_FIRST) for name in frame.index]
    return wrapped.set_axis(names).rename_axis(frame.index.name)


def _fitting(frame: pd.DataFrame, width: int | None) -> Iterator[pd.DataFrame]:
    """`frame` in runs of columns that fit into `width` beside its index; one column at least."""
    if width is None or not len(frame.columns):
        yield frame
        return
    first = _width(frame.index.name, frame.index)
    start, used = 0, first
    for i, column in enumerate(frame.columns):
        needs = _PADDING + _width(column, frame[column])
        if used + needs > width and i > start:
            yield frame.iloc[:, start:i]
            start, used = i, first
        used += needs
    yield frame.iloc[:, start:]


def _head(name: str, cells: list[str]) -> str:
    """A heading no wider than its cells, as far as its words allow."""
    word = max(len(piece) for piece in _pieces(name))
    return wrap(name, min(_HEAD, max(_NARROW_HEAD, word, _widest(cells))))


def _width(heading: str, cells: Iterable[str]) -> int:
    return max(_widest([heading]) + _PADDING, _widest(cells))


def _widest(cells: Iterable[str]) -> int:
    return max((len(line) for cell in cells for line in cell.split("\n")), default=0)


def _pieces(text: str) -> list[str]:
    return re.split(r"(?<=[,/ \-])", text)


def wrap(text: str, width: int) -> str:
    """`text` in lines of at most `width`, broken after commas, slashes, hyphens and blanks where it has any."""
    lines = [""]
    for piece in _pieces(text):
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
        while len(lines[-1]) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return "\n".join(line.rstrip() for line in lines if line.strip())

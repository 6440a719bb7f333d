"""The tables in a Markdown document, between two marks, so that one command brings them up to date."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bitnet.common.errors import UserError
from bitnet.reporting.text_layout import Section, render


def update(path: Path, kind: str, sections: Sequence[Section]) -> None:
    """Put the sections, as Markdown, in place of what stands between the marks of their kind.

    Raises:
        UserError: when the document can't be read, or has no such marks.
    """
    before, after = around(path, kind)
    body = "\n".join(render(section, "md", None) for section in sections)
    path.write_text(f"{before}\n\n{body}\n{after}", encoding="utf-8")


def around(path: Path, kind: str) -> tuple[str, str]:
    """What stands before and after, the marks included.

    Raises:
        UserError: when the document can't be read, or has no such marks.
    """
    begin, end = (f"<!-- bitnet.bench {kind}: {what} -->" for what in ("begin", "end"))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--document {path}: can't be read ({type(error).__name__})") from None
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise UserError(f"--document {path}: has no lines {begin} and {end} to put the tables between")
    return before + begin, end + after

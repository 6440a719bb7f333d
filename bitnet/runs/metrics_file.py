"""`metrics.csv`: the writer, which never loses a whole row; what of a file can be used; and whether it has all that it should."""

from __future__ import annotations

import codecs
import contextlib
import csv
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from bitnet.common.files import write_atomically
from bitnet.runs.columns import COLUMNS, FIXED_FORMATS, format_value
from bitnet.runs.reading import Unreadable
from bitnet.runs.statuses import DIVERGED, DONE


def is_evaluated(step: int, eval_every: int, last: int | None) -> bool:
    """Whether a run evaluates at `step`: at the first, at every `eval_every`, and at its `last` (None: not known)."""
    return step == 1 or step % eval_every == 0 or step == last


def evaluation_steps(until: int, eval_every: int, last: int | None = None) -> list[int]:
    """The steps up to `until` at which a run evaluates."""
    regular = range(eval_every, until + 1, eval_every)
    extra = {step for step in (1, last) if step is not None and 1 <= step <= until}
    return sorted(extra.union(regular))


def known_evaluations(status: str, reached: int, eval_every: int) -> list[int]:
    """The steps at which a run that stands so, at the step that it has reached, has evaluated."""
    # at the step at which the loss was not finite there is a row only where it was the held-out one's
    until = reached - 1 if status == DIVERGED else reached
    return evaluation_steps(until, eval_every, reached if status == DONE else None)


class MetricsFile:
    """`metrics.csv`, opened to go on after `step`: rows of later steps, and a torn last row, are dropped first."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        text = csv_text([COLUMNS, *rows_until(path, step)])
        self._written = hashlib.sha256(text.encode())
        write_atomically(path, text)

    @property
    def sha256(self) -> str:
        """Of the whole file as this process wrote it, for checkpoints to name the rows that they stand on."""
        return self._written.hexdigest()

    def append(self, values: Mapping[str, float | int | None]) -> None:
        """Add one evaluation and push it to disk, so that a checkpoint written later never outlives its rows.

        Raises:
            KeyError: for a value whose column `runs/columns.py` does not know.
        """
        unknown = values.keys() - set(COLUMNS)
        if unknown:
            raise KeyError(f"columns {sorted(unknown)} are not declared in runs/columns.py")
        line = csv_text([[format_value(c, values.get(c)) for c in COLUMNS]])
        self._written.update(line.encode())
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def csv_text(rows: Iterable[Iterable[str]]) -> str:
    """Rows as `metrics.csv` has them."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def whole_lines(path: Path) -> tuple[bytes, bytes]:
    """What a file holds of whole lines, and the torn one after them, which is empty where there is none.

    A byte order mark and line ends of another system, which editors, copies and version control leave, are undone: they
    change no number. A spreadsheet does.

    Raises:
        Unreadable: why nothing in the file can be used.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise Unreadable("is missing") from None
    except OSError as error:
        raise Unreadable(f"can't be read: {error.strerror}") from error
    unmarked = content.removeprefix(codecs.BOM_UTF8)
    text = unmarked.replace(b"\r\n", b"\n")
    if signs := list(_signs_of_another_program(text, touched=text != content)):
        raise Unreadable(f"is not used: another program saved it ({', '.join(signs)}) and may have rounded its numbers")
    whole, end, torn = text.rpartition(b"\n")
    if not end or b"Step" not in whole.split(b"\n", 1)[0].split(b","):
        raise Unreadable("has no complete header" if text.strip() else "is empty")
    return whole + end, torn.strip()


def _signs_of_another_program(text: bytes, *, touched: bool) -> Iterator[str]:
    """What in a file the trainer never writes, but a spreadsheet that saved it.

    Args:
        touched: whether a program has changed other bytes of it, so that more than a glance at its numbers is called for.
    """
    if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        yield "in UTF-16"
        return
    header, *lines = text.splitlines() or [b""]
    if b"\r" in text:
        yield "line ends of another system"
    if b'"' in header:
        yield "names in quotes"
    if b"," not in header and any(sign in header for sign in (b";", b"\t", b"|")):
        yield "another separator than commas"
    elif (odd := next(_odd_numbers(header, lines if touched else lines[:1] + lines[-1:]), None)) is not None:
        yield odd


def _odd_numbers(header: bytes, lines: Iterable[bytes]) -> Iterator[str]:
    """Numbers in the study's columns that are not written in the study's format, as `WD 0.1, not 0.10`."""
    names = header.split(b",")
    places = {column: names.index(column.encode()) for column in FIXED_FORMATS if column.encode() in names}
    for cells in (line.split(b",") for line in lines):
        if len(cells) != len(names):
            continue  # torn
        for column, place in places.items():
            cell = cells[place].decode(errors="replace")
            with contextlib.suppress(ValueError):
                if cell and cell != (written := format_value(column, float(cell))):
                    yield f"{column} {cell}, not {written}"


def rows_until(path: Path, step: int) -> list[list[str]]:
    """The whole rows of steps up to `step`; none where there is no file that can be used, or one with another header."""
    try:
        header, rows = _parsed(path)
    except Unreadable:
        return []
    return [row for row in rows if int(row[0]) <= step] if tuple(header) == COLUMNS else []


def _parsed(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header, and the rows that have as many cells and a step.

    Raises:
        Unreadable: why nothing in the file can be used.
    """
    try:
        header, *rows = csv.reader(io.StringIO(whole_lines(path)[0].decode()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise Unreadable(f"can't be read ({error})") from error
    at = header.index("Step")
    return header, [row for row in rows if len(row) == len(header) and row[at].isdecimal()]


def lost(steps: Iterable[int], found: Iterable[int]) -> list[int]:
    """Those of `steps` that were not found, in order."""
    return sorted(set(steps).difference(found))


def rows_problem(path: Path, steps: Sequence[int], sha256: str | None) -> str | None:
    """Why a file's rows up to the last of `steps` are not those that a run has written; None where they are.

    Args:
        steps: at which the run evaluated until then.
        sha256: of the file as it was then, None where no checkpoint says it.
    """
    if not steps:
        return None
    try:
        header, rows = _parsed(path)
    except Unreadable as error:
        return str(error)
    if tuple(header) != COLUMNS:
        return "has another header"
    rows = [row for row in rows if int(row[0]) <= steps[-1]]
    found = [int(row[0]) for row in rows]
    if missing := lost(steps, found):
        return f"lacks the {describe_steps(missing)}"
    if found != list(steps):
        return "has rows that the run did not write, or not in their order"
    if sha256 is not None and hashlib.sha256(csv_text([COLUMNS, *rows]).encode()).hexdigest() != sha256:
        return "was changed"
    return None


def lost_rows(path: Path, steps: Sequence[int]) -> str | None:
    """What a file lacks of the evaluations at `steps`, whatever version wrote it; None where it lacks nothing."""
    try:
        header, rows = _parsed(path)
    except Unreadable as error:
        return f"metrics.csv {error}"
    at = header.index("Step")
    missing = lost(steps, (int(row[at]) for row in rows))
    return f"metrics.csv lacks the {describe_steps(missing)}" if missing else None


def describe_steps(steps: Sequence[int]) -> str:
    """`evaluation at step 20`; `evaluations at steps 20, 40, 60 and 5 more`."""
    more = f" and {len(steps) - 3} more" if len(steps) > 3 else ""
    several = "s" * (len(steps) > 1)
    return f"evaluation{several} at step{several} {', '.join(map(str, steps[:3]))}{more}"

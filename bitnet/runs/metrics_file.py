"""`metrics.csv`: the writer, which never loses a whole row, and what is left of a file up to a step."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from bitnet.common.files import write_atomically
from bitnet.runs.columns import COLUMNS, format_value


class MetricsFile:
    """`metrics.csv`, opened to go on after `step`: rows of later steps, and a torn last row, are dropped first."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        write_atomically(path, csv_text([COLUMNS, *rows_until(path, step)]))

    def append(self, values: Mapping[str, float | int | None]) -> None:
        """Add one evaluation and push it to disk, so that a checkpoint written later never outlives its rows.

        Raises:
            KeyError: for a value whose column `runs/columns.py` does not know.
        """
        unknown = values.keys() - set(COLUMNS)
        if unknown:
            raise KeyError(f"columns {sorted(unknown)} are not declared in runs/columns.py")
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(csv_text([[format_value(c, values.get(c)) for c in COLUMNS]]))
            file.flush()
            os.fsync(file.fileno())


def csv_text(rows: Iterable[Iterable[str]]) -> str:
    """Rows as `metrics.csv` has them."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def rows_until(path: Path, step: int) -> list[list[str]]:
    """The whole rows of steps up to `step`."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    rows = list(csv.reader(io.StringIO(whole)))[1:]
    return [r for r in rows if len(r) == len(COLUMNS) and r[0].isdigit() and int(r[0]) <= step]

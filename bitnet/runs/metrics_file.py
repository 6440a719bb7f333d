"""`metrics.csv`: the writer, which never loses a whole row; at which steps it has one; and whether a file has them all."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bitnet.common.files import write_atomically
from bitnet.runs.columns import COLUMNS, format_value


def is_evaluated(step: int, eval_every: int, last: int | None) -> bool:
    """Whether a run evaluates at `step`: at the first, at every `eval_every`, and at its `last` (None: not known)."""
    return step == 1 or step % eval_every == 0 or step == last


def evaluation_steps(until: int, eval_every: int, last: int | None = None) -> list[int]:
    """The steps up to `until` at which a run evaluates."""
    regular = range(eval_every, until + 1, eval_every)
    extra = {step for step in (1, last) if step is not None and 1 <= step <= until}
    return sorted(extra.union(regular))


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


def rows_until(path: Path, step: int) -> list[list[str]]:
    """The whole rows of steps up to `step`; none where there is no file, or one with another header."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, UnicodeDecodeError):
        return []
    header, *rows = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1]))) or [[]]
    if tuple(header) != COLUMNS:
        return []
    return [r for r in rows if len(r) == len(COLUMNS) and r[0].isdigit() and int(r[0]) <= step]


def rows_problem(path: Path, steps: Sequence[int], sha256: str | None) -> str | None:
    """Why a file's rows up to the last of `steps` are not those that a run has written; None where they are.

    Args:
        steps: at which the run evaluated until then.
        sha256: of the file as it was then, None where no checkpoint says it.
    """
    if not steps:
        return None
    if not path.exists():
        return "is missing"
    rows = rows_until(path, steps[-1])
    found = [int(row[0]) for row in rows]
    if not rows:
        return "has no row that can be read, or another header"
    there = set(found)
    if missing := [step for step in steps if step not in there]:
        return f"lacks the {describe_steps(missing)}"
    if found != list(steps):
        return "has rows that the run did not write, or not in their order"
    if sha256 is not None and hashlib.sha256(csv_text([COLUMNS, *rows]).encode()).hexdigest() != sha256:
        return "was changed"
    return None


def lost_rows(path: Path, steps: Sequence[int]) -> str | None:
    """What a finished run's file lacks of its evaluations, whatever version wrote it; None where it lacks nothing."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            found = {row.get("Step") for row in csv.DictReader(file)}
    except FileNotFoundError:
        return "metrics.csv is missing"
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return f"metrics.csv can't be read ({error})"
    missing = [step for step in steps if str(step) not in found]
    return f"metrics.csv lacks the {describe_steps(missing)}" if missing else None


def describe_steps(steps: Sequence[int]) -> str:
    """`evaluation at step 20`; `evaluations at steps 20, 40, 60 and 5 more`."""
    more = f" and {len(steps) - 3} more" if len(steps) > 3 else ""
    several = "s" * (len(steps) > 1)
    return f"evaluation{several} at step{several} {', '.join(map(str, steps[:3]))}{more}"

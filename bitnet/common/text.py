"""Numbers, bytes and seconds as people read them."""

from __future__ import annotations

import re
from collections.abc import Sequence

DASH = "\u2013"  # an en dash: nothing measured, nothing reported


def counted(n: int, what: str) -> str:
    """`1 run`, `1,200 runs`."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def format_bytes(size: float) -> str:
    """Bytes in the unit that suits them, decimal."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size / 1e3:,.0f} kB"


def format_duration(seconds: float) -> str:
    """Seconds as [h:]mm:ss."""
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60:02d}:{rest % 60:02d}"


def format_significant(x: float, digits: int, *, sign: bool = False) -> str:
    """A number with so many digits that count: `0.0124`, `2.1e-08`, but `41,699` and not `4.17e+04`."""
    form = ",.0f" if abs(x) >= 10**digits - 0.5 else f",.{digits}g"
    return format(x, f"{'+' if sign else ''}{form}")


def format_list(what: str, numbers: Sequence[int]) -> str:
    """`seed 3`; `seeds 3, 4` of several."""
    return f"{what}{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def single_line(text: str) -> str:
    """A text on one line that a terminal shows and does not obey: blanks for line breaks, control characters by their codes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))


def shortened(text: str, most: int) -> str:
    """A text, or its beginning and three dots where it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def without_interpolation(text: str) -> str:
    """A text as Hydra's configuration takes it to mean itself: `${` stands for another key's value, unless it is escaped."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)

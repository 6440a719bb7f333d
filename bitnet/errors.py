"""The one exception that a user may cause, and the sentence that it carries."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Input that cannot be used. Entry points print the message on one line and exit with code 2."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """`"; did you mean 'steps'?"` for the allowed name closest to `name`, or an empty string when none is close."""
    close = difflib.get_close_matches(str(name), [str(a) for a in allowed], n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""

"""The one exception that a user may cause, and the sentence that it carries; and what is said of the others."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class UserError(Exception):
    """Input that cannot be used. Entry points print the message on one line and exit with code 2."""


_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


def is_disk_error(error: BaseException) -> bool:
    """Whether a disk is full or broken, which is neither the user's mistake nor the program's."""
    return isinstance(error, OSError) and error.errno in _DISK


def one_line(error: BaseException) -> str:
    """Why something failed, as a record and a person should have it."""
    if isinstance(error, OSError) and is_disk_error(error):
        where = "" if error.filename is None else f" writing {error.filename}"
        return f"{error.strerror}{where}; fix this and run the same command again; it resumes from the last checkpoint"
    return f"{type(error).__name__}: {error}".splitlines()[0]


def suggestion(name: str, allowed: Iterable[str]) -> str:
    """`"; did you mean 'steps'?"` for the allowed name closest to `name`, or an empty string when none is close."""
    close = difflib.get_close_matches(str(name), [str(a) for a in allowed], n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""

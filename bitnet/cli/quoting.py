"""Paths on the command line: quoted for Hydra's grammar, so that what is typed is what is opened."""

from __future__ import annotations

import os
import re

from hydra.core.override_parser.types import Quote, QuotedString

from bitnet.common.errors import UserError

_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_BLANKS = " \t"
_IS_QUOTED = re.compile(_QUOTED, re.DOTALL)

# One entry of a list, with the bracket that opens or closes the list: a comma ends it, but not one in quotes around the whole.
_ENTRY = re.compile(rf"[ \t]*\[?[ \t]*(?:{_QUOTED})[ \t]*\]?[ \t]*(?=,|\Z)|(?:\$\{{[^}}]*\}}|[^,])*", re.DOTALL)

_FUNCTION = re.compile(r"\w+\(.*\)", re.DOTALL)  # choice([a],[b])


def quote(value: str) -> str:
    """A value as a string of Hydra's grammar; one in quotes stays as it is."""
    return value if _IS_QUOTED.fullmatch(value) else QuotedString(value, Quote.single).with_quotes()


def unquote(value: str) -> str:
    """What `quote` was given; a value without quotes stays as it is."""
    if not _IS_QUOTED.fullmatch(value):
        return value
    # Hydra's grammar: backslashes stand for themselves, unless a quote follows
    return re.sub(rf"(\\+)(?={value[0]})", lambda run: run[1][: len(run[1]) // 2], value)[1:-1]


def path(key: str, value: str) -> str:
    """One path for Hydra, anything but quotes around the whole taken as it stands.

    Raises:
        UserError: there is none.
    """
    if not value.strip("'\" "):
        raise UserError(f"{key}={value}: a path is needed")
    if value.startswith("~"):  # Hydra makes folders, too, and knows no home
        value = os.path.expanduser(value)
    return value if value.lower() == "null" else quote(value)


def path_lists(key: str, value: str) -> str:
    """A list of paths for Hydra, or several lists, which are an axis of a sweep.

    A comma ends a path, and a bracket the list that it stands at the end of; a path with either can be put in quotes.

    Raises:
        UserError: an entry is empty.
    """
    if value.lower() in {"", "null"} or _FUNCTION.fullmatch(value):
        return value
    entries = _entries(value)
    if not entries[0].startswith("["):
        return ",".join(map(quote, entries))
    lists: list[list[str]] = []
    within = False
    for entry, following in zip(entries, [*entries[1:], "["], strict=True):
        if not within:
            lists.append([])
            entry = entry.removeprefix("[")
        within = not (entry.endswith("]") and following.startswith("["))
        lists[-1].append((entry if within else entry[:-1]).strip(_BLANKS))
    if within:  # for Hydra to say that a bracket is left open
        return value
    if any(not item for items in lists for item in items if len(items) > 1):
        raise UserError(f"{key}={value}: a path is needed between the commas")
    return ",".join(f"[{','.join(quote(item) for item in items if item)}]" for items in lists)


def list_entries(value: str) -> list[str]:
    """The entries of one list in brackets, without them."""
    return [entry for entry in (e.strip(_BLANKS) for e in _entries(value.removeprefix("[").removesuffix("]"))) if entry]


def _entries(value: str) -> list[str]:
    """What stands between the commas."""
    found: list[str] = []
    place = 0
    while place <= len(value):
        entry = _ENTRY.match(value, place)
        assert entry is not None, "it matches nothing, too"
        found.append(entry[0].strip(_BLANKS))
        place = entry.end() + 1
    return found

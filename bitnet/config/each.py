"""Claims that are the same for several levels, written once: `each` makes one claim a level of them.

    flat_at_the_boundary:
      each: {model: {256: {loss: 10.34}, 512: {loss: 10.19}}}     # or, where only the level differs, {model: [256, 512]}
      says: At hidden {model} the model is collapsed at the boundary
      published: training loss {loss}
      arm: {model: "{model}"}

gives `flat_at_the_boundary_256` and `flat_at_the_boundary_512`. A name that holds a placeholder itself gets no suffix. A value
that is a placeholder and nothing else becomes the level as it was written, a number a number. Several axes are crossed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from bitnet.common.errors import UserError, suggestion

_PLACEHOLDER = re.compile(r"\{([\w.]+)\}")
_Values = dict[str, Any]


def expand_each(claims: Mapping[str, Any]) -> dict[str, Any]:
    """The claims of a sweep's file, with one for each level where a claim has `each`; others as they are.

    Raises:
        UserError: an axis without levels, a placeholder that stands for nothing, or two claims of one name.
    """
    expanded: dict[str, Any] = {}
    for name, claim in claims.items():
        has_each = isinstance(claim, Mapping) and "each" in claim
        for own_name, own in _of_each(name, claim) if has_each else [(name, claim)]:
            if own_name in expanded:
                raise UserError(f"sweep.claims.{own_name}: two claims have this name; rename one, or a level of `each`")
            expanded[own_name] = own
    return expanded


def _of_each(name: str, claim: Mapping[str, Any]) -> Iterator[tuple[str, _Values]]:
    """Name and claim of each level."""
    place, each = f"sweep.claims.{name}", claim["each"]
    if not isinstance(each, Mapping) or not each or not all(isinstance(of, list | Mapping) and of for of in each.values()):
        raise UserError(f"{place}.each={each!r}: levels by axis are needed, as in {{model: [256, 512]}}")
    rest = {key: value for key, value in claim.items() if key != "each"}
    for levels in itertools.product(*each.values()):
        values: _Values = dict(zip(each, levels, strict=True))
        for axis, level in zip(each, levels, strict=True):
            more = each[axis][level] if isinstance(each[axis], Mapping) else {}
            if not isinstance(more, Mapping):
                raise UserError(f"{place}.each.{axis}.{level}={more!r}: placeholders and their values are needed")
            values |= more
        suffix = "" if _PLACEHOLDER.search(name) else "".join(f"_{level}" for level in levels)
        yield str(_filled(name, values, place)) + suffix, _filled(rest, values, place)


def _filled(value: Any, values: _Values, place: str) -> Any:
    """A value with its placeholders filled in, lists and mappings throughout."""
    if isinstance(value, Mapping):
        return {key: _filled(of, values, f"{place}.{key}") for key, of in value.items()}
    if isinstance(value, list):
        return [_filled(of, values, place) for of in value]
    if not isinstance(value, str):
        return value
    for name in _PLACEHOLDER.findall(value):
        if name not in values:
            raise UserError(f"{place}: {{{name}}} stands for nothing in each{suggestion(name, values)}")
    whole = _PLACEHOLDER.fullmatch(value)
    return values[whole[1]] if whole else _PLACEHOLDER.sub(lambda found: str(values[found[1]]), value)

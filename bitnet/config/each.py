"""Claims that are the same for several levels, written once: `each` makes one claim a level of them.

    flat_at_the_boundary:
      each: {model: {256: {loss: 10.34}, 512: {loss: 10.19}}}     # or, where only the level differs, {model: [256, 512]}
      says: At hidden {model} the model is collapsed at the boundary
      published: training loss {loss}
      arm: {model: "{model}"}

gives `flat_at_the_boundary_256` and `flat_at_the_boundary_512`. A name that holds a placeholder itself gets no suffix. A value
that is a placeholder and nothing else becomes the level as it was written, a number a number, except where only text can stand.
Several axes are crossed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bitnet.common.errors import UserError, suggestion

_PLACEHOLDER = re.compile(r"\{([\w.]+)\}")
_TEXTS = {"says", "explained_by"}  # keys of a claim whose values are text, whatever a placeholder stands for
_Values = dict[str, Any]


def expand_each(claims: Mapping[str, Any]) -> dict[str, Any]:
    """The claims of a sweep's file, with one for each level where a claim has `each`; others as they are.

    Raises:
        UserError: an axis without levels, a placeholder that stands for nothing or for two things, two claims of one name, or
            a name that no override could reach.
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
        values = _values(each, levels, place)
        suffix = "" if _PLACEHOLDER.search(name) else "".join(f"_{level}" for level in levels)
        own_name = _text(name, values, place) + suffix
        if "." in own_name:
            named = "as in {lr: {low: {value: 0.001}}}"
            raise UserError(f"sweep.claims.{own_name}: a claim's name can't hold a dot; give the levels names, {named}")
        yield own_name, _filled(rest, values, place)


def _values(each: Mapping[str, Any], levels: Sequence[Any], place: str) -> _Values:
    """What each placeholder stands for at one level of every axis."""
    values: _Values = dict(zip(each, levels, strict=True))
    for axis, level in zip(each, levels, strict=True):
        more = each[axis][level] if isinstance(each[axis], Mapping) else {}
        if not isinstance(more, Mapping):
            raise UserError(f"{place}.each.{axis}.{level}={more!r}: a mapping of placeholders to values is needed")
        if twice := sorted(values.keys() & more.keys()):
            raise UserError(f"{place}.each.{axis}.{level}.{twice[0]}: {{{twice[0]}}} stands for something already; rename it")
        values |= more
    return values


def _filled(value: Any, values: _Values, place: str, *, as_text: bool = False) -> Any:
    """A value with its placeholders filled in, lists and mappings throughout, the keys of those too."""
    if isinstance(value, Mapping):
        keys = [_text(key, values, place) if isinstance(key, str) else key for key in value]
        if len(set(keys)) < len(keys):
            raise UserError(f"{place}: two keys of this name, {next(k for k in keys if keys.count(k) > 1)}; leave one out")
        inner = zip(keys, value.values(), strict=True)
        return {key: _filled(of, values, f"{place}.{key}", as_text=as_text or key in _TEXTS) for key, of in inner}
    if isinstance(value, list):
        return [_filled(of, values, place, as_text=as_text) for of in value]
    if not isinstance(value, str):
        return value
    whole = None if as_text else _PLACEHOLDER.fullmatch(value)
    return _text(value, values, place) if whole is None else _known(whole[1], values, place)


def _text(text: str, values: _Values, place: str) -> str:
    return _PLACEHOLDER.sub(lambda found: str(_known(found[1], values, place)), text)


def _known(name: str, values: _Values, place: str) -> Any:
    if name not in values:
        raise UserError(f"{place}: {{{name}}}: `each` has no axis or value named {name}{suggestion(name, values)}")
    return values[name]

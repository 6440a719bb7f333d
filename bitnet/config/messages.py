"""What pydantic finds wrong with a configuration, as the one sentence that a user reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from bitnet.common.errors import suggestion
from bitnet.common.text import shortened, single_line

KnownKeys = Callable[[str], set[str]]

_LONGEST = 160  # sentence on what was read from a file, in characters


# Errors that a version with other keys may cause.
_OTHER_VERSION = {"missing", "union_tag_not_found", "extra_forbidden"}


def misfit(model: type[BaseModel], values: Mapping[str, Any], knobs: KnownKeys) -> str | None:
    """What is wrong with values that a version of this package wrote down: the first of another type, or out of bounds.

    A key that is missing or unknown is not: another version may have written it. None when all is well.
    """
    try:
        model.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        wrong = [e for e in error.errors(include_url=False) if e["type"] not in _OTHER_VERSION]
        return shortened(single_line(error_sentence(wrong[0], dict(values), knobs)), _LONGEST) if wrong else None
    except (TypeError, ValueError, RecursionError) as error:  # what YAML holds and JSON does not: a date, a loop
        return shortened(single_line(str(error)), _LONGEST)
    return None


def error_sentence(error: Mapping[str, Any], values: dict[str, Any], keys_below: KnownKeys) -> str:
    """One of pydantic's errors as one sentence: the key as it is typed, its value, and what is allowed.

    Args:
        values: what was validated.
        keys_below: gives the names of the keys below a dotted prefix, over every variant of that part.
    """
    path = _typed_path(error["loc"], values, error["type"] == "missing")
    key, value, context = ".".join(path), error["input"], error.get("ctx", {})
    match error["type"]:
        case "missing":
            return f"{key}: missing"
        case "union_tag_not_found":
            return f"{key}.{_unquoted(context['discriminator'])[0]}: missing"
        case "union_tag_invalid":
            return _not_allowed(f"{key}.{_unquoted(context['discriminator'])[0]}", context["tag"], context["expected_tags"])
        case "literal_error":
            return _not_allowed(key, value, context["expected"])
        case "extra_forbidden" if key == "sweeps" and isinstance(value, Mapping) and isinstance(value.get("sweep"), Mapping):
            return missing_package_line(value["sweep"].get("name", "NAME"))
        case "extra_forbidden":
            return f"{key}={value!r}: {_unknown_key(path, values, keys_below)}"
        case "value_error":
            message = str(context["error"])
            return message if "=" in message else f"{key}={value!r}: {message}"
        case "model_type" | "model_attributes_type":
            return f"{key}={value!r}: a group of keys is needed"
        case "list_type":
            items = "" if value is None else value
            return f"{key}={value!r}: input should be a valid list; write {key}=[{items}]"
        case "tuple_type":
            return f"{key}={value!r}: input should be a list; write {key}=[A,B]"
        case _:
            return f"{key}={value!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def missing_package_line(sweep: str) -> str:
    """What is said of a sweep's file whose first line is missing: Hydra puts what it says below the name of its folder."""
    return f"sweeps={sweep}: its file does not begin with the line '# @package _global_', without which it sets nothing"


def _typed_path(location: tuple[int | str, ...], values: dict[str, Any], missing: bool) -> list[str]:
    """The names that lead to a key as a user types them; pydantic puts the tag of a variant among them."""
    path: list[str] = []
    node: Any = values
    for place, name in enumerate(location, 1):
        is_tag = isinstance(node, dict) and name in (node.get("kind"), node.get("source")) and place < len(location)
        if is_tag:  # a variant may be called like one of its keys
            continue
        if name in node if isinstance(node, dict) else isinstance(node, list) and name in range(len(node)):
            path.append(str(name))
            node = node[name]
        elif missing and place == len(location):
            path.append(str(name))
    return path


def _unquoted(listed: str) -> list[str]:
    """The names in pydantic's `'a', 'b' or 'c'`."""
    return listed.replace("'", "").replace(" or ", ", ").split(", ")


def _not_allowed(key: str, value: Any, listed: str) -> str:
    return f"{key}={value!r}: allowed are {', '.join(_unquoted(listed))}{suggestion(value, _unquoted(listed))}"


def _unknown_key(path: list[str], values: dict[str, Any], keys_below: KnownKeys) -> str:
    """What is wrong with a key that its part does not have; a variant's name is given where another variant has it."""
    *parents, name = path
    part: Any = values
    for parent in parents:
        part = part[parent]
    known = keys_below(".".join(parents))
    tag = next((t for t in ("source" if parents == ["data"] else "kind",) if t in part), None)
    if tag is not None and name in known:
        return f"{'.'.join(parents)}.{tag}={part[tag]} has no such key"
    # what is composed are the keys of the variant that was chosen; a claim has only those that were written
    possible = known if tag is None or parents[:1] == ["sweep"] else known & part.keys()
    return f"no such key{suggestion(name, sorted(possible - {name}))}"

"""Reading the files of a run folder: a mapping whose values are what they should be, or the reason why there is none."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from bitnet.common.text import shortened, single_line

# libyaml where it is there: ten times as fast
_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_REASON_LENGTH, _VALUE_LENGTH = 120, 60

# What parsers of JSON and YAML raise on what they can't parse. PyYAML: the last three, for a tag that its value does not fit
_UNPARSABLE = (ValueError, RecursionError, yaml.YAMLError, LookupError, TypeError, AttributeError)


class Unreadable(Exception):
    """Why a file or a folder can't be read as what it should be."""


def read_json_mapping(path: Path, kind: type[BaseModel] | None = None) -> dict[str, Any]:
    """The mapping in a JSON file.

    Args:
        kind: the types and bounds of its values.
    Raises:
        Unreadable: there is no such file, it is torn, or it holds something else.
    """
    values = _mapping(path, json.loads)
    if kind is not None:
        check_values(kind, values, path.name)
    return values


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        Unreadable: there is no such file, it is torn, or it holds something else.
    """
    return _mapping(path, lambda text: yaml.load(text, _YamlLoader))


def read_json_or_empty(path: Path, kind: type[BaseModel] | None = None) -> dict[str, Any]:
    """The mapping in a JSON file; empty when there is none that can be read."""
    try:
        return read_json_mapping(path, kind)
    except Unreadable:
        return {}


def modified_at(path: Path) -> float:
    """When a file was last written by the clock of its file system, seconds since the epoch; 0 for none that is there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _mapping(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        values = parse(text := path.read_text(encoding="utf-8"))
        if "\\u" in text:
            _check_characters(values)
    except FileNotFoundError:
        raise Unreadable(f"no {path.name}") from None
    except OSError as error:
        raise Unreadable(f"{path.name}: {error.strerror}") from None
    except _UNPARSABLE as error:
        raise Unreadable(f"{path.name}: {shortened(single_line(str(error)), _REASON_LENGTH)}") from None
    if not isinstance(values, dict):
        raise Unreadable(f"{path.name}: a mapping is needed, this is {type(values).__name__}")
    return values


def _check_characters(values: Any) -> None:
    """Raise ValueError for a text that no file can hold: half of a character outside the first 65,536, written by its code."""
    json.dumps(values, ensure_ascii=False, default=str).encode()


def check_values(kind: type[BaseModel], values: Mapping[str, Any], file: str) -> None:
    """Make sure that the values of a file are of the types and within the bounds of `kind`.

    Raises:
        Unreadable: naming the first key whose value is not, and what is allowed.
    """
    try:
        kind.model_validate(values)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        key, value = ".".join(map(str, wrong["loc"])), shortened(repr(wrong["input"]), _VALUE_LENGTH)
        message = str(wrong["ctx"]["error"]) if wrong["type"] == "value_error" else wrong["msg"]
        said = "missing" if wrong["type"] == "missing" else message[0].lower() + message[1:]
        raise Unreadable(f"{file}: {key}{'' if said == 'missing' else f'={value}'}: {said}") from None

"""Reading the files of a run folder: a mapping, or the reason why there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

# libyaml where it is there: ten times as fast
_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_REASON_LENGTH = 120


class Unreadable(Exception):
    """Why a file or a folder can't be read as what it should be."""


def read_json_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file.

    Raises:
        Unreadable: there is no such file, it is torn, or it holds something else.
    """
    return _mapping(path, json.loads)


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        Unreadable: there is no such file, it is torn, or it holds something else.
    """
    return _mapping(path, lambda text: yaml.load(text, _YamlLoader))


def read_json_or_empty(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; empty when there is none that can be read."""
    try:
        return read_json_mapping(path)
    except Unreadable:
        return {}


def _mapping(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        values = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Unreadable(f"no {path.name}") from None
    except OSError as error:
        raise Unreadable(f"{path.name}: {error.strerror}") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise Unreadable(f"{path.name}: {' '.join(str(error).split())[:_REASON_LENGTH]}") from None
    if not isinstance(values, dict):
        raise Unreadable(f"{path.name}: a mapping is needed, this is {type(values).__name__}")
    return values

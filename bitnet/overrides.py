"""The command line's overrides: numeric group options as people type them, and errors that name the nearest name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException

from bitnet.config import knobs
from bitnet.errors import UserError, nearest
from bitnet.paths import share

# What says where and how a run is carried out, not what it computes; left out of names and labels.
SESSION_KEYS = {"sweeps", "out", "device", "threads", "overwrite", "resume", "data.cache"}
SESSION_KEYS |= {"checkpoint.every", "checkpoint.keep"}
SESSION_KEYS |= {"launcher", "launcher.jobs", "launcher.jobs_per_gpu", "launcher.retry"}
# Paths may hold `=` and `,`, as run folders do; Hydra's grammar wants such values quoted.
_PATH_KEYS = {"resume", "out", "data.cache", "tokenizer.path"}
_BARE_NUMBER = re.compile(r"(?<![\w.'\"-])(\d+)(?![\w.'\"-])")


def groups(extra: Iterable[Path] = ()) -> dict[str, list[str]]:
    """Config groups and their options, from the folders on the search path."""
    found: dict[str, set[str]] = {}
    folders = [p for root in (share() / "conf", *extra) if root.is_dir() for p in root.iterdir() if p.is_dir()]
    for folder in [*folders, share() / "sweeps"]:
        if folder.name != "hydra":
            options = (f.stem for f in folder.glob("*.yaml") if not f.stem.startswith("_"))
            found.setdefault(folder.name, set()).update(options)
    return {name: sorted(options, key=_numbers_first) for name, options in sorted(found.items())}


def _numbers_first(option: str) -> tuple[bool, int, str]:
    return (not option.isdigit(), int(option) if option.isdigit() else 0, option)


def key_of(override: str) -> str:
    """The key of `key=value`, without Hydra's prefixes."""
    return override.split("=", 1)[0].lstrip("+~").split("@", 1)[0]


def quoted(value: str) -> str:
    """A value as Hydra's grammar writes a string; one that is quoted, a list or an interpolation stays as it is."""
    if value[0] in "'\"[$":
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def normalise(override: str) -> str:
    """Quote what Hydra would misread: bare numbers among a group's options, and paths.

    `model=256,512` means the files 256.yaml and 512.yaml, which Hydra itself reads as integers and refuses.

    Raises:
        UserError: for two named sweeps at once.
    """
    if "=" not in override or override.startswith("-"):
        return override
    key, value = override.split("=", 1)
    name = key_of(override)
    if name == "sweeps" and "," in value:
        raise UserError(f"sweeps={value}: one named sweep at a time; run the command once for each")
    if name in _PATH_KEYS and value not in {"", "null"}:
        return f"{key}={quoted(value)}"
    if name not in groups():
        return override
    return f"{key}=" + _BARE_NUMBER.sub(r"'\1'", value)


def readable_overrides(overrides: Iterable[str], *, seed: bool) -> list[str]:
    """Overrides as a person would type them, without those that say nothing of the result, with or without the seed."""
    left_out = SESSION_KEYS | (set() if seed else {"seed"})
    kept = (o for o in overrides if key_of(o) not in left_out and not key_of(o).startswith("hydra"))
    return [o.lstrip("+").replace("'", "") for o in kept]


def explain(error: HydraException) -> UserError:
    """What Hydra found wrong, as one sentence with the nearest name."""
    text = str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        options = groups().get(group) or [o for o in error.options or [] if not o.startswith("_")]
        listed = f"; allowed are {', '.join(options)}" if options else ""
        return UserError(f"{group}={option}: no such option{listed}{nearest(option, options)}")
    unknown = re.search(r"Could not (?:override|append to config[^']*|delete from config[^']*) '([^']+)'", text)
    if isinstance(error, ConfigCompositionException) and unknown:
        key = unknown[1].split("=", 1)[0].lstrip("+~")
        prefix, _, name = key.rpartition(".")
        known = knobs(prefix) | (set() if prefix else set(groups()))
        if name in known:
            return UserError(f"{key}: no key of the {prefix} that was chosen; see conf/{prefix}/, or --cfg job")
        return UserError(f"{key}: no such key{nearest(key, [f'{prefix}.{k}' if prefix else k for k in known])}")
    if ambiguous := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return UserError(f"{ambiguous[1]}: several values make a sweep; add -m, or write [A,B] for a list")
    if isinstance(error, OverrideParseException):
        return UserError(f"{error.override}: not an override; write KEY=VALUE, or KEY=A,B with -m")
    return UserError(" ".join(text.split()))

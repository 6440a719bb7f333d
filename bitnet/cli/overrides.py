"""The command line: flags apart from overrides, these as people type them, and errors that name the nearest name."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from bitnet.cli import quoting
from bitnet.cli.hydra_internals import arguments_parser, flags_of
from bitnet.common.console import say
from bitnet.common.errors import UserError, suggestion
from bitnet.common.paths import share
from bitnet.config.sweep import current_name

# What says where and how a run is carried out, not what it computes; left out of names and labels.
SESSION_KEYS = {
    "launcher", "sweeps", "out", "device", "threads", "overwrite", "resume", "data.cache",
    "checkpoint.every", "checkpoint.keep", "checkpoint.branch", "checkpoint.on_mismatch",
}  # fmt: skip


# Paths may hold anything, and run folders do hold `=` and `,`; Hydra's grammar wants such values quoted.
PATH_KEYS = {"resume", "out", "data.cache", "tokenizer.path"}
PATH_LIST_KEYS = {"data.paths", "data.heldout_paths"}


# What Hydra would read as a number or a truth value, and then refuse as the name of an option.
_BARE = re.compile(r"(?<![\w.'\"-])(-?\d[\w.+-]*|(?i:true|false|nan|inf))(?![\w.'\"-])")

_PACKAGE_LINE = re.compile(r"# @package (?!_global_)(\w+)")
_NULL = {"", "null"}


def refuse(message: str) -> NoReturn:
    """What an argument parser does about an error, in place of its own eight lines."""
    raise UserError(f"{message}; see --help")


def split_arguments(arguments: list[str]) -> tuple[list[str], list[str], bool]:
    """Overrides, Hydra's flags with their values, and whether those ask for a sweep, from a line in any order.

    Raises:
        UserError: for a flag that Hydra doesn't know, or one without its value.
    """
    parser = arguments_parser()
    parser.error = refuse
    known, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        raise UserError(f"{unknown[0]}: no such flag, see --help{suggestion(unknown[0], flags_of(parser))}")
    flags = list(arguments)
    for override in known.overrides:
        flags.remove(override)
    return known.overrides, flags, known.multirun


def groups(own: Path | None = None) -> dict[str, list[str]]:
    """Config groups and their options, those of the folder `own` (`--config-dir`) among them."""
    tops = [share() / "conf", *([] if own is None else [own])]
    found: dict[str, set[str]] = {}
    for folder in [*(p for top in tops for p in top.iterdir() if p.is_dir()), share() / "sweeps"]:
        options = {f.stem for f in folder.glob("*.yaml") if not f.stem.startswith("_")}
        if folder.name != "hydra" and options:
            found.setdefault(folder.name, set()).update(options)
    return {name: sorted(options, key=numbers_first) for name, options in sorted(found.items())}


def filled_part(group: str) -> str | None:
    """Under which key a group's options put what they set, where that is not the group's own name: `layout` fills `model`.

    As the first line of its files says; None for a group that fills its own key, and for one that sets keys anywhere.
    """
    for path in sorted((share() / "conf" / group).glob("*.yaml")):
        if found := _PACKAGE_LINE.match(path.read_text(encoding="utf-8")):
            return found[1]
    return None


def numbers_first(option: str) -> tuple[bool, int, str]:
    return (not option.isdigit(), int(option) if option.isdigit() else 0, option)


def key_of(override: str) -> str:
    """The key of `key=value`, without Hydra's prefixes."""
    return override.split("=", 1)[0].lstrip("+~").split("@", 1)[0]


def normalise(override: str) -> str:
    """Quote what Hydra would misread: numbers among a group's options, paths, and several devices.

    `model=256,512` means the files 256.yaml and 512.yaml, which Hydra itself reads as integers and refuses.

    Raises:
        UserError: for a group without one plain option, a named sweep by another key, an empty path, or no key.
    """
    if "=" not in override or override.startswith("-"):
        return override
    key, value = override.split("=", 1)
    name = key_of(override)
    if not name:
        raise UserError(f"{override}: not an override; write KEY=VALUE")
    if name in PATH_KEYS:
        return f"{key}={quoting.path(name, value)}"
    if name in PATH_LIST_KEYS:
        return f"{key}={quoting.path_lists(name, value)}"
    if name == "device":
        return f"{key}={_devices(value)}"
    if name == "sweep" and value.lower() not in _NULL and value[0] != "{":
        named = groups()["sweeps"]
        meant = f"sweeps={value}" if value in named else f"sweeps=NAME{suggestion(value, named)}"
        raise UserError(f"sweep={value}: a named sweep is asked for by {meant}")
    if name not in groups() or key.startswith("~"):
        return override
    if name == "sweeps" and value.lower() == "null":
        return "~sweeps"  # the default, which Hydra's grammar can't say
    return f"{key}={_options(name, value)}"


def _devices(value: str) -> str:
    """One device; or several as one value, no axis: the runs of a sweep share them, and are the same runs on each."""
    return quoting.quote(",".join(quoting.list_entries(value))) if "," in value and "(" not in value else value


def _options(name: str, value: str) -> str:
    """The options of a group, each as a string."""
    if value[:1] in {"[", "{"} or any(v.strip().lower() in _NULL for v in value.split(",")):
        raise UserError(f"{name}={value}: one option of the group is needed; allowed are {', '.join(groups()[name])}")
    return _BARE.sub(r"'\1'", value)


def with_multirun(overrides: Sequence[str]) -> list[str]:
    """The overrides, with Hydra's mode for several runs where they name a sweep."""
    return [*overrides, *(["hydra.mode=MULTIRUN"] if names_a_sweep(overrides) else [])]


def names_a_sweep(overrides: Iterable[str]) -> bool:
    """Whether the overrides name a sweep and leave Hydra's mode to it."""
    typed = {key_of(o): o.partition("=")[2] for o in overrides}
    return typed.get("sweeps", "").lower() not in _NULL and "hydra.mode" not in typed


def check_sweep(overrides: Iterable[str], multirun: bool) -> None:
    """Refuse what only a single run can have, when a flag or an override asks for a sweep.

    Raises:
        UserError: for a run to go on with, or several values of a path; a path that holds a comma can be quoted.
    """
    typed = {key_of(o): o.split("=", 1)[1] for o in overrides if "=" in o}
    sweep = f"sweeps={typed['sweeps']}" if typed.get("sweeps", "").lower() not in _NULL else ""
    if typed.get("hydra.mode", "").upper() == "MULTIRUN":
        sweep = "hydra.mode=MULTIRUN"
    cause = "-m" if multirun else sweep
    if not cause:
        return
    if typed.get("resume", "").lower() not in _NULL:
        raise UserError(f"resume={typed['resume']}: resume= continues one run, {cause} starts a sweep; use only one of them")
    for key in sorted(PATH_KEYS & typed.keys()):
        if "," in typed[key] and typed[key][0] not in "'\"":
            remedy = "run once for each, or quote a path with a comma: \"'A,B'\""
            raise UserError(f"{key}={typed[key]}: can't be swept; {remedy}")


def config_dir(arguments: Sequence[str]) -> Path | None:
    """The user's own folder of groups, `--config-dir`; None where a command line names none, or none is there."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config-dir", "-cd", nargs="?", type=Path)
    folder = parser.parse_known_args(list(arguments))[0].config_dir
    return folder if folder is not None and folder.is_dir() else None


def with_current_names(overrides: Iterable[str], own: Path | None = None) -> list[str]:
    """The overrides, with sweeps that have other names by now under those names, which is said on stderr.

    Args:
        own: the folder of `--config-dir`; a sweep that it has keeps its name.
    """
    return [_with_current_name(o, own) for o in overrides]


def _with_current_name(override: str, own: Path | None) -> str:
    key, _, value = override.partition("=")
    names = [name.strip("'\" ").removesuffix(".yaml") for name in value.split(",")]
    kept = [own is not None and (own / "sweeps" / f"{name}.yaml").is_file() for name in names]
    now = [name if keeps else current_name(name) for name, keeps in zip(names, kept, strict=True)]
    if key_of(override) != "sweeps" or now == names:
        return override
    current = ",".join(now)
    say(f"note: {override} is now called {key}={current}")
    return f"{key}={current}"


def note_repeated_keys(overrides: Iterable[str]) -> None:
    """Say on stderr which keys are typed again with another value, of which Hydra takes the last without a word."""
    values: dict[str, list[str]] = {}
    for override in (o for o in overrides if "=" in o and not key_of(o).startswith("hydra")):
        values.setdefault(key_of(override), []).append(override.split("=", 1)[1])
    for key, given in values.items():
        if len(set(given)) > 1:
            say(f"note: {key} is given {len(given)} times; the last, {key}={given[-1]}, counts")


def readable_overrides(overrides: Iterable[str], *, seed: bool) -> list[str]:
    """Overrides as a person would type them, without those that say nothing of the result, with or without the seed."""
    left_out = SESSION_KEYS | (set() if seed else {"seed"})
    kept = (o for o in overrides if key_of(o) not in left_out and not key_of(o).startswith(("hydra", "launcher.")))
    return [o.lstrip("+").replace("'", "") for o in kept]


def starts_local_runs(overrides: list[str], flags: list[str]) -> bool:
    """Whether the command is about to start runs by `launcher=local`: a guess, which saves two seconds where it is right."""
    typed = {key_of(o): o.partition("=")[2] for o in overrides}
    sweeping = "sweeps" in typed or typed.get("hydra.mode") == "MULTIRUN" or bool(flags)
    plainly = set(flags) <= {"-m", "--multirun"} and "hydra/launcher" not in typed
    return sweeping and plainly and typed.get("launcher", "local") == "local"

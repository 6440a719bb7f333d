"""The command line: flags apart from overrides, these as people type them, and errors that name the nearest name."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from bitnet.config import knobs
from bitnet.errors import UserError, nearest
from bitnet.invalid import headless
from bitnet.paths import share

# What says where and how a run is carried out, not what it computes; left out of names and labels.
SESSION_KEYS = {"launcher", "sweeps", "out", "device", "threads", "overwrite", "resume", "data.cache"}
SESSION_KEYS |= {"checkpoint.every", "checkpoint.keep", "checkpoint.branch"}
# Paths may hold `=` and `,`, as run folders do; Hydra's grammar wants such values quoted.
_PATH_KEYS = {"resume", "out", "data.cache", "tokenizer.path"}
# What Hydra would read as a number or a truth value, and then refuse as the name of an option.
_BARE = re.compile(r"(?<![\w.'\"-])(-?\d[\w.+-]*|(?i:true|false|nan|inf))(?![\w.'\"-])")
_NULL = {"", "null"}
# What other tools call a knob, at any place: what to type here.
_ELSEWHERE = {
    "weight_decay": "it is the group wd (wd=paper, wd=none, ...), whose values are wd.stage1 and wd.stage2",
    "dropout": "there is no dropout; what regularises is wd=, smoothing= and regularizer=",
    "learning_rate": "it is the group lr (lr=study, lr=cosine, ...), whose peak is lr.peak",
    "epochs": "a run's length is in optimizer steps: steps=N",
}


# Where another package brings options.
_EXTRAS = {"hydra/sweeper": "pip install 'bitnet-ablation[search]' brings optuna (docs/searches.md)"}


def refuse(message: str) -> NoReturn:
    """What an argument parser does about an error, in place of its own eight lines."""
    raise UserError(f"{message}; see --help")


def split(arguments: list[str]) -> tuple[list[str], list[str], bool]:
    """Overrides, Hydra's flags with their values, and whether those ask for a sweep, from a line in any order.

    Raises:
        UserError: for a flag that Hydra doesn't know, or one without its value.
    """
    parser = get_args_parser()
    parser.error = refuse
    known, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        raise UserError(f"{unknown[0]}: no such flag, see --help{nearest(unknown[0], parser._option_string_actions)}")
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
    """Quote what Hydra would misread: numbers among a group's options, and paths.

    `model=256,512` means the files 256.yaml and 512.yaml, which Hydra itself reads as integers and refuses.

    Raises:
        UserError: for a group without one plain option, a named sweep by another key or two at once, an empty path, or no key.
    """
    if "=" not in override or override.startswith("-"):
        return override
    key, value = override.split("=", 1)
    name = key_of(override)
    if not name:
        raise UserError(f"{override}: not an override; write KEY=VALUE")
    if name in _PATH_KEYS:
        return f"{key}={_path(name, value)}"
    if name == "sweep" and value.lower() not in _NULL and value[0] != "{":
        named = groups()["sweeps"]
        meant = f"sweeps={value}" if value in named else f"sweeps=NAME{nearest(value, named)}"
        raise UserError(f"sweep={value}: a named sweep is asked for by {meant}")
    if name not in groups() or key.startswith("~"):
        return override
    if name == "sweeps" and value.lower() == "null":
        return "~sweeps"  # the default, which Hydra's grammar can't say
    return f"{key}={_options(name, value)}"


def _path(name: str, value: str) -> str:
    if not value.strip("'\" "):
        raise UserError(f"{name}={value}: a path is needed")
    return value if value.lower() == "null" else quoted(value)


def _options(name: str, value: str) -> str:
    """The options of a group, each as a string."""
    if name == "sweeps" and "," in value:
        raise UserError(f"sweeps={value}: one named sweep at a time; run the command once for each")
    if value[:1] in {"[", "{"} or any(v.strip().lower() in _NULL for v in value.split(",")):
        raise UserError(f"{name}={value}: one option of the group is needed; allowed are {', '.join(groups()[name])}")
    return _BARE.sub(r"'\1'", value)


def as_sweep(overrides: Sequence[str]) -> list[str]:
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
        raise UserError(f"resume={typed['resume']}: one run goes on, {cause} starts a sweep; leave one of the two out")
    for key in sorted(_PATH_KEYS & typed.keys()):
        if "," in typed[key] and typed[key][0] not in "'\"":
            remedy = "run once for each, or quote a path with a comma: \"'A,B'\""
            raise UserError(f"{key}={typed[key]}: can't be swept; {remedy}")


def tell_repeats(overrides: Iterable[str]) -> None:
    """Say on stderr which keys are typed again with another value, of which Hydra takes the last without a word."""
    values: dict[str, list[str]] = {}
    for override in (o for o in overrides if "=" in o and not key_of(o).startswith("hydra")):
        values.setdefault(key_of(override), []).append(override.split("=", 1)[1])
    for key, given in values.items():
        if len(set(given)) > 1:
            print(f"note: {key} is given {len(given)} times; the last, {key}={given[-1]}, counts", file=sys.stderr)


def readable_overrides(overrides: Iterable[str], *, seed: bool) -> list[str]:
    """Overrides as a person would type them, without those that say nothing of the result, with or without the seed."""
    left_out = SESSION_KEYS | (set() if seed else {"seed"})
    kept = (o for o in overrides if key_of(o) not in left_out and not key_of(o).startswith(("hydra", "launcher.")))
    return [o.lstrip("+").replace("'", "") for o in kept]


def from_hydra(error: BaseException) -> bool:
    """Whether Hydra raised an error itself, as it does for some input, and not code that it called."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    packages = [frame.f_globals.get("__name__", "").split(".")[0] for frame in frames]
    return [p for p in packages if p in {"bitnet", "hydra", "hydra_plugins"}][-1:] == ["hydra"]


def explain(error: Exception, *, sweeps: bool = True) -> UserError:
    """What was found wrong while composing, as one sentence with the nearest name.

    Args:
        sweeps: whether the command can sweep over several values.
    """
    text, cause = " ".join(str(error).split()), error.__cause__
    if isinstance(error, UserError):
        return error
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_option(error)
    if isinstance(error, OverrideParseException):
        return UserError(f"{error.override}: not an override; write KEY=VALUE{', or KEY=A,B with -m' if sweeps else ''}")
    if text.startswith("Could not override") and isinstance(cause, ConfigKeyError | ConfigAttributeError):
        return _no_key(cause)
    if deleted := re.match(r"Could not delete from config\. '([^']+)' does not exist", text):
        return _nothing_to_delete(deleted[1])
    already = r"Could not append to config\. An item is already at '([^']+)'|Multiple values for ([^ ]+)\."
    if there := re.match(already, text):
        key = there[1] or there[2]
        return UserError(f"+{key}: there already; write {key}=VALUE, without +")
    if number := re.match(r"Unsupported (?:item value|type) in defaults : (int|float|bool)", text):
        kind = "a truth value" if number[1] == "bool" else "a number"
        return UserError(f'a defaults list names an option that YAML reads as {kind}; quote it, as in override /model: "256"')
    if file := re.match(r"In 'sweeps/([^']+)': Could not override '[^']+@sweeps\.", text):
        return UserError(headless(file[1]))
    if several := re.match(r"(?:Ambiguous value for argument|Sweep parameters) '(.+?)'(?: 1\.| requires)", text):
        return _several_values(several[1].replace("'", ""), sweeps)
    if isinstance(error, OmegaConfBaseException):
        what = str(error).partition("\n")[0]  # the lines below it say where, in OmegaConf's own terms
        return UserError(f"{error.full_key}: {what}" if error.full_key else what)
    if isinstance(cause, OmegaConfBaseException):
        return explain(cause)
    return UserError(f"the configuration can't be composed: {text or type(error).__name__}")


def _no_option(error: MissingConfigException) -> UserError:
    group, _, option = error.missing_cfg_file.rpartition("/")
    options = sorted((o for o in error.options or [] if not o.startswith("_")), key=_numbers_first)
    listed = f"; allowed are {', '.join(options)}" if options else ""
    if group in _EXTRAS:
        listed += f"; {_EXTRAS[group]}"
    return UserError(f"{group}{'=' if group else ''}{option}: no such option{listed}{nearest(option, options)}")


def _no_key(error: ConfigKeyError | ConfigAttributeError) -> UserError:
    """A key that the composed configuration doesn't have; names that it does have there are suggested."""
    prefix, _, name = error.full_key.rpartition(".")
    part = error.parent_node
    there = {str(k) for k in part} | (set() if prefix else set(groups()))
    tag = next((t for t in ("kind", "source") if t in there), None)
    if tag is not None and name in knobs(prefix):
        return UserError(f"{error.full_key}: {prefix}.{tag}={part[tag]} has no such key")
    if name in _ELSEWHERE:
        return UserError(f"{error.full_key}: no such key; {_ELSEWHERE[name]}")
    # the name of a knob without its part, as other tools have it
    inside = [] if prefix else [str(k) for k in part if isinstance(part[k], DictConfig) and name in part[k]]
    near = f"; did you mean '{inside[0]}.{name}'?" if inside else _nearest_key(prefix, name, there)
    return UserError(f"{error.full_key}: no such key{near}")


def _nothing_to_delete(key: str) -> UserError:
    prefix, _, name = key.rpartition(".")
    there = knobs(prefix) if prefix else knobs() | set(groups())
    return UserError(f"~{key}: no such key{_nearest_key(prefix, name, there)}")


def _nearest_key(prefix: str, name: str, there: set[str]) -> str:
    """The suggestion for a name below `prefix`, as a whole key; compared without it, since it makes any two alike."""
    return nearest(name, sorted(there - {name})).replace("'", f"'{prefix}." if prefix else "'", 1)


def _several_values(override: str, sweeps: bool) -> UserError:
    key, _, values = override.partition("=")
    needed = "several values make a sweep; add -m" if sweeps else "one value is needed"
    if key in groups() or "(" in values:  # neither is ever a list
        return UserError(f"{override}: {needed}")
    return UserError(f"{override}: {needed}{', or' if sweeps else ';'} write {key}=[{values}] for a list")

"""What Hydra and OmegaConf raise, as one sentence with the nearest name."""

from __future__ import annotations

import re
import traceback

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from bitnet.cli.overrides import filled_part, groups, numbers_first
from bitnet.common.console import say
from bitnet.common.errors import UserError, suggestion
from bitnet.config.messages import missing_package_line
from bitnet.config.run import known_keys

# What other tools call a knob, at any place: what to type here.
_ELSEWHERE = {
    "weight_decay": "use the group wd (wd=paper, wd=none, ...), or its values wd.stage1 and wd.stage2",
    "dropout": "there is no dropout; regularisation is set by wd=, smoothing= and regularizer=",
    "learning_rate": "use the group lr (lr=study, lr=cosine, ...), or its peak, lr.peak",
    "epochs": "a run's length is given in optimizer steps: steps=N",
}


# Where another package brings options.
_EXTRAS = {"hydra/sweeper": "pip install 'bitnet-ablation[search]' installs optuna (docs/searches.md)"}


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
        return _filled_elsewhere(text) or _no_key(cause)
    if deleted := re.match(r"Could not delete from config\. '([^']+)' does not exist", text):
        return _nothing_to_delete(deleted[1])
    already = r"Could not append to config\. An item is already at '([^']+)'|Multiple values for ([^ ]+)\."
    if there := re.match(already, text):
        key = there[1] or there[2]
        return UserError(f"+{key}: exists already; write {key}=VALUE, without +")
    if number := re.match(r"Unsupported (?:item value|type) in defaults : (int|float|bool)", text):
        kind = "a truth value" if number[1] == "bool" else "a number"
        return UserError(f'a defaults list names an option that YAML reads as {kind}; quote it, as in override /model: "256"')
    if file := re.match(r"In 'sweeps/([^']+)': Could not override '[^']+@sweeps\.", text):
        return UserError(missing_package_line(file[1]))
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
    options = sorted((o for o in error.options or [] if not o.startswith("_")), key=numbers_first)
    listed = f"; allowed are {', '.join(options)}" if options else ""
    if group in _EXTRAS:
        listed += f"; {_EXTRAS[group]}"
    return UserError(f"{group}{'=' if group else ''}{option}: no such option{listed}{suggestion(option, options)}")


def _filled_elsewhere(text: str) -> UserError | None:
    """The error for a key written below a group that fills another part: `layout.norm_placement` is `model.norm_placement`."""
    overridden = re.match(r"Could not override '([^'.]+)\.([^']+)'", text)
    if overridden is None or overridden[1] not in groups() or (part := filled_part(overridden[1])) is None:
        return None
    group, name = overridden[1], overridden[2]
    if name.split(".")[0] not in known_keys(part):
        near = suggestion(name, known_keys(part)).replace("'", f"'{part}.", 1)
        return UserError(f"{group}.{name}: no such key; the group {group} fills {part}, which has no such key either{near}")
    return UserError(f"{group}.{name}: no such key; the group {group} fills {part}: write {part}.{name}=")


def _no_key(error: ConfigKeyError | ConfigAttributeError) -> UserError:
    """A key that the composed configuration doesn't have; names that it does have there are suggested."""
    prefix, _, name = error.full_key.rpartition(".")
    part = error.parent_node
    there = {str(k) for k in part} | (set() if prefix else set(groups()))
    tag = next((t for t in ("kind", "source") if t in there), None)
    if tag is not None and name in known_keys(prefix):
        return UserError(f"{error.full_key}: {prefix}.{tag}={part[tag]} has no such key")
    if name in _ELSEWHERE:
        return UserError(f"{error.full_key}: no such key; {_ELSEWHERE[name]}")
    if prefix == "sweep.claims" and (once := _written_once(name, part)) is not None:
        all_levels = f"sweep.claims.{once}.KEY=VALUE changes it at all of them"
        return UserError(f"{error.full_key}: no such key; {once} is written once for several levels (each); {all_levels}")
    # the name of a knob without its part, as other tools have it
    inside = [] if prefix else [str(k) for k in part if isinstance(part[k], DictConfig) and name in part[k]]
    near = f"; did you mean '{inside[0]}.{name}'?" if inside else _nearest_key(prefix, name, there)
    return UserError(f"{error.full_key}: no such key{near}")


def _written_once(name: str, claims: DictConfig) -> str | None:
    """The claim with `each` that becomes the one of this name, as far as its beginning tells; None where there is none."""
    return next((str(k) for k in claims if name.startswith(f"{k}_") and "each" in (claims[k] or {})), None)


def _nothing_to_delete(key: str) -> UserError:
    prefix, _, name = key.rpartition(".")
    there = known_keys(prefix) if prefix else known_keys() | set(groups())
    return UserError(f"~{key}: no such key{_nearest_key(prefix, name, there)}")


def _nearest_key(prefix: str, name: str, there: set[str]) -> str:
    """The suggestion for a name below `prefix`, as a whole key; compared without it, since it makes any two alike."""
    return suggestion(name, sorted(there - {name})).replace("'", f"'{prefix}." if prefix else "'", 1)


def _several_values(override: str, sweeps: bool) -> UserError:
    key, _, values = override.partition("=")
    needed = "several values make a sweep; add -m" if sweeps else "one value is needed"
    if key in groups() or "(" in values:  # neither is ever a list
        return UserError(f"{override}: {needed}")
    return UserError(f"{override}: {needed}{', or' if sweeps else ';'} write {key}=[{values}] for a list")


def complain(error: Exception, *, sweeps: bool = True) -> int:
    """Print what the user got wrong as one line; returns the exit code. `sweeps`: whether the command can sweep."""
    say(f"error: {explain(error, sweeps=sweeps)}")
    return 2

"""The arms, grid and seeds of a sweep's file as overrides, each held against Hydra's grammar; a mistake names its place there."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from bitnet.cli.compose import Options
from bitnet.cli.hydra_errors import explain
from bitnet.cli.overrides import key_of, normalise
from bitnet.cli.quoting import unquote
from bitnet.common.errors import UserError
from bitnet.common.paths import share
from bitnet.config.sweep import SweepConfig

_SHOWN = 6  # values of an axis that a message lists

# What the whole command has one of: where an arm sets it, nobody looks. What to do instead, by the first part of the key.
_OF_THE_COMMAND = {
    "resume": "a sweep starts runs; to go on with one, give its command resume=FOLDER alone",
    "sweeps": "an arm is one run; a sweep of sweeps lists them in sweep.includes",
    "sweep": "the sweep's own part stands once in its file, beside the arms",
    "scale": "it scales the whole sweep; give the command scale=NAME",
    "launcher": "it launches the whole sweep; give the command launcher=NAME, or override /launcher in the file's defaults",
    "device": "the arms share the devices of the command; give it device=NAME, or device=cuda:0,cuda:1 for several GPUs",
    "hydra": "it is read from the command and the file's top level, not from arms; where runs go, out=FOLDER says",
}


@dataclass(frozen=True)
class Arm:
    """One run of a sweep: what to override, and the arm of the sweep file that it came from.

    `written`: the sweep file's own overrides, before any scale. Its claims name runs by them.
    """

    name: str | None
    overrides: tuple[str, ...]
    written: tuple[str, ...] = ()

    @property
    def written_values(self) -> dict[str, str]:
        """What the sweep's file wrote for the arm, by key."""
        return {key_of(o): unquote(o.partition("=")[2]) for o in self.written}


def expand_sweep(sweep: SweepConfig | None, typed_keys: set[str], parser: OverridesParser) -> list[Arm]:
    """Every arm of a sweep, seeds outermost, so that one whole comparison is there early.

    Args:
        sweep: the named sweep, if there is one: its arms x grid x seeds.
        typed_keys: keys that the command line sets; it beats the file, in arms, grid and seeds alike.
        parser: of Hydra's grammar, with its groups.
    Raises:
        UserError: an arm or an entry of the grid is not one value of a key that an arm can set.
    """
    if sweep is None:
        return [Arm(None, ())]
    named = {name: _arm(name, text, parser) for name, text in sweep.arms.items()}
    axes = {key: _axis(key, values, parser) for key, values in sweep.grid.items()}
    arms = [(name, tuple(o for o in overrides if key_of(o) not in typed_keys)) for name, overrides in named.items()]
    lists = [overrides for key, overrides in axes.items() if key not in typed_keys]
    seeds = [] if "seed" in typed_keys else sweep.seeds
    return [
        Arm(name, (*arm, *rest, *seed), (*arm, *rest))
        for seed in [(f"seed={s}",) for s in seeds] or [()]
        for name, arm in arms or [(None, ())]
        for rest in itertools.product(*lists)
    ]


def _arm(name: str, text: str, parser: OverridesParser) -> list[str]:
    return [_one_value(f"sweep.arms.{name}", word, parser) for word in shlex.split(text)]


def _axis(key: str, values: list[Any], parser: OverridesParser) -> list[str]:
    if not values:
        raise UserError(f"sweep.grid.{key}=[]: an axis needs a value; name some, or leave it out")
    return [_one_value(f"sweep.grid.{key}", f"{key}={'null' if v is None else v}", parser) for v in values]


def _one_value(place: str, written: str, parser: OverridesParser) -> str:
    """An override as Hydra's grammar has it, which sets one value of a key that is an arm's to set."""
    try:
        override = normalise(written)
        (parsed,) = parser.parse_overrides([override])
    except (UserError, HydraException) as error:
        raise UserError(f"{place}: {explain(error, sweeps=False)}") from None
    if (why := set_for_all(key_of(written))) is not None:
        raise UserError(f"{place}: {written}: {why}")
    if parsed.is_sweep_override():
        one = "an entry is one value" if place.startswith("sweep.grid.") else "an arm has one value of each key"
        raise UserError(f"{place}: {written}: {one}; for several write grid: {{{key_of(written)}: [{_listed(parsed)}]}}")
    return override


def set_for_all(key: str) -> str | None:
    """Why an arm can't set a key, and what to do instead; None for one that is the arm's."""
    return _OF_THE_COMMAND.get(key.split(".")[0].split("/")[0])


def _listed(parsed: Override) -> str:
    """The values that an override sweeps over, the first of them."""
    if not parsed.is_discrete_sweep():
        return "A, B"
    some = list(itertools.islice(parsed.sweep_string_iterator(), _SHOWN + 1))
    return ", ".join([*map(unquote, some[:_SHOWN]), *(["..."] if len(some) > _SHOWN else [])]) or "A, B"


def check_axes(parsed: Sequence[Override], *, all_keys: bool = False) -> None:
    """Refuse axes of a command line that have no value, or that a sweep has one of.

    Args:
        all_keys: whether a key that a sweep has one of may be an axis.
    Raises:
        UserError: naming the axis.
    """
    for axis in (o for o in parsed if o.is_sweep_override()):
        typed, key = str(axis.input_line), axis.key_or_group
        if (why := set_for_all(key)) is not None and not all_keys:
            raise UserError(f"{typed}: can't be swept: {why}; run the command once for each")
        if not axis.is_discrete_sweep():
            raise UserError(
                f"{typed}: a grid needs single values, as choice(A,B) and range(A,B,STEP) have; only a search draws them"
            )
        _check_filled(axis)


def check_axes_of_another_sweeper(overrides: Sequence[str], own: Path | None) -> None:
    """Refuse axes without values where a command line asks for a sweeper that is not the project's: Hydra's own would run
    nothing, and say nothing.

    Args:
        own: the folder of `--config-dir`.
    Raises:
        UserError: naming the axis.
    """
    if "hydra/sweeper" not in map(key_of, overrides):
        return
    folders = [*([] if own is None else [own]), share() / "conf", share()]
    parser = OverridesParser.create(config_loader=Options(folders))
    for axis in parser.parse_overrides([normalise(o) for o in overrides]):
        if axis.is_discrete_sweep():
            _check_filled(axis)


def _check_filled(axis: Override) -> None:
    if next(axis.sweep_string_iterator(), None) is None:
        raise UserError(f"{axis.input_line}: an axis without values: {_why_empty(axis)}")


def _why_empty(axis: Override) -> str:
    if options := axis.config_loader.get_group_options(axis.key_or_group):
        return f"it fits none of the options {', '.join(options)}"
    return "nothing lies in this range" if axis.is_range_sweep() else "nothing fits it"


def concerns(arm: Arm, message: str) -> bool:
    """Whether a message begins with one of the keys that the sweep's file wrote for the arm."""
    return any(message.lstrip("+~").startswith((f"{key}=", f"{key}:")) for key in arm.written_values)

"""Several sweeps, of a file (`sweep.includes`) or of the command line (`sweeps=a,b`): all are validated before the first starts,
then they run one by one.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bitnet.cli import compose
from bitnet.cli.hydra_errors import explain
from bitnet.cli.overrides import key_of
from bitnet.cli.quoting import unquote
from bitnet.common.console import say
from bitnet.common.errors import UserError
from bitnet.common.starting import INTERRUPTED
from bitnet.common.stopping import handled
from bitnet.common.text import counted
from bitnet.config.run import RunConfig
from bitnet.config.sweep import current_name
from bitnet.launch import fork_client
from bitnet.sweep.arms import check_axes
from bitnet.sweep.check_claims import check_selectors
from bitnet.sweep.expand import ComposedArm, expand

INVALID_INPUT = 2  # exit code of a sweep that was refused before any work


def with_sweep(arguments: Sequence[str], name: str) -> list[str]:
    """A command line with another sweep's name."""
    return [f"sweeps={name}" if key_of(a) == "sweeps" else a for a in arguments]


def sweeps_in_turn(master: DictConfig, arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """The sweeps that a multirun carries out one after another, and the sweep whose file includes them (None: the command line
    names them, `sweeps=a,b`); none for a multirun of one sweep or of none.

    Raises:
        UserError: `sweeps` has a form of Hydra's that gives none.
    """
    parser = OverridesParser.create(config_loader=compose.Options.of(master.hydra))
    typed = parser.parse_overrides([a for a in arguments if key_of(a) == "sweeps" and "=" in a][-1:])
    if typed and typed[0].is_sweep_override():
        check_axes(typed, all_keys=True)
        names = [unquote(value) for value in typed[0].sweep_string_iterator()]
        return list(dict.fromkeys(_name_of_file(master, name) for name in names)), None
    sweep = compose.run_config(master).sweep
    if sweep is None or not sweep.includes:
        return [], None
    return [_name_of_file(master, name) for name in sweep.includes], sweep.name


def _name_of_file(master: DictConfig, sweep: str) -> str:
    """A sweep's name, or, where none of the folders that Hydra reads has such a file, its name of today."""
    sources = [s for s in master.hydra.runtime.config_sources if s.schema == "file"]
    there = any((Path(s.path) / "sweeps" / f"{sweep}.yaml").is_file() for s in sources)
    return sweep if there else current_name(sweep)


def expand_each(
    loader: ConfigLoader, master: DictConfig, names: Sequence[str], owner: str | None = None
) -> list[tuple[RunConfig, list[ComposedArm]]]:
    """Every sweep of `names`, which the sweep `owner` includes, or the command line names, as `expand` gives it: every arm
    composed and validated.

    Raises:
        UserError: naming the sweep that can't be run as asked.
    """
    asked, about_hydra = list(master.hydra.overrides.task), list(master.hydra.overrides.hydra)
    if not any(key_of(o) == "sweeps" for o in asked):
        raise UserError(f"sweep.includes={list(names)}: a sweep of sweeps is started by its file's name, sweeps=NAME")
    found: list[tuple[RunConfig, list[ComposedArm]]] = []
    for name in names:
        named = with_sweep(asked, name)
        try:
            own = loader.load_configuration("config", [*about_hydra, *named], RunMode.MULTIRUN)
            includes = (own.sweep or {}).get("includes")
            if includes and owner is not None:
                raise UserError("it is made of sweeps itself; name those instead")
            if includes:
                found += expand_each(loader, own, [_name_of_file(master, n) for n in includes], name)
                continue
            config, arms = expand(loader, own, named)
            for composed in arms:
                _ = composed.config
            if config.sweep is not None:
                check_selectors(config.sweep, arms, compose.Options.of(own.hydra))
        except (UserError, HydraException, OmegaConfBaseException) as error:
            named = f"sweeps={name}" + ("" if owner is None else f", which {owner} includes")
            raise UserError(f"{named}: {str(explain(error)).removeprefix(f'sweeps={name}: ')}") from None
        found.append((config, arms))
    return found


def run_in_sequence(names: Sequence[str]) -> None:
    """Run the sweeps, each by this process's command with its name, to its end.

    Raises:
        KeyboardInterrupt: when one of them was interrupted, after it has saved.
        SystemExit: with the code of a command with invalid input at once; with 1, at the end, when one of them had a failed run.
    """
    fork_client.stop_prestarted()
    failed = []
    for place, name in enumerate(names, 1):
        say(f"[{place} of {len(names)}] {name}")
        code, asked = _run(with_sweep(sys.orig_argv, name))
        if asked or code in (INTERRUPTED, -signal.SIGINT, -signal.SIGTERM):
            raise KeyboardInterrupt
        if code == INVALID_INPUT:
            raise SystemExit(INVALID_INPUT)
        if code != 0:
            failed.append(name)
    if failed:
        some = f"{len(failed)} of {counted(len(names), 'sweep')}"
        say(f"{some} had failures: {', '.join(failed)}; the same command resumes")
        raise SystemExit(1)


def _run(command: list[str]) -> tuple[int, bool]:
    """A command's exit code, and whether it was asked to stop: every request is passed on, and answered there."""
    asked = []
    with subprocess.Popen(command) as process:

        def pass_on(number: int, frame: FrameType | None) -> None:
            asked.append(number)
            process.send_signal(signal.SIGTERM)

        with handled(pass_on):
            return process.wait(), bool(asked)

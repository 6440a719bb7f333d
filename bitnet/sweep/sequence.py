"""A sweep that is made of other sweeps (`sweep.includes`): all are validated before the first starts, then run one by one."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from hydra.core.config_loader import ConfigLoader
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bitnet.cli.hydra_errors import explain
from bitnet.cli.overrides import key_of
from bitnet.common.console import say
from bitnet.common.errors import UserError
from bitnet.common.starting import INTERRUPTED
from bitnet.common.stopping import handled
from bitnet.common.text import counted
from bitnet.config.run import RunConfig
from bitnet.config.sweep import SweepConfig, current_name
from bitnet.launch import fork_client
from bitnet.sweep.expand import ComposedArm, expand

INVALID_INPUT = 2  # exit code of a sweep that was refused before any work


def with_sweep(arguments: Sequence[str], name: str) -> list[str]:
    """A command line with another sweep's name."""
    return [f"sweeps={name}" if key_of(a) == "sweeps" else a for a in arguments]


def expand_includes(loader: ConfigLoader, master: DictConfig, sweep: SweepConfig) -> list[tuple[RunConfig, list[ComposedArm]]]:
    """Every sweep that `sweep` is made of, as `expand` gives it, every arm composed and validated.

    Raises:
        UserError: naming the sweep that can't be run as asked.
    """
    asked, about_hydra = list(master.hydra.overrides.task), list(master.hydra.overrides.hydra)
    if not any(key_of(o) == "sweeps" for o in asked):
        raise UserError(f"sweep.includes={sweep.includes}: a sweep of sweeps is started by its file's name, sweeps=NAME")
    found = []
    for name in sweep.includes:
        named = with_sweep(asked, name if _has_file(master, name) else current_name(name))
        try:
            own = loader.load_configuration("config", [*about_hydra, *named], RunMode.MULTIRUN)
            if own.sweep is not None and own.sweep.get("includes"):
                raise UserError("it is made of sweeps itself; name those instead")
            config, arms = expand(loader, own, named)
            for composed in arms:
                _ = composed.config
        except (UserError, HydraException, OmegaConfBaseException) as error:
            raise UserError(f"sweeps={name}, which {sweep.name} includes: {explain(error)}") from None
        found.append((config, arms))
    return found


def _has_file(master: DictConfig, sweep: str) -> bool:
    """Whether one of the folders that Hydra reads has a sweep of that name."""
    sources = [s for s in master.hydra.runtime.config_sources if s.schema == "file"]
    return any((Path(s.path) / "sweeps" / f"{sweep}.yaml").is_file() for s in sources)


def run_in_sequence(sweep: SweepConfig) -> None:
    """Run the sweeps, each by this process's command with its name, to its end.

    Raises:
        KeyboardInterrupt: when one of them was interrupted, after it has saved.
        SystemExit: with the code of a command with invalid input at once; with 1, at the end, when one of them had a failed run.
    """
    fork_client.stop_prestarted()
    failed = []
    for place, name in enumerate(sweep.includes, 1):
        say(f"[{place} of {len(sweep.includes)}] {name}")
        code, asked = _run(with_sweep(sys.orig_argv, name))
        if asked or code in (INTERRUPTED, -signal.SIGINT, -signal.SIGTERM):
            raise KeyboardInterrupt
        if code == INVALID_INPUT:
            raise SystemExit(INVALID_INPUT)
        if code != 0:
            failed.append(name)
    if failed:
        some = f"{len(failed)} of {counted(len(sweep.includes), 'sweep')}"
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

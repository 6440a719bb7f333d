"""A sweep that is made of other sweeps (`sweep.includes`): all are validated before the first starts, then run one by one."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
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
from bitnet.config.sweep import SweepConfig, current_name
from bitnet.launch import fork_client
from bitnet.sweep.expand import expand

MISTAKEN = 2  # exit code of a sweep that was refused before any work


def with_sweep(arguments: Sequence[str], name: str) -> list[str]:
    """A command line with another sweep's name."""
    name = current_name(name)
    return [f"sweeps={name}" if key_of(a) == "sweeps" else a for a in arguments]


def validate_includes(loader: ConfigLoader, master: DictConfig, sweep: SweepConfig) -> None:
    """Compose and validate every arm of every sweep that `sweep` is made of.

    Raises:
        UserError: naming the sweep that can't be run as asked.
    """
    asked, about_hydra = list(master.hydra.overrides.task), list(master.hydra.overrides.hydra)
    if not any(key_of(o) == "sweeps" for o in asked):
        raise UserError(f"sweep.includes={sweep.includes}: a sweep of sweeps is started by its file's name, sweeps=NAME")
    for name in sweep.includes:
        try:
            own = loader.load_configuration("config", [*about_hydra, *with_sweep(asked, name)], RunMode.MULTIRUN)
            if own.sweep is not None and own.sweep.get("includes"):
                raise UserError("it is made of sweeps itself; name those instead")
            for composed in expand(loader, own, with_sweep(asked, name))[1]:
                _ = composed.config
        except (UserError, HydraException, OmegaConfBaseException) as error:
            raise UserError(f"sweeps={name}, which {sweep.name} includes: {explain(error)}") from None


def run_in_sequence(sweep: SweepConfig) -> None:
    """Run the sweeps, each by this process's command with its name, to its end.

    Raises:
        KeyboardInterrupt: when one of them was interrupted, after it has saved.
        SystemExit: with the code of a mistaken command at once; with 1, at the end, when one of them had a failed run.
    """
    fork_client.stop_prestarted()
    failed = []
    for place, name in enumerate(sweep.includes, 1):
        say(f"[{place} of {len(sweep.includes)}] {name}")
        code, asked = _run(with_sweep(sys.orig_argv, name))
        if asked or code in (INTERRUPTED, -signal.SIGINT, -signal.SIGTERM):
            raise KeyboardInterrupt
        if code == MISTAKEN:
            raise SystemExit(MISTAKEN)
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

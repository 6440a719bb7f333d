"""`python -m bitnet.train`: the one training entry point.

Hydra composes the configuration; `sweep.single` carries out one run, `sweep.controller` a sweep. What a user got wrong is one
line and exit code 2.
"""

from __future__ import annotations

from bitnet.common.starting import INTERRUPTED, begin

begin(__name__)

import os
import sys

import hydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from bitnet.cli.compose import register_plugins, search_path
from bitnet.cli.help import help_text
from bitnet.cli.hydra_errors import complain, from_hydra
from bitnet.cli.overrides import (
    check_sweep,
    config_dir,
    normalise,
    note_repeated_keys,
    split_arguments,
    starts_local_runs,
    with_current_names,
    with_multirun,
)
from bitnet.common.console import print_text
from bitnet.common.errors import UserError
from bitnet.common.paths import share
from bitnet.common.stopping import interrupt_on_signals
from bitnet.launch import fork_client
from bitnet.sweep.arms import check_axes_of_another_sweeper
from bitnet.sweep.single import FULL_ERROR, task


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if {"--help", "-h"} & set(arguments):
        print_text(help_text(arguments))
        return 0
    register_plugins()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed by Hydra
    try:
        overrides, flags, multirun = split_arguments(arguments)
        own = config_dir(flags)
        overrides = with_current_names(overrides, own)
        check_sweep(overrides, multirun)
        check_axes_of_another_sweeper(overrides, own)
        note_repeated_keys(overrides)
        # overrides first, all together: Hydra's argument parser loses those that stand behind a flag
        sys.argv = [sys.argv[0], *search_path([normalise(o) for o in with_multirun(overrides)]), *flags]
        with interrupt_on_signals(), fork_client.prestarted(starts_local_runs(overrides, flags)):
            hydra.main(version_base="1.3", config_path=str(share() / "conf"), config_name="config")(task)()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        return complain(error)
    except Exception as error:
        if FULL_ERROR or not from_hydra(error):
            raise
        return complain(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m bitnet.check`: whether a run would compute what it should, before it does. Trains a few steps, keeps no run."""

from __future__ import annotations

from bitnet.common.starting import INTERRUPTED, begin

begin(__name__)

import argparse
import json
import sys
from pathlib import Path

from bitnet.cli.compose import compose_config, register_plugins, run_config
from bitnet.cli.hydra_errors import complain
from bitnet.cli.overrides import key_of, names_a_sweep, refuse
from bitnet.common.console import command_name, print_text
from bitnet.common.errors import UserError
from bitnet.common.stopping import interrupt_on_signals
from bitnet.config.run import RunConfig

_EPILOG = """The study's ten checks (4 of quantisation, 6 of sanity) with the values it reported, and others: schedules against
hand-computed values, gradients, both kinds of weight decay, bitwise reproducibility, checkpoints, data. n/a: nothing to
check with this configuration. Checkpoints of the first steps go to the system's temporary folder and are removed.

examples
  {check}                                    the defaults
  {check} model=tiny data=synthetic          seconds
  {check} recipe=modern model=512

Exit codes: 0 all checks pass, 1 a check fails, 2 invalid input."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command_name("check"),
        description="Check quantisation, gradients, schedules, weight decay, resumption and data of a configuration.",
        epilog=_EPILOG.format(check=command_name("check")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides, as for one run of bitnet.train")
    parser.add_argument("--config-dir", "-cd", type=Path, help="a folder with your own groups, as for bitnet.train")
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of the table")
    parser.error = refuse
    return parser


def _configuration(overrides: list[str], config_dir: Path | None) -> RunConfig:
    """The one run that the overrides describe.

    Raises:
        UserError: when they name a sweep, or can't be composed.
    """
    if names_a_sweep(overrides):
        sweep = next(o for o in overrides if key_of(o) == "sweeps")
        raise UserError(f"{sweep}: one run is checked at a time; give the overrides of one of its arms instead")
    return run_config(compose_config(overrides, config_dir))


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    register_plugins()
    try:
        arguments = _parser().parse_intermixed_args(argv)
        with interrupt_on_signals():
            config = _configuration(arguments.overrides, arguments.config_dir)
            from bitnet.checks.results import check_run, results_table  # they load torch, which --help does without

            results = check_run(config)
    except UserError as error:
        return complain(error, sweeps=False)
    except KeyboardInterrupt:
        return INTERRUPTED
    print_text(json.dumps(results, indent=2) if arguments.json else results_table(results))
    return 1 if any(r["passed"] is False for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())

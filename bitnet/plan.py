"""`python -m bitnet.plan`: what a training command would do, run by run, before it does it. Starts nothing, writes nothing."""

from __future__ import annotations

from bitnet.common.starting import INTERRUPTED, begin

begin(__name__)

import argparse
import sys
from pathlib import Path

from bitnet.cli.compose import register_plugins
from bitnet.cli.hydra_errors import complain
from bitnet.cli.overrides import refuse
from bitnet.common.console import command_name, print_text, say
from bitnet.common.errors import UserError
from bitnet.common.stopping import interrupt_on_signals
from bitnet.planning.request import placement, requested_runs
from bitnet.planning.view import as_json, show

_EPILOG = """Every arm is composed and validated as in bitnet.train, and listed with the settings that distinguish it:
  parameters   of the model
  memory       peak bytes on its device: weights, gradients, Adam's two moments, what autograd keeps, logits; estimated
               from a dry step on the meta device. Python, torch and (on a GPU) CUDA come on top
  steps        steps that it will train: a single pass over the data may end earlier
  time         from now to the end: a few steps and an evaluation of each distinct shape are measured, alone on this device.
               Concurrent runs on a CPU share its memory and are somewhat slower; saving is not counted
  disk         checkpoints kept, metrics and records, once it has ended

Below the table: `error` for what would be refused or fail (identical arms, a missing device, too little memory, disk or data),
`note` for what is worth knowing beforehand. The plan never prepares data: if it is not prepared, it says what stays unknown.

examples
  {plan} sweeps=quickstart
  {plan} -m model=256,512,768,1024 wd=paper,wd005 --no-measure --json | jq '.runs[].seconds'

Exit codes: 0 ready to start, 1 the plan lists an error, 2 invalid input."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command_name("plan"),
        description="List the runs that a training command would start, with their costs and what would go wrong.",
        epilog=_EPILOG.format(plan=command_name("plan")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for bitnet.train")
    parser.add_argument("-m", "--multirun", action="store_true", help="every combination of comma-separated values")
    parser.add_argument("--config-dir", "-cd", type=Path, help="a folder with your own groups and sweeps, as for bitnet.train")
    parser.add_argument("--no-measure", action="store_true", help="skip the timing, for an instant plan")
    parser.add_argument("--json", action="store_true", help="print one JSON object: runs, totals, flags")
    parser.error = refuse
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    register_plugins()
    try:
        arguments = _parser().parse_intermixed_args(argv)
        with interrupt_on_signals():
            asked, sweeping = requested_runs(arguments.overrides, arguments.multirun, arguments.config_dir)
            from bitnet.planning.forecast import forecast_all

            place = placement(asked, sweeping)
            runs, notices = forecast_all(asked, place, measuring=not arguments.no_measure, say=say)
    except UserError as error:
        return complain(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    command = [a for a in (sys.argv[1:] if argv is None else argv) if a not in {"--no-measure", "--json"}]
    print_text(as_json(runs, notices, place)) if arguments.json else show(runs, notices, place, asked[0].config, command)
    return 1 if any(n.kind == "error" for n in notices) else 0


if __name__ == "__main__":
    sys.exit(main())

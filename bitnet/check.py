"""`python -m bitnet.check`: whether a run would compute what it should, before it does. Trains a few steps, keeps no run."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from tabulate import tabulate

from bitnet.called import called
from bitnet.errors import UserError
from bitnet.overrides import key_of, names_a_sweep, refuse
from bitnet.stopping import like_ctrl_c
from bitnet.train import complain, composed, register_plugins

_WORDS = {True: "pass", False: "FAIL", None: "n/a"}

_EPILOG = """The study's ten checks (4 of quantisation, 6 of sanity) with what it reported, and the others that a run rests on:
schedules against values by hand, gradients, both kinds of weight decay, equal bits, checkpoints, data. n/a: nothing to
check with this configuration. Checkpoints of the first steps are written to the system's temporary folder and removed.

examples
  {check}                                    the defaults
  {check} model=tiny data=synthetic          seconds
  {check} recipe=modern model=512

Exit codes: 0 all pass, 1 one fails, 2 the input can't be used."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=called("check"),
        description="Check quantisation, gradients, schedules, weight decay, resumption and data of a configuration.",
        epilog=_EPILOG.format(check=called("check")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides, as for one run of bitnet.train")
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of the table")
    parser.error = refuse
    return parser


def _results(overrides: list[str]) -> list[dict]:
    """A row a check, the study's first.

    Raises:
        UserError: when the run could not be carried out at all.
    """
    if names_a_sweep(overrides):
        sweep = next(o for o in overrides if key_of(o) == "sweeps")
        raise UserError(f"{sweep}: one run is checked; write the overrides of one of its arms instead")
    from bitnet import arms, checks, training_checks  # they load torch, which --help and a refusal do without

    subject = checks.subject(arms.typed(composed(overrides)))
    table = [*checks.STUDY, *training_checks.OURS]
    return [
        {"group": group, "check": name} | dataclasses.asdict(checks.inspect(check, subject)) | {"published": published}
        for group, name, check, published in table
    ]


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    register_plugins()
    try:
        arguments = _parser().parse_args(argv)
        with like_ctrl_c():
            results = _results(arguments.overrides)
    except UserError as error:
        return complain(error, sweeps=False)
    except KeyboardInterrupt:
        return 130
    failed = [r for r in results if r["passed"] is False]
    print(json.dumps(results, indent=2) if arguments.json else _table(results))
    return 1 if failed else 0


def _table(results: list[dict]) -> str:
    heads = ["", "check", "result", "found", "expected", "study"]
    rows, group = [], None
    for r in results:
        rows.append([r["group"] if r["group"] != group else "", r["check"], _WORDS[r["passed"]]])
        rows[-1] += [r["value"], r["expected"], r["published"]]
        group = r["group"]
    counts = [sum(r["passed"] is p for r in results) for p in (True, False, None)]
    summary = f"{counts[0]} pass, {counts[1]} FAIL, {counts[2]} n/a"
    widths = [None, None, None, 46, 34, None]
    return f"{tabulate(rows, heads, tablefmt='simple', disable_numparse=True, maxcolwidths=widths)}\n\n{summary}"


if __name__ == "__main__":
    sys.exit(main())

"""`python -m bitnet.bench`: how fast training is on this machine, beside other ways to train the same model."""

from __future__ import annotations

from bitnet.common.starting import INTERRUPTED, begin

begin(__name__)

import argparse
import shutil
import sys
from pathlib import Path

from bitnet.benchmark.cases import CONTENDERS, DEFAULT_SIZES, QUICK_SIZES
from bitnet.cli.overrides import refuse
from bitnet.common.console import command_name, say
from bitnet.common.errors import UserError
from bitnet.common.stopping import interrupt_on_signals

_EPILOG = """contenders
{contenders}

Each works in a process of its own, and they take turns, so that a machine whose speed drifts treats them alike.
docs/performance.md says what each column means. All sizes take about an hour on one idle core; --quick a minute.
  bench                     training steps: tokens/s, where the time goes, share of what the machine could do, memory
  bench sweep [KEY=VALUE]   a whole sweep as a user types it, in a temporary folder: wall time, training, orchestration
                            (without arguments the whole quickstart; `sweep quickstart steps=100` for a look)
  bench scale               what arms, steps and runs cost, with model=tiny

examples
  {bench} --quick
  {bench} --sizes 256:4x32,64:4x32:2048 --contenders ours,reference --threads 2
  {bench} --compare outputs/bench/steps-2026-01-31T12-00-00.json
  {bench} --from FILE --document docs/performance.md     put the table of earlier results into the documentation

Exit codes: 0 measured, 1 something got slower beyond the spread, 2 invalid input."""


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:<14}{text}" for name, text in CONTENDERS.items())
    parser = argparse.ArgumentParser(
        prog=command_name("bench"),
        description="Measure training steps (by default), a whole sweep, or how cost grows with a sweep.",
        epilog=_EPILOG.format(bench=command_name("bench"), contenders=listed),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="?", choices=["steps", "sweep", "scale"], default="steps", help="default: steps")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of a sweep, as for bitnet.train")
    parser.add_argument("--sizes", default=DEFAULT_SIZES, help="HIDDEN:SEQUENCESxTOKENS[:VOCABULARY],...")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="names, separated by commas (default: all)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each (default: 1, as arms side by side have)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender (default: 5)")
    parser.add_argument("--quick", action="store_true", help=f"only {QUICK_SIZES}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where results go (default: outputs/bench/<what>-<time>.json)")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="earlier results: say what got slower since")
    parser.add_argument("--from", type=Path, dest="read", metavar="FILE", help="measure nothing: take these results")
    parser.add_argument("--document", type=Path, metavar="FILE", help="also put the tables between the marks of a Markdown file")
    parser.error = refuse
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        arguments = _parser().parse_intermixed_args(argv)
        from bitnet.benchmark.request import run  # pandas and Hydra, which --help does without

        with interrupt_on_signals():
            return run(arguments, shutil.get_terminal_size().columns if sys.stdout.isatty() else None)
    except UserError as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())

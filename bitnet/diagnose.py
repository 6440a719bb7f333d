"""`python -m bitnet.diagnose`: what kind of collapse a run shows, in plain words, from its record alone."""

from __future__ import annotations

from bitnet.common.starting import INTERRUPTED, begin

begin(__name__)

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bitnet.analysis.diagnosis import diagnose
from bitnet.common.console import command_name, print_text, say
from bitnet.common.errors import UserError
from bitnet.common.stopping import interrupt_on_signals
from bitnet.reporting.diagnosis_text import diagnosis_text, wrapped

_EPILOG = """examples
  {diagnose} outputs/quickstart/RUN                                       a run, from start to end
  {diagnose} outputs/quickstart/RUN/checkpoints/step-00002000-....safetensors   the run up to that step
  {diagnose} outputs/quickstart                                           one line per run

Nothing is recomputed: it uses the measurements made during training. docs/diagnose.md explains the kinds."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0, or 2 after one line on what can't be used."""
    arguments = _parser().parse_args(argv)
    try:
        with interrupt_on_signals():
            found = diagnose(arguments.path)
    except UserError as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    if arguments.format == "json":
        print_text(json.dumps([d.as_dict() for d in found], indent=2))
    elif len(found) == 1:
        print_text(diagnosis_text(found[0]))
    else:
        print_text("\n".join(wrapped(f"{Path(d.case.run['folder']).name}: {d.headline}", "    ") for d in found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        command_name("diagnose"),
        description="What kind of collapse a run shows, when it began, how deep it went, whether it recovered, and what to try.",
        epilog=_EPILOG.format(diagnose=command_name("diagnose")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", metavar="RUN|CHECKPOINT", type=Path, help="a run's folder, one of its checkpoints, or a sweep")
    parser.add_argument("--format", choices=["text", "json"], default="text", help="(default: text)")
    return parser


if __name__ == "__main__":
    sys.exit(main())

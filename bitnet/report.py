"""`python -m bitnet.report DIR...`: run records from disk as verdicts, tables beside the published figures, and one HTML page."""

from __future__ import annotations

from bitnet.common.starting import INTERRUPTED, begin

begin(__name__)

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bitnet.common.console import command_name, print_text, say
from bitnet.common.errors import UserError
from bitnet.common.stopping import interrupt_on_signals
from bitnet.reporting import text_layout
from bitnet.reporting.report import report, save_text

_DESCRIPTION = """\
Report on runs: a verdict on each claim of their sweep, a page with figures (report.html), and tables: distinct tokens by
step, loss before and after the boundary, parameters, the baseline table, the verification plan, what each arm learned,
and unfinished runs; each with the published figure next to ours, mean and spread over seeds, and n. Runs are read from
disk, so this works while a sweep is still running."""

_EXAMPLES = """\
examples:
  {report} outputs/quickstart                    one sweep
  {report} outputs                               every run in a folder, each experiment separately
  {report} outputs/baseline_1k outputs/baseline_10k outputs/baseline_20k     three sweeps, compared
  {report} outputs/phase5_scaling --out scaling.md
  {report} outputs/rootcause --html rootcause.html    a self-contained page to pass on

DIR is a run, a sweep, or a folder of sweeps; a run that is found twice counts once. Folders whose names begin with a dot
are skipped. An experiment is a sweep, or runs outside any sweep that one command started. Several DIRs with one experiment
each share their tables. The CSV files hold all steps and unrounded numbers; bitnet/analysis/tables.py defines the columns."""

_SUFFIXES = {".md": "md", ".markdown": "md", ".tex": "latex"}


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0, or 2 after one line on what can't be used."""
    arguments = _parser().parse_args(argv)
    out: Path | None = arguments.out
    style = arguments.format or ("plain" if out is None else _SUFFIXES.get(out.suffix.lower(), "plain"))
    try:
        if out is not None and out.is_dir():
            raise UserError(f"--out {out}: a folder; name a file, or use --tables {out} for the CSV files")
        with interrupt_on_signals():
            text = report(arguments.dirs, arguments.tables, style, arguments.html, arguments.figures)
            if out is None:
                print_text(text)
            else:
                save_text(text + "\n", out, "--out")
    except UserError as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    examples = _EXAMPLES.format(report=command_name("report"))
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(command_name("report"), description=_DESCRIPTION, epilog=examples, formatter_class=raw)
    parser.add_argument("dirs", nargs="+", metavar="DIR", type=Path, help="run folders, or folders that contain them")
    parser.add_argument("--format", choices=list(text_layout.FORMATS), help="of the text (default: by FILE's name, else plain)")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write the text to this file: plain, .md or .tex")
    parser.add_argument("--html", metavar="FILE", type=Path, help="file of the page (default: report.html in the first DIR)")
    parser.add_argument("--figures", metavar="DIR", type=Path, help="also write the page's figures here, as SVG files")
    parser.add_argument(
        "--tables", metavar="DIR", type=Path, help="folder for CSV and Parquet (default: tables/ in the first DIR)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

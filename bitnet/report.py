"""Tables from run folders: `python -m bitnet.report DIR...`.

Reads run records from disk, prints the study's tables beside its published figures, and writes each as CSV and Parquet.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bitnet import printed, published, runs, tables, verification
from bitnet.errors import UserError

_DESCRIPTION = """\
Tables from run folders: distinct tokens by step, loss before and after the boundary, parameters, the baseline table,
the verification plan, what each arm learned, and every run that is not done; each with the published figure beside
ours, mean and spread over seeds, and n. Runs are read from disk, so this works while a sweep is still running."""

_EXAMPLES = """\
examples:
  python -m bitnet.report outputs/quickstart                    one sweep
  python -m bitnet.report outputs                               every run below a folder
  python -m bitnet.report outputs/baseline_1k outputs/baseline_10k outputs/baseline_20k --out baseline
  python -m bitnet.report outputs/phase5_scaling --format md > scaling.md

DIR is a run, a sweep, or a folder of sweeps; a run that is found twice counts once. Folders that begin with a dot are
skipped. The files hold all steps and unrounded numbers; see the names of their columns in bitnet/tables.py."""

_NARROWEST, _USUAL = 80, 120  # columns of a terminal


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0, or 2 after one line on what can't be used."""
    arguments = _parser().parse_args(argv)
    try:
        text = report(arguments.dirs, arguments.out, arguments.format)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return _print(text)


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("bitnet-report", description=_DESCRIPTION, epilog=_EXAMPLES, formatter_class=raw)
    parser.add_argument("dirs", nargs="+", metavar="DIR", type=Path, help="run folders, or folders that hold some")
    parser.add_argument("--out", metavar="DIR", type=Path, help="for the files (default: tables/ in the first DIR)")
    parser.add_argument("--format", choices=list(printed.FORMATS), default="plain", help="of what is printed (plain)")
    return parser


def _print(text: str) -> int:
    """Print what the terminal can show; a reader that stops early (`| head`) is no error."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def report(dirs: Sequence[Path], out: Path | None = None, style: str = "plain") -> str:
    """Write the tables of the runs below `dirs` as files and return them as text.

    Args:
        out: folder of the files, `tables/` in the first of `dirs` by default.
        style: a key of `bitnet.printed.FORMATS`.
    Raises:
        UserError: a folder that is not there, is a file, holds no run, or can't be written.
    """
    for place in dirs:
        if place.is_file():
            raise UserError(f"{place}: is a file; give the folder of a run, or one that holds some")
    records = runs.read(dirs, tables.METRICS)
    frames, sections = _tables(records)
    folder = dirs[0] / "tables" if out is None else out
    write(frames, folder)
    width = max(_NARROWEST, shutil.get_terminal_size((_USUAL, 24)).columns)
    texts = [printed.render(section, style, width) for section in sections]
    if shared := tables.shared_overrides(records.runs) if len(records.runs) else []:
        texts.insert(0, textwrap.fill(f"Given to all arms, and left out of their names: {' '.join(shared)}", width) + "\n")
    return "\n".join([*texts, f"{'% ' * (style == 'latex')}{len(frames)} tables as CSV and Parquet in {folder}"])


def _tables(records: runs.Records) -> tuple[dict[str, pd.DataFrame], list[printed.Section]]:
    """Every table by its file name, and what is printed of them."""
    frames = {"not_done": tables.not_done(records.runs, records.unreadable)}
    counts = tables.statuses(records.runs, records.unreadable)
    again = int(records.runs["also_in"].map(len).sum()) if len(records.runs) else 0
    status = printed.not_done(frames["not_done"], counts, again)
    if not len(records.runs):
        return frames, [status]
    found, metrics = records.runs, records.metrics
    theirs, arms = published.match(found), tables.arms(found)
    frames |= {
        "tokens_by_step": tables.tokens_by_step(found, metrics, theirs),
        "boundary": tables.around_boundary(found, metrics, theirs),
        "parameters": tables.parameters(found),
        "baseline": tables.baseline(found, metrics, theirs),
        "learning": tables.learning(found, metrics),
        "verification": verification.verification(found, metrics, theirs),
    }
    sections = [
        printed.tokens(frames["tokens_by_step"], arms, found),
        printed.boundary(frames["boundary"], found),
        printed.parameters(frames["parameters"]),
        printed.baseline(frames["baseline"], found),
        printed.learning(frames["learning"]),
    ]
    if len(frames["verification"]):
        sections.append(printed.verification(frames["verification"]))
    return frames, [*sections, status]


def write(frames: dict[str, pd.DataFrame], folder: Path) -> None:
    """Each frame as NAME.csv and NAME.parquet in `folder`.

    Raises:
        UserError: when that can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, frame in frames.items():
            frame.to_csv(folder / f"{name}.csv", index=False)
            frame.to_parquet(folder / f"{name}.parquet", index=False)
    except OSError as error:
        raise UserError(f"{folder}: can't be written ({error.strerror}); name another folder with --out") from None


if __name__ == "__main__":
    sys.exit(main())

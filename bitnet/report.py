"""Tables from run folders: `python -m bitnet.report DIR...`.

Reads run records from disk, prints the study's tables beside its published figures, and writes each as CSV and Parquet.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bitnet import experiments, layout, printed, published, runs, tables, verification
from bitnet.called import called
from bitnet.errors import UserError

_DESCRIPTION = """\
Tables from run folders: distinct tokens by step, loss before and after the boundary, parameters, the baseline table,
the verification plan, what each arm learned, and every run that is not done; each with the published figure beside
ours, mean and spread over seeds, and n. Runs are read from disk, so this works while a sweep is still running."""

_EXAMPLES = """\
examples:
  {report} outputs/quickstart                    one sweep
  {report} outputs                               every run below a folder, each experiment by itself
  {report} outputs/baseline_1k outputs/baseline_10k outputs/baseline_20k     three sweeps, compared
  {report} outputs/phase5_scaling --out scaling.md

DIR is a run, a sweep, or a folder of sweeps; a run that is found twice counts once. Folders that begin with a dot are
skipped. An experiment is a sweep, or the runs of no sweep that one command started. Several DIRs with one experiment each
share their tables. The CSV files hold all steps and unrounded numbers; bitnet/tables.py says what their columns are."""

_SUFFIXES = {".md": "md", ".markdown": "md", ".tex": "latex"}
_NARROWEST, _USUAL = 80, 120  # columns of a terminal


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0, or 2 after one line on what can't be used."""
    arguments = _parser().parse_args(argv)
    out: Path | None = arguments.out
    style = arguments.format or ("plain" if out is None else _SUFFIXES.get(out.suffix.lower(), "plain"))
    try:
        if out is not None and out.is_dir():
            raise UserError(f"--out {out}: is a folder; name a file, or give --tables {out} for the CSV files")
        text = report(arguments.dirs, arguments.tables, style)
        if out is None:
            return _print(text)
        _save(text, out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    examples = _EXAMPLES.format(report=called("report"))
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(called("report"), description=_DESCRIPTION, epilog=examples, formatter_class=raw)
    parser.add_argument("dirs", nargs="+", metavar="DIR", type=Path, help="run folders, or folders that hold some")
    parser.add_argument("--format", choices=list(layout.FORMATS), help="of the text (default: by FILE's name, else plain)")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write the text there: plain, or as .md or .tex")
    parser.add_argument("--tables", metavar="DIR", type=Path, help="for CSV and Parquet (default: tables/ in the first DIR)")
    return parser


def _save(text: str, file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {file}: can't be written ({error.strerror}); name another file") from None


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
        style: a key of `bitnet.layout.FORMATS`.
    Raises:
        UserError: a folder that is not there, is a file, holds no run, or can't be written.
    """
    for place in dirs:
        if place.is_file():
            raise UserError(f"{place}: is a file; give the folder of a run, or one that holds some")
    records = runs.read(dirs, tables.METRICS)
    frames, sections = _all_tables(records, dirs)
    folder = dirs[0] / "tables" if out is None else out
    write(frames, folder)
    width = max(_NARROWEST, shutil.get_terminal_size((_USUAL, 24)).columns)
    texts = [layout.render(section, style, width) for section in sections]
    return "\n".join([*texts, f"{'% ' * (style == 'latex')}{len(frames)} tables as CSV and Parquet in {folder}"])


def _all_tables(records: runs.Records, dirs: Sequence[Path]) -> tuple[dict[str, pd.DataFrame], list[layout.Section]]:
    """Every table by its file name, with the experiment that a row is of, and what is printed of them."""
    if not len(records.runs):
        return _over_all(records, None)
    theirs = published.match(records.runs)
    groups = experiments.compared(records.runs, dirs)
    found, sections = [], []
    if len(groups) > 1:
        sections.append(printed.contents({name: len(ids) for name, ids in groups.items()}))
    for name, ids in groups.items():
        part = records.of(ids)
        frames, own = _tables(part, theirs[theirs["arm_id"].isin(part.runs["arm_id"])])
        for frame in frames.values():
            frame.insert(0, "experiment", name)
        found.append(frames)
        sections += [printed.opening(name, len(ids), tables.shared_overrides(part.runs)), *own]
    frames = {table: pd.concat([each[table] for each in found], ignore_index=True) for table in found[0]}
    over_all, last = _over_all(records, theirs)
    return frames | over_all, [*sections, *last]


def _tables(records: runs.Records, theirs: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], list[layout.Section]]:
    """The tables of one experiment by their file names, and what is printed of them; `theirs` as of `published.match`."""
    found, metrics, arms = records.runs, records.metrics, tables.arms(records.runs)
    frames = {
        "tokens_by_step": tables.tokens_by_step(found, metrics, theirs),
        "boundary": tables.around_boundary(found, metrics, theirs),
        "parameters": tables.parameters(found),
        "baseline": tables.baseline(found, metrics, theirs),
        "learning": tables.learning(found, metrics),
    }
    sections = [
        printed.tokens(frames["tokens_by_step"], arms, found),
        printed.boundary(frames["boundary"], found),
        printed.parameters(frames["parameters"]),
        printed.baseline(frames["baseline"], found),
        printed.learning(frames["learning"]),
    ]
    return frames, sections


def _over_all(records: runs.Records, theirs: pd.DataFrame | None) -> tuple[dict[str, pd.DataFrame], list[layout.Section]]:
    """The tables that span experiments: the verification plan, and what is not done."""
    found = records.runs
    frames = {"not_done": tables.not_done(found, records.unreadable)}
    again = int(found["also_in"].map(len).sum()) if len(found) else 0
    sections = [printed.not_done(frames["not_done"], tables.statuses(found, records.unreadable), again)]
    if theirs is not None:
        frames["verification"] = verification.verification(found, records.metrics, theirs)
        if len(frames["verification"]):
            sections.insert(0, printed.verification(frames["verification"]))
    return frames, sections


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
        raise UserError(f"{folder}: can't be written ({error.strerror}); name another folder with --tables") from None


if __name__ == "__main__":
    sys.exit(main())

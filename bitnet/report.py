"""Tables from run folders: `python -m bitnet.report DIR...`.

Reads run records from disk, prints what they say to the claims of their sweeps and the study's tables beside its published
figures, and writes all of it as one HTML page, and each table as CSV and Parquet.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bitnet import experiments, layout, printed, published, runs, tables, verdicts, verification, wording
from bitnet.called import called
from bitnet.errors import UserError
from bitnet.files import discard_output
from bitnet.judged import READ, Judged, judged

_DESCRIPTION = """\
What runs say: a verdict on each claim of their sweep, a page with figures (report.html), and tables: distinct tokens by
step, loss before and after the boundary, parameters, the baseline table, the verification plan, what each arm learned,
and every run that is not done; each with the published figure beside ours, mean and spread over seeds, and n. Runs are
read from disk, so this works while a sweep is still running."""

_EXAMPLES = """\
examples:
  {report} outputs/quickstart                    one sweep
  {report} outputs                               every run below a folder, each experiment by itself
  {report} outputs/baseline_1k outputs/baseline_10k outputs/baseline_20k     three sweeps, compared
  {report} outputs/phase5_scaling --out scaling.md
  {report} outputs/rootcause --html rootcause.html    the page, to be passed on: it needs no other file

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
        text = report(arguments.dirs, arguments.tables, style, arguments.html, arguments.figures)
        if out is None:
            return _print(text)
        _save(text + "\n", out, "--out")
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
    parser.add_argument("--html", metavar="FILE", type=Path, help="the page (default: report.html in the first DIR)")
    parser.add_argument("--figures", metavar="DIR", type=Path, help="write the page's figures there too, each as an SVG file")
    parser.add_argument("--tables", metavar="DIR", type=Path, help="for CSV and Parquet (default: tables/ in the first DIR)")
    return parser


def _save(text: str, file: Path, option: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{option} {file}: can't be written ({error.strerror}); name another file with {option}") from None


def _print(text: str) -> int:
    """Print what the terminal can show; a reader that stops early (`| head`) is no error."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    try:
        print(text, flush=True)
    except BrokenPipeError:
        discard_output()
    return 0


def report(
    dirs: Sequence[Path],
    out: Path | None = None,
    style: str = "plain",
    html: Path | None = None,
    figures: Path | None = None,
) -> str:
    """Write the page and the tables of the runs below `dirs` as files, and return the tables as text.

    Args:
        out: folder of the tables, `tables/` in the first of `dirs` by default.
        style: a key of `bitnet.layout.FORMATS`.
        html: the page's file, `report.html` in the first of `dirs` by default.
        figures: folder for the page's figures as files, or None.
    Raises:
        UserError: a folder that is not there, is a file, holds no run, or can't be written.
    """
    for place in dirs:
        if place.is_file():
            raise UserError(f"{place}: is a file; give the folder of a run, or one that holds some")
    if html is not None and html.is_dir():
        raise UserError(f"--html {html}: is a folder; name a file")
    records = runs.read(dirs, READ)
    found = judged(records, dirs)
    frames, sections = _all_tables(records, found, dirs)
    folder = dirs[0] / "tables" if out is None else out
    write(frames, folder)
    page_file = _write_page(found, dirs, folder, html, figures)
    width = max(_NARROWEST, shutil.get_terminal_size((_USUAL, 24)).columns)
    texts = [layout.render(section, style, width) for section in sections]
    comment = "% " * (style == "latex")
    texts.append(f"{comment}{len(frames)} tables as CSV and Parquet in {folder}")
    return "\n".join([*texts, *([f"{comment}page: {page_file}"] if page_file is not None else [])])


def _write_page(
    found: Sequence[Judged], dirs: Sequence[Path], folder: Path, html: Path | None, figures: Path | None
) -> Path | None:
    """The page's file, its figures written too where a folder is given for them; None where there is no run to write of."""
    if not found:
        return None
    from bitnet.page import chapters_of, drawings, page  # matplotlib takes a second to import, which --help need not wait for

    file = dirs[0] / "report.html" if html is None else html
    chapters = chapters_of(found)
    _save(page(found, chapters, [f"{called('report')} {shlex.join(map(str, dirs))}"], folder), file, "--html")
    if figures is not None:
        for name, svg in drawings(chapters).items():
            _save(svg, figures / name, "--figures")
    return file


def _all_tables(
    records: runs.Records, found: Sequence[Judged], dirs: Sequence[Path]
) -> tuple[dict[str, pd.DataFrame], list[layout.Section]]:
    """Every table by its file name, with the experiment that a row is of, and what is printed of them."""
    if not len(records.runs):
        return _over_all(records, None)
    theirs = published.match(records.runs)
    groups = experiments.compared(records.runs, dirs)
    parts, sections = [], []
    if len(groups) > 1:
        sections.append(printed.contents({name: len(ids) for name, ids in groups.items()}))
    left = list(found)
    for name, ids in groups.items():
        here = [e for e in left if set(e.records.runs.index) <= set(ids)]
        left = [e for e in left if e not in here]
        # a run that several sweeps share has its arm's name in this one
        part = here[0].records if len(here) == 1 and len(here[0].records.runs) == len(ids) else records.of(ids)
        frames, own = _tables(part, theirs[theirs["arm_id"].isin(part.runs["arm_id"])])
        for frame in frames.values():
            frame.insert(0, "experiment", name)
        parts.append(frames)
        claims = [section for e in here if (section := wording.section(e)) is not None]
        sections += [printed.opening(name, len(ids), tables.shared_overrides(part.runs)), *claims, *own]
    frames = {table: pd.concat([each[table] for each in parts], ignore_index=True) for table in parts[0]}
    over_all, last = _over_all(records, theirs)
    return frames | _judgements(found) | over_all, [*sections, *last]


def _judgements(found: Sequence[Judged]) -> dict[str, pd.DataFrame]:
    """Verdicts, and effects of crossed sweeps, as tables; what a cell can't hold is JSON in it. Only those that have rows."""
    claims, shares, contrasts = [], [], []
    for experiment in found:
        where = {"experiment": experiment.name, "folder": str(experiment.folder)}
        if experiment.verdicts:
            rows = verdicts.rows(experiment.verdicts)
            nested = [c for c in rows if rows[c].map(lambda cell: isinstance(cell, (dict, tuple))).any()]
            claims.append(rows.assign(**{c: rows[c].map(json.dumps) for c in nested}, published=rows["published"].astype(str)))
            claims[-1] = claims[-1].assign(**where)
        for effect in experiment.effects:
            if effect.table is not None and effect.contrasts is not None:
                where |= {"moment": effect.moment}
                shares.append(effect.table.assign(**where))
                contrasts.append(effect.contrasts.assign(**where, per_seed=effect.contrasts["per_seed"].map(json.dumps)))
    tables_of = {"claims": claims, "effects": shares, "contrasts": contrasts}
    return {name: pd.concat(parts, ignore_index=True) for name, parts in tables_of.items() if parts}


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

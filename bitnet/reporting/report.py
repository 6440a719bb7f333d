"""The report: tables, verdicts and the page of the runs below some folders."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bitnet.analysis import published, tables, verification
from bitnet.analysis.frames import Records, read_runs
from bitnet.common.console import command_name
from bitnet.common.errors import UserError
from bitnet.reporting import text_layout, text_tables, wording
from bitnet.verdicts import verdict
from bitnet.verdicts.experiment import READ, Experiment, experiments_by_table, experiments_in, records_of

_FORMULA = re.compile(r"(?![-+][\d.]+(?:e[-+]?\d+)?\Z)[=+\-@\t\r\n]", re.IGNORECASE)  # of a cell: how a formula begins

_NARROWEST, _USUAL = 80, 120  # columns of a terminal


def save_text(text: str, file: Path, option: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{option} {file}: can't be written ({error.strerror}); name another file with {option}") from None


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
        style: a key of `text_layout.FORMATS`.
        html: the page's file, `report.html` in the first of `dirs` by default.
        figures: folder for the page's figures as files, or None.
    Raises:
        UserError: a folder that is not there, is a file, holds no run, or can't be written.
    """
    for place in dirs:
        if place.is_file():
            raise UserError(f"{place}: a file; give the folder of a run, or a folder of runs")
    if html is not None and html.is_dir():
        raise UserError(f"--html {html}: a folder; name a file")
    records = read_runs(dirs, READ)
    found = experiments_in(records, dirs)
    frames, sections = _all_tables(records, found, dirs)
    folder = dirs[0] / "tables" if out is None else out
    write_tables(frames, folder)
    page_file = _write_page(found, dirs, folder, html, figures)
    width = max(_NARROWEST, shutil.get_terminal_size((_USUAL, 24)).columns)
    texts = [text_layout.render(section, style, width) for section in sections]
    places = [f"{len(frames)} tables as CSV and Parquet in {folder}", *([] if page_file is None else [f"page: {page_file}"])]
    return "\n".join([*texts, *(text_layout.remark(place, style) for place in places)])


def _write_page(
    found: Sequence[Experiment], dirs: Sequence[Path], folder: Path, html: Path | None, figures: Path | None
) -> Path | None:
    """The page's file, its figures written too where a folder is given for them; None where there is no run to write of."""
    if not found:
        return None
    from bitnet.reporting.html_page import (  # matplotlib takes a second to import, which --help need not wait for
        page_chapters,
        page_figures,
        render_page,
    )

    file = dirs[0] / "report.html" if html is None else html
    chapters = page_chapters(found)
    save_text(render_page(found, chapters, [f"{command_name('report')} {shlex.join(map(str, dirs))}"], folder), file, "--html")
    if figures is not None:
        for name, svg in page_figures(chapters).items():
            save_text(svg, figures / name, "--figures")
    return file


def _all_tables(
    records: Records, found: Sequence[Experiment], dirs: Sequence[Path]
) -> tuple[dict[str, pd.DataFrame], list[text_layout.Section]]:
    """Every table by its file name, with the experiment that a row is of, and what is printed of them."""
    if not len(records.runs):
        return _over_all(records, None)
    theirs = published.match(records.runs)
    groups = experiments_by_table(found, dirs)
    runs_of = {name: records_of(group, records) for name, group in groups.items()}
    parts, sections = [], []
    if len(groups) > 1:
        sections.append(text_tables.contents({name: len(part.runs) for name, part in runs_of.items()}))
    for name, group in groups.items():
        part = runs_of[name]
        frames, own = _tables(part, theirs[theirs["arm_id"].isin(part.runs["arm_id"])])
        for frame in frames.values():
            frame.insert(0, "experiment", name)
        parts.append(frames)
        claims = [section for e in group if (section := wording.claims_section(e)) is not None]
        sections += [text_tables.opening(name, len(part.runs), tables.shared_overrides(part.runs)), *claims, *own]
    frames = {table: pd.concat([each[table] for each in parts], ignore_index=True) for table in parts[0]}
    over_all, last = _over_all(records, theirs)
    return frames | _judgements(found) | over_all, [*sections, *last]


def _judgements(found: Sequence[Experiment]) -> dict[str, pd.DataFrame]:
    """Verdicts, and effects of crossed sweeps, as tables; what a cell can't hold is JSON in it. Only those that have rows."""
    claims, shares, contrasts = [], [], []
    for experiment in found:
        where = {"experiment": experiment.name, "folder": str(experiment.folder)}
        if experiment.verdicts:
            rows = verdict.rows(experiment.verdicts)
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


def _tables(records: Records, theirs: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], list[text_layout.Section]]:
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
        text_tables.tokens(frames["tokens_by_step"], arms, found),
        text_tables.boundary(frames["boundary"], found),
        text_tables.parameters(frames["parameters"]),
        text_tables.baseline(frames["baseline"], found),
        text_tables.learning(frames["learning"]),
    ]
    return frames, sections


def _over_all(records: Records, theirs: pd.DataFrame | None) -> tuple[dict[str, pd.DataFrame], list[text_layout.Section]]:
    """The tables that span experiments: the verification plan, and what is not done."""
    found = records.runs
    frames = {"not_done": tables.not_done(found, records.unreadable)}
    again = int(found["also_in"].map(len).sum()) if len(found) else 0
    sections = [text_tables.not_done(frames["not_done"], tables.statuses(found, records.unreadable), again)]
    if theirs is not None:
        frames["verification"] = verification.verification(found, records.metrics, theirs)
        if len(frames["verification"]):
            sections.insert(0, text_tables.verification(frames["verification"]))
    return frames, sections


def as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame whose texts a spreadsheet shows and does not carry out: an apostrophe before what begins like a formula.

    Numbers stay numbers, negative ones too, and so do texts that are one. A carriage return, at which some begin a new cell,
    becomes a line break, which stands in quotes.
    """
    texts = [column for column in frame if not pd.api.types.is_numeric_dtype(frame[column])]
    return frame.assign(**{column: frame[column].map(_harmless) for column in texts})


def _harmless(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    return ("'" if _FORMULA.match(cell) else "") + cell.replace("\r", "\n")


def write_tables(frames: dict[str, pd.DataFrame], folder: Path) -> None:
    """Each frame as NAME.csv (as `as_text` has it) and NAME.parquet in `folder`.

    Raises:
        UserError: when that can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, frame in frames.items():
            as_text(frame).to_csv(folder / f"{name}.csv", index=False)
            frame.to_parquet(folder / f"{name}.parquet", index=False)
    except OSError as error:
        raise UserError(f"{folder}: can't be written ({error.strerror}); name another folder with --tables") from None

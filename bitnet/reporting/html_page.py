"""The report as one HTML file that needs nothing else: no script, no network; figures and style are inside it.

This file turns judged experiments into the plain values that `html_page.html.j2` lays out. Whatever comes from a configuration, a
sample or a run's record reaches the page as text: jinja2 escapes it, matplotlib escapes what stands in a figure.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from bitnet.analysis import collapse, grouping, tables
from bitnet.common.console import command_name
from bitnet.common.text import DASH
from bitnet.reporting import curves, text_tables, wording
from bitnet.reporting.svg import DotRow, draw_dots, draw_shares, draw_strip, framed_figure
from bitnet.reporting.text_layout import Section
from bitnet.reporting.text_tables import number
from bitnet.runs.columns import HOW, TEXT_NUMBERS
from bitnet.runs.facts import Samples
from bitnet.runs.reading import Unreadable, read_json_mapping
from bitnet.runs.record import RunRecord
from bitnet.runs.statuses import DONE, UNFINISHED
from bitnet.verdicts.crossing import MOMENTS, Effects
from bitnet.verdicts.evidence import offset_of
from bitnet.verdicts.experiment import TEXT_COLUMNS, Experiment, arm_names
from bitnet.verdicts.verdict import Verdict

_LONGEST_NAME = 60  # of an experiment in a file's name

MOST_ARMS = 48  # of an experiment whose runs are drawn one by one: a page of thousands would be read by nobody

_CLASSES = {
    collapse.FLAT: "#D55E00",
    collapse.FREQUENCY: "#E69F00",
    collapse.REPETITION: "#56B4E9",
    collapse.NONE: "#009E73",
    collapse.WARM_UP: "#DDDDDD",
}

_UNKNOWN = "#FFFFFF"

Chapters = Sequence[Mapping[str, Any]]


def page_chapters(found: Sequence[Experiment]) -> Chapters:
    """What a page shows of each experiment, its figures drawn."""
    return [_chapter(f"e{i}", experiment) for i, experiment in enumerate(found)]


def render_page(found: Sequence[Experiment], chapters: Chapters, commands: Sequence[str], tables_at: Path) -> str:
    """The page of these experiments.

    Args:
        chapters: of `page_chapters`.
        commands: what to type for this report. tables_at: where its tables lie as files.
    """
    source = resources.files("bitnet.reporting").joinpath("html_page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    values = {
        "answer": wording.answer(found),
        "chapters": chapters,
        "classes": [*_CLASSES.items(), ("not known", _UNKNOWN)],
        "commands": list(commands),
        "diagnose": command_name("diagnose"),
        "tables_at": str(tables_at),
        "most_arms": MOST_ARMS,
    }
    return environment.from_string(source).render(values)


def page_figures(chapters: Chapters) -> dict[str, str]:
    """The page's figures as files of their own, SVG by file name: curves of each column, and which factor matters."""
    files = {}
    for chapter in chapters:
        name, shown = _file_name(chapter["name"]), chapter["curves"]["panels"]
        for i, panel in enumerate(shown, 1):
            part = f"-{i}" if len(shown) > 1 else ""
            title = ": ".join(t for t in (chapter["title"], panel["title"]) if t)
            for column, svg in panel["figures"].items():
                files[f"{name}-{column}{part}.svg"] = framed_figure(svg, title, panel["legend"])
        for effects in chapter["effects"]:
            title = f"{chapter['title']}: held-out loss {effects['where']}"
            for kind in ("shares", "contrasts"):
                if effects[kind]:
                    files[f"{name}-{effects['moment']}-{kind}.svg"] = framed_figure(effects[kind], title)
    return files


def _file_name(experiment: str) -> str:
    """A short name for its files; that of runs of no sweep is a whole command."""
    name = re.sub(r"[^\w.-]+", "-", experiment.removeprefix("sweep "))
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}-{hashlib.sha256(experiment.encode()).hexdigest()[:6]}"


def _chapter(key: str, experiment: Experiment) -> dict[str, Any]:
    """What the template shows of one experiment; `key` keeps its anchors and figures apart from other experiments'."""
    runs, declaration = experiment.records.runs, experiment.declaration
    names = arm_names(experiment)
    few = len(names) <= MOST_ARMS
    records, environments = _records(runs, names)
    shared = tables.shared_overrides(runs)
    samples, unread = _samples(runs, names) if few else ([], [])
    return {
        "key": key,
        "name": experiment.name,
        "title": wording.capitalised(experiment.name),
        "folder": None if experiment.folder is None else str(experiment.folder),
        "question": declaration.sweep.get("question"),
        "source": declaration.sweep.get("source"),
        "scale": declaration.scale,
        "declared_at": declaration.at,
        "notes": [*declaration.notes, *([experiment.problem] if experiment.problem else []), *unread],
        "shared": " ".join(shared),
        "statuses": ", ".join(f"{n} {status}" for status, n in runs["status"].value_counts().items()),
        "words": wording.count_verdicts(experiment.verdicts) if experiment.verdicts else "no claims",
        "claims": [_claim(f"{key}-claim{i}", v, experiment) for i, v in enumerate(experiment.verdicts)],
        "curves": curves.curve_panels(key, experiment, names, MOST_ARMS),
        "effects": [_effects(f"{key}-{e.moment}", e) for e in experiment.effects],
        "few": few,
        "strips": [(arm, list(rows)) for arm, rows in groupby(_strips(experiment, names), itemgetter("arm"))] if few else [],
        "tables": [_table(text_tables.parameters(tables.parameters(runs))), _table(_learned(experiment, names))],
        "texts": _texts(experiment, names),
        "samples": samples,
        "records": records,
        "environments": environments,
        "commands": list(dict.fromkeys(c for c in map(_typed, runs["command"]) if c)),
    }


# --------------------------------------------------------------------------------------------------------------- claims
def _claim(key: str, verdict: Verdict, experiment: Experiment) -> dict[str, Any]:
    claim = experiment.claims[verdict.claim]
    return {
        "name": verdict.claim,
        "says": verdict.says,
        "word": verdict.word,
        "kind": verdict.word.replace(" ", "-"),
        "measured": wording.measured_text(claim),
        "ours": wording.effect_text(verdict, claim),
        "sides": wording.sides_text(verdict, claim),
        "n": verdict.n,
        "published": wording.published_text(verdict),
        "p": wording.p_text(verdict),
        "margin": wording.margin_text(verdict, claim),
        "seeds": wording.seeds_text(verdict, claim),
        "why": verdict.why,
        "warnings": list(verdict.warnings),
        "figure": _dots(key, verdict, experiment),
    }


def _dots(key: str, verdict: Verdict, experiment: Experiment) -> str:
    """Every seed's number against where nothing is; of seeds that do not pair, each side's values."""
    claim = experiment.claims[verdict.claim]
    if not verdict.numbers:
        named = {side: wording.selector_text(getattr(claim, side, side)) for side in verdict.sides or {}}
        sides = [DotRow(named[side], list(values.values())) for side, values in (verdict.sides or {}).items()]
        return draw_dots(sides, key, wording.unit_of(claim), reference=None, width=2.6)
    margin, expected = verdict.margin or 0.0, getattr(claim, "expected", "equal")
    zero = offset_of(claim)
    margins = {"equal": (zero - margin, zero + margin), "lower": (zero - margin,), "higher": (zero + margin,)}.get(expected, ())
    interval = None if verdict.low is None or verdict.high is None else (verdict.low, verdict.high)
    row = DotRow("", list(verdict.numbers.values()), verdict.mean, interval)
    return draw_dots([row], key, wording.unit_of(claim), zero, margins, width=2.6)


# -------------------------------------------------------------------------------------------------------------- effects
def _effects(key: str, found: Effects) -> dict[str, Any]:
    """The root-cause figure of a crossed sweep at one moment."""
    lost = ", ".join(f"{n} {status}" for status, n in found.lost.items())
    values: dict[str, Any] = {"moment": found.moment, "where": MOMENTS[found.moment]}
    values |= {"seeds": found.seeds, "lost": lost, "problem": found.problem}
    values |= {"sentence": "", "shares": "", "contrasts": "", "rows": []}
    if found.table is None or found.contrasts is None:
        waits = found.lost and set(found.lost) <= set(UNFINISHED)
        return values | {"problem": f"Not available yet: {lost}." if waits else f"{found.problem}."}
    per_seed = [
        DotRow(c.effect, list(c.per_seed.values()), c.mean, None if np.isnan(c.low) else (c.low, c.high))
        for c in found.contrasts.head(6).itertuples()
    ]
    tests = found.table.set_index("effect")
    rows = [
        {
            "effect": effect,
            "share": DASH if pd.isna(share) else f"{share:.1%}",
            "df": f"{df:.0f}",
            "F": wording.short_number(F) if found.seeds > 1 else DASH,
            "p": wording.short_number(p),
        }
        for effect, share, df, F, p in tests[["share", "df", "F", "p_holm"]].itertuples(name=None)
    ]
    return values | {
        "sentence": wording.shares_text(found),
        "shares": _shares(f"{key}-shares", found.table),
        "contrasts": draw_dots(per_seed, f"{key}-contrasts", "difference in held-out loss, nats"),
        "rows": rows,
    }


def _shares(key: str, table: pd.DataFrame, most: int = 8, least: float = 0.01) -> str:
    """The largest effects by their share of the variance; what is left, and what is too small to see, in one bar."""
    if table["share"].isna().any():
        return ""
    kinds = [
        "rest" if effect in ("seed", "residual") else "interaction" if " x " in effect else "main" for effect in table["effect"]
    ]
    ordered = table.assign(kind=kinds).sort_values("share", ascending=False, kind="stable")
    shown = max(1, min(most, int((ordered["share"] >= least).sum())))
    top, rest = ordered.iloc[:shown], ordered.iloc[shown:]
    names = {"seed": "seed (block)"}
    bars = [(names.get(row.effect, row.effect), float(row.share), row.kind) for row in top.itertuples()]
    if len(rest):
        bars.append((f"{len(rest)} other{'s together' if len(rest) > 1 else ''}", float(rest["share"].sum()), "rest"))
    return draw_shares(bars, key, "share of the variance of the held-out loss")


# ------------------------------------------------------------------------------------------------ classes, tables, texts
def _in_order(runs: pd.DataFrame, names: pd.Series) -> pd.DataFrame:
    """Runs by arm, in the order of `names`, and seed; `name` is the arm's."""
    place = {arm: i for i, arm in enumerate(names.index)}
    ordered = runs.assign(name=runs["arm_id"].map(names), place=runs["arm_id"].map(place))
    return ordered.sort_values(["place", "seed"], kind="stable")


def _strips(experiment: Experiment, names: pd.Series) -> list[dict[str, Any]]:
    """Each run's classes over its steps; a stretch reaches from the evaluation before to its own last one."""
    metrics = experiment.records.metrics
    kinds = collapse.classify(experiment.records.runs, metrics).where(lambda k: k.notna(), "not known")
    end = max(1.0, float(experiment.records.runs["steps"].max()))
    courses = {run: part for run, part in metrics.assign(kind=kinds)[["run", "Step", "kind"]].groupby("run", sort=False)}
    rows = []
    for run_id, run in _in_order(experiment.records.runs, names).iterrows():
        course = courses.get(run_id)
        stretches: list[tuple[float, float, str]] = []
        if course is not None:
            changes = (course["kind"] != course["kind"].shift()).cumsum()
            begin = 0.0
            for _, part in course.groupby(changes, sort=True):
                stretches.append((begin, begin := float(part["Step"].iloc[-1]), part["kind"].iloc[0]))
        fact = experiment.facts.loc[run_id]
        coloured = [(a, b, _CLASSES.get(kind, _UNKNOWN)) for a, b, kind in stretches]
        rows.append(
            {
                "arm": run["name"],
                "seed": f"{run['seed']:.0f}",
                "strip": draw_strip(coloured, end),
                "last": stretches[-1][2] if stretches else run["status"],
                "onset": number(fact["onset_step"], 0),
                "recovery": number(fact["recovery_step"], 0),
                "depth": number(fact["depth"], 2),
            }
        )
    return rows


def _learned(experiment: Experiment, names: pd.Series) -> Section:
    table = tables.learning(experiment.records.runs, experiment.records.metrics)
    return text_tables.learning(table.assign(arm=table["arm_id"].map(names)))


def _table(section: Section) -> dict[str, Any]:
    """A printed section as rows of text."""
    frames = [{"head": [frame.index.name, *frame.columns], "rows": _rows(frame)} for frame in section.frames if len(frame)]
    return {"title": section.title, "caption": section.caption, "frames": frames}


def _rows(frame: pd.DataFrame) -> list[list[str]]:
    return [[name, *cells] for name, cells in zip(frame.index, frame.to_numpy().tolist(), strict=True)]


def _texts(experiment: Experiment, names: pd.Series) -> dict[str, Any]:
    """The numbers of continuations at the end of finished runs, mean over an arm's seeds with their n, beside the text's own."""
    runs, metrics = experiment.records.runs, experiment.records.metrics
    done = runs[runs["status"] == DONE]
    columns = list(TEXT_COLUMNS)
    last = metrics[metrics["run"].isin(done.index)].groupby("run").tail(1).set_index("run")[columns].dropna(how="all")
    arms = last.groupby(runs["arm_id"].reindex(last.index))
    by_arm, n = arms.mean(), arms.size()
    named = {arm: f"{names[arm]} (n={n[arm]})" for arm in names.index if arm in by_arm.index}
    rows = [[name, *(wording.short_number(v) for v in by_arm.loc[arm])] for arm, name in named.items()]
    own: dict[str, Any] = {}
    for folder in runs["folder"]:
        if own := RunRecord(Path(folder)).read().get("heldout_text") or {}:
            break
    real = [wording.short_number(own.get(name)) for name in TEXT_NUMBERS]
    return {"rows": rows, "names": TEXT_NUMBERS, "how": HOW, "own": real}


@dataclass(frozen=True)
class _Sample:
    """A run's continuations as it left them."""

    run: str
    step: str
    texts: list[Mapping[str, str]]


def _samples(runs: pd.DataFrame, names: pd.Series) -> tuple[list[_Sample], list[str]]:
    """The continuations of each run that has some, and what is wrong with those that can't be read."""
    found, problems = [], []
    for _, run in _in_order(runs, names).iterrows():
        place, name = Path(run["folder"]) / "samples.json", f"{run['name']}, seed {run['seed']:.0f}"
        try:
            held = read_json_mapping(place, Samples) if place.exists() else {}
        except Unreadable as error:
            problems.append(f"{name}: its samples are not shown: {error}")
            continue
        texts = [{k: _shown(t.get(k)) for k in ("prompt", "greedy", "sampled", "heldout")} for t in held.get("samples", [])]
        if texts:
            found.append(_Sample(name, str(held.get("step", DASH)), texts))
    return found, problems


def _shown(text: str | None) -> str:
    """A text in one paragraph: a collapsed model may write line breaks only, which would be empty paper."""
    return DASH if text is None else text.replace("\n", "\u21b5 ")


# -------------------------------------------------------------------------------------------------------------- records
def _records(runs: pd.DataFrame, names: pd.Series) -> tuple[list[list[str]], list[str]]:
    """A row a run, and the different environments and commits that rows refer to by number."""
    environments: dict[str, int] = {}
    rows = []
    for _, run in _in_order(runs, names).iterrows():
        record = RunRecord(Path(run["folder"])).read()
        rows.append(
            [
                run["id"],
                run["name"],
                f"{run['seed']:.0f}",
                run["status"] + (f": {run['reason']}" if run["reason"] else ""),
                f"{number(run['step'], 0)}/{number(run['steps'], 0)}{_beginning(record)}",
                str(run["device"] or DASH),
                number(run["train_seconds"] + run["eval_seconds"], 0),
                number(run["tokens_per_second"], 0),
                str(run["started"] or DASH),
                str(run["finished"] or DASH),
                str(environments.setdefault(_environment(record), len(environments) + 1)),
                str(run["folder"]),
            ]
        )
    return rows, list(environments)


def _beginning(record: Mapping[str, Any]) -> str:
    """Which run trained the first steps, where it was another one."""
    began = record.get("began_as")
    return f", the first {began['step']:,} as {began['id']}" if isinstance(began, dict) else ""


def _environment(record: Mapping[str, Any]) -> str:
    """Commit and versions that a run was made with."""
    git, versions = record.get("git"), record.get("versions")
    commit = "no commit recorded"
    if isinstance(git, dict):
        commit = f"commit {git.get('commit')}{' with uncommitted changes' if git.get('dirty') else ''}"
    return f"{commit}; {', '.join(f'{k} {v}' for k, v in versions.items())}" if isinstance(versions, dict) else commit


def _typed(command: str) -> str:
    """A recorded command as one would type it again."""
    rest = grouping.short_command(command)
    return f"{command_name('train')} {rest}" if rest and rest != command else command

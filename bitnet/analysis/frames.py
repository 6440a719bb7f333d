"""Run folders on disk as two frames: one row a run, one row an evaluation.

Reading never fails because of one bad run: a folder that can't be understood is listed with its reason, a `metrics.csv`
that is absent or torn leaves a note, and a value that is not there is NaN. Nothing is filled in.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv

from bitnet.common.errors import UserError
from bitnet.common.limits import MOST_COUNT
from bitnet.common.text import shortened, single_line
from bitnet.config.base import boundary_step, value_at
from bitnet.config.run import misfit_of
from bitnet.config.sweep import current_name
from bitnet.runs.columns import COLUMNS, PARTS
from bitnet.runs.folders import find_runs
from bitnet.runs.metrics_file import describe_steps, known_evaluations, lost, whole_lines
from bitnet.runs.reading import Unreadable, read_yaml_mapping
from bitnet.runs.record import read_record
from bitnet.runs.statuses import MISSING, QUEUED, STORED

POSITIONS = {"random_contexts": "contexts_positions", "first_batch": "first_batch_positions"}


@dataclass(frozen=True)
class Records:
    """What was found below some folders.

    runs: one row a run, indexed by run id; see `_row` for the columns. `status` is one of `statuses.STORED` or `missing`
        (queued, and training never began). `ceiling` is the largest value that UniquePredictions can take.
    metrics: the columns that were asked for as float64 plus `run` (the id), ordered by run and Step; non-finite is NaN. An
        evaluation that a run made and its file lacks is a row of NaN, so that no other step's numbers are taken for it; its
        step is in the run's `holes`.
    unreadable: `folder` and `reason` of every folder that looks like a run and can't be read as one.
    """

    runs: pd.DataFrame
    metrics: pd.DataFrame
    unreadable: pd.DataFrame

    def of(self, ids: Sequence[str]) -> Records:
        """The records of these runs alone."""
        where = self._rows_of
        rows = [where[run] for run in ids if run in where]
        metrics = self.metrics.iloc[np.concatenate(rows)] if rows else self.metrics.iloc[:0]
        return Records(self.runs.loc[list(ids)], metrics, self.unreadable.iloc[:0])

    @functools.cached_property
    def _rows_of(self) -> dict[str, np.ndarray]:
        """Where the metrics of each run stand: hundreds of experiments would search 400,000 rows each."""
        return self.metrics.groupby("run", sort=False).indices


def read_runs(directories: Iterable[str | os.PathLike[str]], columns: Iterable[str] = COLUMNS) -> Records:
    """Every run at or below `directories`, each once.

    Two folders with the same run id hold the same run: the more complete one is used, the other is named in `also_in`,
    and the run belongs to the sweeps and published sources of both.

    Args:
        directories: run folders, sweep folders, or folders of sweeps, in any mix.
        columns: of `bitnet.runs.columns.COLUMNS`; what is not asked for is not parsed.
    Raises:
        UserError: a directory that is not there, or no run in any of them.
    """
    rows, unreadable, places = [], [], [Path(d) for d in directories]
    for folder, problem in find_runs(places):
        try:
            if problem is not None:
                raise Unreadable(problem)
            rows.append(_row(folder))
        except Unreadable as error:
            unreadable.append({"folder": str(folder), "reason": str(error)})
    if not rows and not unreadable:
        raise UserError(f"no run (a folder with run.json or metrics.csv) in {', '.join(map(str, places))}")
    runs = _merge_same_runs(rows)
    metrics = _read_metrics(runs, ["Step", *(c for c in columns if c != "Step")])
    lost = pd.DataFrame(unreadable, columns=["folder", "reason"])
    return Records(_with_what_metrics_say(runs, metrics), metrics, lost)


# ------------------------------------------------------------------------------------------------------- one run's row
def _row(folder: Path) -> dict[str, Any]:
    """The row of one run, without what `metrics.csv` says."""
    record, config = read_record(folder), read_yaml_mapping(folder / "config.yaml")
    if (wrong := misfit_of(config)) is not None:
        raise Unreadable(f"config.yaml: {wrong}")
    steps = _number(config, "config.yaml", "steps")
    row = {key: _text(record, key) for key in ("id", "arm_id", "label")}
    row |= {key: record.get(key) for key in ("arm", "status", "reason", "device", "created", "started", "finished")}
    row["sweep"] = None if record.get("sweep") is None else current_name(record["sweep"])
    row |= {
        "folder": str(folder),
        "scale": record["scale"] if "scale" in record else value_at(config, "scale.name"),
        "data_sha256": value_at(record, "data.sha256"),
        "taken_from": record.get("taken_from"),
        "seed": _number(record, "run.json", "seed"),
        "step": _number(record, "run.json", "step", default=math.nan),
        "steps": steps,
        "boundary": (boundary := _boundary(config, steps)),
        "boundary_step": boundary_step(boundary, int(steps)),
        "tokens_per_step": _number(config, "config.yaml", "batch_size") * _number(config, "config.yaml", "seq_len"),
        "metric": value_at(config, "probe.metric"),
        "contexts": _number(config, "config.yaml", "probe.contexts", default=math.nan),
        "published": tuple(record.get("published") or ()),
        "overrides": tuple(record.get("overrides") or ()),
        "choices": dict(record.get("choices") or {}),
        "written": dict(record.get("written") or {}),
        "command": str(record.get("command") or ""),
        "config": config,
        "data": _data_name(record, config),
        "made_with": _made_with(record, config),
    }
    for key in ("train_tokens", "vocab_size", "ln_vocab", "unigram_entropy"):
        row[key] = _number(record, "run.json", f"data.{key}", default=math.nan)
    for key in ("train_seconds", "eval_seconds", "tokens_per_second"):
        row[key] = _number(record, "run.json", f"timing.{key}", default=math.nan)
    for part in ("total", *PARTS):
        row[f"parameters_{part}"] = _number(record, "run.json", f"parameters.{part}", default=math.nan)
    return row | _shape(config)


def _made_with(record: dict[str, Any], config: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Versions of torch, kinds of device, precision and numbers of threads that a run was made with, in the order of its life."""
    sessions = record.get("sessions")
    times = [s for s in sessions if isinstance(s, dict)] if isinstance(sessions, list) else []
    found = {
        "torch": [value_at(time, "versions.torch") for time in times],
        "device": [str(time.get("device") or "").partition(":")[0] or None for time in times],
        "threads": [time.get("threads") for time in times],
        "precision": [value_at(config, "precision")],
    }
    return {what: tuple(dict.fromkeys(str(v) for v in values if v is not None)) for what, values in found.items()}


def _boundary(config: dict[str, Any], steps: float) -> float:
    """The share of the run before stage 2."""
    boundary = _number(config, "config.yaml", "wd.boundary", default=0.5)
    if not (0 < boundary < 1 and math.isfinite(steps)):
        raise Unreadable(f"config.yaml: wd.boundary={boundary} of steps={steps} is not inside the run")
    return boundary


def _data_name(record: dict[str, Any], config: dict[str, Any]) -> str | None:
    """The source of the tokens; for one of the hub, its subset or data set."""
    name = value_at(record, "data.name")
    if name != "hub":
        return name
    known = (value_at(config, "data.subset"), value_at(config, "data.dataset"), name)
    return next(text for text in known if isinstance(text, str) and text)


def _shape(config: dict[str, Any]) -> dict[str, Any]:
    """What of the model decides its parameter count."""
    sizes = ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "ffn_size")
    row: dict[str, Any] = {name: _number(config, "config.yaml", f"model.{name}") for name in sizes}
    for name in ("gated_ffn", "tied_head", "fused_projections", "norm_placement"):
        row[name] = value_at(config, f"model.{name}")
    return row


def _number(values: dict[str, Any], file: str, key: str, default: float | None = None) -> float:
    value = value_at(values, key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MOST_COUNT:
        raise Unreadable(f"{file}: {key}={shortened(repr(value), 60)}, a number is needed")
    return float(value)


def _text(values: dict[str, Any], key: str) -> str:
    if not isinstance(values.get(key), str):
        raise Unreadable(f"run.json: {key}={values.get(key)!r}, a string is needed")
    return values[key]


def _merge_same_runs(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """One row a run id, of its most complete folder."""
    by_id: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_id.setdefault(row["id"], []).append(row)
    merged = []
    for same in by_id.values():
        best = min(same, key=lambda r: (STORED.index(r["status"]), -r["step"] if r["step"] == r["step"] else 0))
        merged.append(
            best
            | {
                "sweeps": tuple(dict.fromkeys(r["sweep"] for r in same if r["sweep"] is not None)),
                "published": tuple(dict.fromkeys(p for r in same for p in r["published"])),
                "places": tuple((r["folder"], r["sweep"]) for r in same),
                "also_in": tuple(r["folder"] for r in same if r is not best),
            }
        )
    if not merged:
        return pd.DataFrame()
    frame = pd.DataFrame(merged).set_index("id", drop=False).rename_axis("run")
    for column in ("scale", "data_sha256", "taken_from"):  # None stays None, beside texts too
        frame[column] = pd.Series([row[column] for row in merged], frame.index, dtype="object")
    return frame


# ------------------------------------------------------------------------------------------------------------- metrics
def _read_metrics(runs: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The evaluations of all runs; what was wrong with a file goes into `runs["note"]`."""
    frames, positions, notes, holes = [], [], [], []
    for position, (_, run) in enumerate(runs.iterrows()):
        frame, note = read_metrics(Path(run["folder"]) / "metrics.csv", columns)
        unusable = bool(note) and not len(frame)
        holes.append(() if unusable else _missing_evaluations(run, frame["Step"]))
        if holes[-1]:
            frame = pd.concat([frame, pd.DataFrame({"Step": map(float, holes[-1])})]).sort_values("Step", ignore_index=True)
            note = "; ".join([*([note] if note else []), f"lacks the {describe_steps(holes[-1])}"])
        notes.append(note)
        if len(frame):
            frames.append(frame)
            positions.append(position)
    if not frames:
        metrics = _nothing(columns).assign(run=pd.Series(dtype="object"))
    else:
        metrics = pd.concat(frames, ignore_index=True).replace([math.inf, -math.inf], math.nan)
        metrics["run"] = np.repeat(runs.index.to_numpy(dtype="object")[positions], [len(frame) for frame in frames])
    if len(runs):
        runs["note"], runs["holes"] = notes, holes
    return metrics


_MOST_EVALUATIONS = 1_000_000  # of one run


def _missing_evaluations(run: pd.Series, steps: pd.Series) -> tuple[int, ...]:
    """Steps that a run is known to have evaluated at, of which its file has no row."""
    interval = value_at(run["config"], "eval_every")
    if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
        return ()
    furthest = min(np.nanmax([steps.max(), run["step"], 0]), run["steps"])
    if not 1 <= furthest <= _MOST_EVALUATIONS * interval:  # a number that is no step of a run
        return ()
    return tuple(lost(known_evaluations(run["status"], int(furthest), interval), steps.astype("int64")))


def _nothing(columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame({c: pd.Series(dtype="float64") for c in columns})


def read_metrics(path: Path, columns: list[str]) -> tuple[pd.DataFrame, str]:
    """The complete lines of one `metrics.csv` in float64, by Step, and a note on what was wrong ('' if nothing).

    A line without its end is torn and left out, as is a line with another number of cells than the header. Of two lines
    with the same Step the later one counts. A file that holds something other than numbers is not used at all.
    """
    try:
        whole, torn = whole_lines(path)
    except Unreadable as error:
        return _nothing(columns), f"metrics.csv {error}"
    notes = ["last line torn, left out"] if torn else []
    try:
        frame, broken = _parsed(whole, columns)
    except pa.ArrowException as error:
        return _nothing(columns), f"metrics.csv is not used: {shortened(single_line(str(error)), 120)}"
    if broken > 0:
        notes.append(f"{broken} broken line(s) left out")
    counted = frame["Step"].between(0, MOST_COUNT) & (frame["Step"] % 1 == 0)
    if not (frame["Step"].is_monotonic_increasing and frame["Step"].is_unique and counted.all()):
        once = frame[counted].drop_duplicates("Step", keep="last").sort_values("Step")
        if len(once) < len(frame):
            notes.append(f"{len(frame) - len(once)} line(s) without a Step of their own left out")
        frame = once
    return frame, "; ".join(notes)


def _parsed(text: bytes, columns: list[str]) -> tuple[pd.DataFrame, int]:
    """`columns` in float64, and how many lines with another number of cells than the header were left out."""
    broken = 0

    def leave_out(row: csv.InvalidRow) -> str:
        nonlocal broken
        broken += 1
        return "skip"

    table = csv.read_csv(
        pa.BufferReader(text),
        csv.ReadOptions(use_threads=False),
        csv.ParseOptions(invalid_row_handler=leave_out),
        csv.ConvertOptions(
            include_columns=columns, include_missing_columns=True, column_types=dict.fromkeys(columns, pa.float64())
        ),
    )
    return pd.DataFrame({column: table[column].to_numpy() for column in columns}), broken


def _with_what_metrics_say(runs: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    """Adds `ceiling`, and turns queued runs that never began into missing ones."""
    if not len(runs):
        return runs
    began = runs.index.isin(metrics["run"].unique()) | runs["started"].notna()
    runs["status"] = runs["status"].mask((runs["status"] == QUEUED) & ~began, MISSING)
    runs["note"] = runs["note"].mask(runs["status"] == MISSING, "")
    configured = runs["contexts"].where(runs["metric"] == "random_contexts", runs["tokens_per_step"])
    runs["ceiling"] = configured
    for metric, column in POSITIONS.items():
        if column in metrics:
            measured = metrics.groupby("run")[column].max().reindex(runs.index)
            runs["ceiling"] = runs["ceiling"].mask((runs["metric"] == metric) & measured.notna(), measured)
    return runs

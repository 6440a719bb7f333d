"""Run records: where a run lives, `run.json`, `config.yaml` and `metrics.csv`, each written so that a crash can't tear it.

The readers of these files are in `runs.py`; what the columns mean stands in `columns.py`.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from bitnet.columns import COLUMNS, format_value
from bitnet.errors import UserError
from bitnet.files import checkpoints

SCHEMA = 1
# libyaml where it is there: ten times as fast
_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_YamlDumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
FINAL = ("done", "diverged")  # states with a result: not run again unless asked
_LABEL_LENGTH = 100
_PACKAGES = ("torch", "numpy", "hydra-core", "omegaconf", "transformers", "datasets", "tokenizers", "pandas")


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def write_atomically(path: Path, text: str, *, lasting: bool = True) -> None:
    """Replace a file's content as a whole: a reader, or a crash of a process, sees the old or the new.

    Args:
        lasting: whether it has to be on the disk on return, so that a power cut can't take it back. That takes
            milliseconds, and is not needed for what launching the same command again finds out anew.
    """
    # not mkstemp: what it makes only its owner may read
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if lasting:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


# -------------------------------------------------------------------------------------------------- names and places
def readable(overrides: Iterable[str]) -> str:
    """Overrides as one folder-safe, readable word: `optimizer=adamw,wd=paper`; `defaults` when there are none.

    Of a path its last part stands there.
    """
    text = ",".join(o.replace("'", "").replace('"', "") for o in overrides)
    text = re.sub(r"(?<=[=,\[])[^=,\[\]]*/(?=[^/,\]]+)", "", text)
    text = re.sub(r"[^A-Za-z0-9=,._+-]+", "_", text).replace("..", "_").strip(".")
    if len(text) > _LABEL_LENGTH:  # what differs most often stands at the end
        text = f"{text[: _LABEL_LENGTH - 62]}--{text[-60:]}"
    return text or "defaults"


def locate(out: Path, group: str | None, name: str) -> Path:
    """The folder of the run called `name` (`<readable>-<id>`): below `out`/<sweep>, or below the date for a run of no sweep.

    A run that was begun before, on an earlier day or with its overrides spelt otherwise, is found again by its id.
    """
    run_id = name.rsplit("-", 1)[1]
    if group is not None:
        here = out / readable([group])
        known = sorted(here.glob(f"*-{run_id}/run.json"))
        return known[0].parent if known else here / name
    earlier = sorted(out.glob(f"[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]/*-{run_id}/run.json"))
    return earlier[-1].parent if earlier else out / datetime.now().strftime("%Y-%m-%d") / name


def check_writable(out: Path) -> None:
    """Raise UserError when nothing can be written below `out`."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UserError(f"out={out}: can't be written ({error.strerror}); name another folder with out=FOLDER") from None


def check_inside(folder: Path, out: Path) -> None:
    """Raise UserError when links would have the run in `folder` written outside `out`."""
    for place in (folder, *(folder.iterdir() if folder.is_dir() else ())):
        if (real := place.resolve()) != place and not real.is_relative_to(out.resolve()):
            raise UserError(f"{place}: is a link that leads out of {out}, where nothing is written; remove it")


# ------------------------------------------------------------------------------------------------------------ run.json
@functools.cache
def provenance() -> dict[str, Any]:
    """What made a run: versions, the code's commit, the command. Found out once a process, and before it forks."""
    versions = {"python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"versions": versions, "git": _git(), "command": shlex.join(sys.orig_argv)}


def _git() -> dict[str, Any] | None:
    """Commit of the checkout that this package lies in, and whether it had uncommitted changes; None outside one."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        state = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit.stdout.strip(), "dirty": bool(state.stdout.strip())}


# What a run is called and belongs to in the sweep that its folder lies in; the rest is the run's own, wherever it lies.
_OWN_FACTS = {"label", "arm", "sweep", "scale", "published", "overrides", "choices", "written", "branch", "branch_at"}
_OWN_FACTS |= {"created", "command"}


def declare(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write down what a sweep asks and claims before its first run: `sweep.json`, which keeps every version with its time."""
    path = folder / "sweep.json"
    try:
        versions = json.loads(path.read_text(encoding="utf-8"))["declared"]
    except (OSError, ValueError, KeyError, TypeError):
        versions = []
    if not versions or {k: v for k, v in versions[-1].items() if k != "at"} != dict(facts):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"declared": [*versions, {"at": now(), **facts}]}, indent=2) + "\n")


class RunRecord:
    """The folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.csv"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def branches(self) -> Path:
        """Checkpoints that other runs begin with."""
        return self.folder / "branches"

    @property
    def place(self) -> str:
        """The folder as seen from `out`: a sweep's runs may lie in the folders of several days."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def saved_step(self) -> int:
        """The step of the newest checkpoint, 0 without one."""
        return next((step for step, _ in checkpoints(self.checkpoints)), 0)

    @property
    def lock(self) -> Path:
        return self.folder / ".lock"

    def read(self) -> dict[str, Any]:
        """`run.json`; empty when there is none or it can't be read."""
        try:
            value = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def update(self, **facts: Any) -> dict[str, Any]:
        """Set keys of `run.json`, keeping the others; how a run ended is on the disk on return."""
        record = self.read() | facts
        ended = record.get("status") not in {"queued", "running"}
        write_atomically(self.folder / "run.json", json.dumps(record, indent=2) + "\n", lasting=ended)
        return record

    def create(self, config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """A queued run: its frozen configuration and what is known before it starts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write_config(config)
        self.update(schema=SCHEMA, status="queued", reason=None, step=0, created=now(), **facts)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Freeze the configuration."""
        text = yaml.dump(dict(config), Dumper=_YamlDumper, sort_keys=False)
        write_atomically(self.folder / "config.yaml", text, lasting=False)

    def write_samples(self, step: int, samples: list[dict[str, str]]) -> None:
        """Continuations of held-out prompts at the newest evaluation, as text."""
        text = json.dumps({"step": step, "samples": samples}, indent=2, ensure_ascii=False)
        write_atomically(self.folder / "samples.json", text + "\n", lasting=False)

    def copy_results(self, other: RunRecord) -> None:
        """Take over what another record of the same run holds: its evaluations and how it ended, its checkpoints not."""
        for name in ("metrics.csv", "samples.json"):
            if (other.folder / name).exists():
                write_atomically(self.folder / name, (other.folder / name).read_text(encoding="utf-8"), lasting=False)
        own = self.read()
        theirs = {k: v for k, v in other.read().items() if k not in _OWN_FACTS}
        write_atomically(self.folder / "run.json", json.dumps(own | theirs | {"taken_from": other.place}, indent=2) + "\n")

    def clear(self) -> None:
        """Remove a run's results."""
        for place in (self.checkpoints, self.branches):
            if place.exists():
                shutil.rmtree(place)
        for name in ("metrics.csv", "samples.json", "run.json", "error.txt", "log.txt"):
            (self.folder / name).unlink(missing_ok=True)

    def config(self) -> dict[str, Any]:
        """`config.yaml` as plain values.

        Raises:
            UserError: when the folder holds none.
        """
        try:
            values = yaml.load((self.folder / "config.yaml").read_text(encoding="utf-8"), _YamlLoader)
        except (OSError, ValueError, yaml.YAMLError):
            values = None
        if not isinstance(values, dict):
            raise UserError(f"resume={self.folder}: no readable config.yaml there; name the folder of a run")
        return values


def result(folder: Path) -> float | None:
    """A run's objective: its last held-out loss, None when it has none."""
    return RunRecord(folder).read().get("final", {}).get("heldout_loss")


# --------------------------------------------------------------------------------------------------------- metrics.csv
class MetricsFile:
    """`metrics.csv`, opened to go on after `step`: rows of later steps, and a torn last row, are dropped first."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        write_atomically(path, csv_text([COLUMNS, *rows_until(path, step)]))

    def append(self, values: Mapping[str, float | int | None]) -> None:
        """Add one evaluation and push it to disk, so that a checkpoint written later never outlives its rows.

        Raises:
            KeyError: for a value whose column `columns.py` does not know.
        """
        unknown = values.keys() - set(COLUMNS)
        if unknown:
            raise KeyError(f"columns {sorted(unknown)} are not declared in columns.py")
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(csv_text([[format_value(c, values.get(c)) for c in COLUMNS]]))
            file.flush()
            os.fsync(file.fileno())


def csv_text(rows: Iterable[Iterable[str]]) -> str:
    """Rows as `metrics.csv` has them."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def rows_until(path: Path, step: int) -> list[list[str]]:
    """The whole rows of steps up to `step`."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    rows = list(csv.reader(io.StringIO(whole)))[1:]
    return [r for r in rows if len(r) == len(COLUMNS) and r[0].isdigit() and int(r[0]) <= step]

"""The record of a run, `run.json` and `config.yaml`: read, and written so that a crash can't tear it."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from bitnet.common.errors import UserError
from bitnet.common.files import Locked, hold_lock, write_atomically
from bitnet.common.text import shortened
from bitnet.runs import statuses
from bitnet.runs.facts import RunFacts
from bitnet.runs.folders import check_inside, checkpoints
from bitnet.runs.metrics_file import known_evaluations, lost_rows
from bitnet.runs.reading import Unreadable, check_values, read_json_mapping, read_json_or_empty, read_yaml_mapping


class RunLocked(UserError):
    """Another process is working on the run."""


@contextlib.contextmanager
def lock_run(record: RunRecord, *, wait: bool = False) -> Iterator[None]:
    """Hold the run's lock, which the system releases with the process.

    Raises:
        RunLocked: when another process holds it and `wait` is not asked for.
        UserError: when there is no such folder, or its file system grants no locks.
    """
    if not record.folder.is_dir():  # a lock would make it again
        raise UserError(f"{record.folder}: the folder is gone")
    check_inside(record.folder.resolve(), record.folder.resolve())  # before the lock, which is a file in it
    try:
        with hold_lock(record.lock, wait=wait):
            yield
    except Locked:
        raise RunLocked(f"{record.folder}: another process is working on this run") from None


def is_worked_on(record: RunRecord) -> bool:
    """Whether a process holds the run's lock, which is taken for a moment to find out."""
    try:
        with lock_run(record):
            return False
    except RunLocked:
        return True
    except (UserError, OSError):  # nobody can hold it
        return False


SCHEMA = 1


_YamlDumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def utc_now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


# What a run is called and belongs to in the sweep that its folder lies in; the rest is the run's own, wherever it lies.
_OWN_FACTS = {
    "label", "arm", "sweep", "scale", "published", "overrides", "choices", "written", "branch", "branch_at", "created", "command",
}  # fmt: skip


def declare_sweep(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write down what a sweep asks and claims before its first run: `sweep.json`, which keeps every version with its time."""
    path = folder / "sweep.json"
    versions = read_json_or_empty(path).get("declared")
    if not isinstance(versions, list) or not all(isinstance(version, dict) for version in versions):
        versions = []
    if not versions or {k: v for k, v in versions[-1].items() if k != "at"} != dict(facts):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"declared": [*versions, {"at": utc_now(), **facts}]}, indent=2) + "\n")


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a run, as every reader of this version understands it.

    Raises:
        Unreadable: there is no `run.json`, it is torn, of another version, or holds what no run can have written.
    """
    record = read_json_mapping(folder / "run.json")
    if record.get("schema") != SCHEMA:
        raise Unreadable(f"run.json: schema={_shown(record.get('schema'))}, this version reads {SCHEMA}")
    if record.get("status") not in statuses.STORED:
        raise Unreadable(f"run.json: status={_shown(record.get('status'))} is none of {', '.join(statuses.STORED)}")
    check_values(RunFacts, record, "run.json")
    return record


def _shown(value: Any) -> str:
    return shortened(repr(value), 60)


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
        return read_json_or_empty(self.folder / "run.json", RunFacts)

    def set_aside(self) -> str | None:
        """Rename a `run.json` that can't be read to `run.json.damaged`; what is to be said of it, None where nothing is."""
        place = self.folder / "run.json"
        try:
            read_json_mapping(place, RunFacts)
        except Unreadable as error:
            if place.is_file():
                place.replace(place.with_name("run.json.damaged"))
                return f"{self.folder.name}: {error}; kept as run.json.damaged and written anew"
        return None

    def frozen(self) -> dict[str, Any]:
        """`run.json` of a run that is to go on.

        Raises:
            UserError: when it is lost, or is not a run's.
        """
        try:
            return read_record(self.folder)
        except Unreadable as error:
            again = "repeat the command that started the run, which goes on from its last checkpoint"
            raise UserError(f"resume={self.folder}: {error}; {again}") from None

    def update(self, **facts: Any) -> dict[str, Any]:
        """Set keys of `run.json`, keeping the others; a status that is set is on the disk on return."""
        record = read_json_or_empty(self.folder / "run.json") | facts  # untyped: what one value makes unreadable is kept
        write_atomically(self.folder / "run.json", json.dumps(record, indent=2) + "\n", lasting="status" in facts)
        return record

    def create(self, config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """A queued run: its frozen configuration and what is known before it starts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write_config(config)
        self.update(schema=SCHEMA, status=statuses.QUEUED, reason=None, step=0, created=utc_now(), **facts)

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

    def lost_rows(self, eval_every: int) -> str | None:
        """What `metrics.csv` lacks of a run with a result, in words; None where it lacks nothing, and of any other run."""
        known = self.read()
        if known.get("status") not in statuses.FINAL:
            return None
        return lost_rows(self.metrics, known_evaluations(known["status"], int(known.get("step") or 0), eval_every))

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
            return read_yaml_mapping(self.folder / "config.yaml")
        except Unreadable as error:
            raise UserError(f"resume={self.folder}: no readable config.yaml there ({error}); name the folder of a run") from None


def last_heldout_loss(folder: Path) -> float | None:
    """A run's objective: its last held-out loss, None when it has none."""
    return (RunRecord(folder).read().get("final") or {}).get("heldout_loss")

"""What will become of the runs that a command asks for: what each is, costs and leaves, and what would stop it.

Starts nothing and writes nothing: data that is not prepared stays so, and what depends on it is None.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bitnet.cli.overrides import key_of, readable_overrides
from bitnet.common.console import command_name
from bitnet.common.errors import UserError
from bitnet.common.stopping import interruptible
from bitnet.config.base import boundary_step, value_at
from bitnet.config.data import BPETokenizer, GPT2Tokenizer, HubData, SyntheticData
from bitnet.config.identity import digest, identity, source_key
from bitnet.config.run import RunConfig
from bitnet.data.prepared import Prepared, find
from bitnet.data.run_data import batches_and_heldout
from bitnet.planning import cost
from bitnet.planning.request import Placement, RunRequest
from bitnet.planning.warnings import Notice, check_folders, check_machine, few_seeds, machine_busy, merge_notices, same_runs
from bitnet.runs.reading import Unreadable
from bitnet.runs.record import RunRecord, read_record
from bitnet.runs.statuses import FAILED, FINAL, UNREADABLE
from bitnet.sweep.branching import candidate
from bitnet.sweep.freeze import folder_of
from bitnet.training.branches import Candidate, plan_branches
from bitnet.training.device import pick_device

_GPT2_VOCABULARY = 50_257

_TYPICAL = ("steps", "batch_size", "seq_len", "seed", "eval_every", "precision")  # keys that are shown, typed or not

Shape = tuple[str, int]  # what decides a run's costs: `cost.shape_of`, and the size of the vocabulary


@dataclass(frozen=True)
class Forecast:
    """One run: None is what can't be known before its data is prepared, or was not measured.

    `steps`: at which step it ends, of `asked_steps`; `done`: from which checkpoint it goes on; `tokens`: up to its end;
    `seconds`: from now on, alone on the machine; `memory`: bytes on its device; `disk`: bytes when it is over; `trunk`: the
    place of the run whose first `done` steps it shares; `folder`: where it lies, or will.
    """

    run_id: str | None
    arm: str | None
    settings: dict[str, str]
    state: str
    finished: bool
    parameters: int
    memory: int
    steps: int | None
    asked_steps: int
    done: int
    tokens: int | None
    seconds: float | None
    disk: int
    checkpoint: int
    trunk: int | None = None
    folder: Path | None = None


# ---------------------------------------------------------------------------------------------------------------- data
@dataclass(frozen=True)
class Tokens:
    """A run's data. What is not `prepared` is stood in for: the vocabulary as the configuration has it, at most, and no tokens;
    those of a synthetic source are `counted` beforehand.
    """

    data: Prepared
    prepared: bool
    counted: bool


def tokens_of(config: RunConfig) -> Tokens:
    """The data of a run, looked for and not made.

    Raises:
        UserError: the source or the tokenizer can't be used.
    """
    if (found := find(config.data, config.tokenizer)) is not None:
        return Tokens(found, True, True)
    lengths = (0, 0)
    if isinstance(config.data, SyntheticData):
        vocab_size, lengths = config.data.vocab_size, (config.data.tokens, config.data.heldout_tokens)
    else:
        vocab_size = config.tokenizer.vocab_size if isinstance(config.tokenizer, BPETokenizer) else _GPT2_VOCABULARY
    train, heldout = (np.broadcast_to(np.uint16(0), n) for n in lengths)  # no memory, whatever the length
    stand_in = Prepared(Path(config.data.cache), vocab_size, train, heldout, "", 0.0, {})
    return Tokens(stand_in, False, lengths[0] > 0)


def _unprepared(config: RunConfig, tokens: Tokens) -> str:
    """What it means that the data is not there yet."""
    unknown = "run ids and earlier results"
    guessed = ""
    if not tokens.counted:
        unknown = "run ids, earlier results and the length of the data"
        guessed = f"; assuming a vocabulary of {tokens.data.vocab_size:,} and the number of steps asked for"
    online = isinstance(config.data, HubData) or (isinstance(config.tokenizer, GPT2Tokenizer) and config.tokenizer.path is None)
    hub = ", from the Hugging Face hub or its cache" if online else ""
    make = f"{command_name('prepare')} with the same data= and tokenizer=, or the first run, prepares it{hub}"
    return f"data={config.data.source} is not prepared: {unknown} are unknown{guessed}. {make}"


def _last_step(config: RunConfig, prepared: Prepared, notices: list[Notice], number: int) -> int | None:
    """The last step that the data allows; None when it can't be carried out at all."""
    try:
        batches, _ = batches_and_heldout(config, prepared)
    except UserError as error:
        notices.append(Notice("error", str(error), (number,)))
        return None
    last = batches.last_step
    if last is None or last >= config.steps:
        return config.steps
    boundaries = {boundary_step(b, config.steps) for p in (config.lr, config.wd) if (b := getattr(p, "boundary", None))}
    missed = [b for b in sorted(boundaries) if last < b]
    never = f", before stage 2 begins at step {missed[0]:,}" if missed else ""
    remedy = f"steps={last} fits the schedules to the data, stream=shuffled repeats the data"
    text = f"a single pass over the data ends at step {last:,} of {config.steps:,}{never}; {remedy}"
    notices.append(Notice("note", text, (number,)))
    return last


# ------------------------------------------------------------------------------------------------------------ one run
def settings(asked: Sequence[RunRequest]) -> list[dict[str, str]]:
    """For each run what a person would type to get it: its groups' options, the usual keys, and every key typed for any."""
    typed = [key_of(o) for a in asked for o in readable_overrides(a.overrides, seed=False)]
    groups = {k for a in asked for k in a.choices}
    keys = [*_TYPICAL, *dict.fromkeys(k for k in typed if k not in groups and k not in _TYPICAL)]
    rows = []
    for a in asked:
        values = a.config.model_dump(mode="json")
        options = {k: v for k, v in a.choices.items() if k not in {"sweeps", "launcher"}}
        rows.append(options | {k: "" if (value := value_at(values, k)) is None else str(value) for k in keys})
    return rows


def _stored_status(config: RunConfig, folder: Path) -> tuple[str, bool, int]:
    """How the run stands on disk, in words; whether it is over; the step of its newest checkpoint."""
    if config.overwrite or not any((folder / name).exists() for name in ("run.json", "metrics.csv")):
        return "new", False, 0
    status = RunRecord(folder).read().get("status")
    finished = status in FINAL
    try:
        read_record(folder)
    except Unreadable as error:
        status = f"{UNREADABLE} ({error})"
    if finished:
        return status, True, 0
    saved = RunRecord(folder).saved_step
    if status == FAILED and config.launcher.retry == 0:
        return "failed, skipped", True, 0
    return f"{status}, resumes after step {saved:,}" if saved else f"{status}, starts over", False, saved


def _one(
    asked: RunRequest, shown: dict[str, str], tokens: Tokens, size: cost.Footprint, number: int
) -> tuple[Forecast, list[Notice]]:
    """The forecast of a run, without its time, and what is to be said of its data."""
    config, notices = asked.config, []
    if not tokens.prepared:
        notices.append(Notice("note", _unprepared(config, tokens), (number,)))
    steps = config.steps if config.data.at_end == "repeat" else None
    if tokens.counted:
        steps = _last_step(config, tokens.data, notices, number)
    run_id = digest(_identity(config, tokens)) if tokens.prepared else None
    folder = asked.folder
    if folder is None and run_id is not None:
        folder = folder_of(config, readable_overrides(asked.overrides, seed=True), run_id)
    state, finished, done = ("unknown", False, 0) if folder is None else _stored_status(config, folder)
    if config.overwrite and folder is not None and RunRecord(folder).read().get("status") in FINAL:
        notices.append(Notice("note", "overwrite=true: existing results will be discarded", (number,)))
    ends = config.steps if steps is None else steps
    forecast = Forecast(
        run_id=run_id,
        arm=asked.arm,
        settings=shown,
        state=state,
        finished=finished,
        parameters=size.parameters,
        memory=size.memory,
        steps=steps,
        asked_steps=config.steps,
        done=done,
        tokens=None if steps is None else steps * config.batch_size * config.seq_len,
        seconds=0.0 if finished else None,
        disk=cost.disk_bytes(size.checkpoint, config.checkpoint, ends, config.eval_every),
        checkpoint=size.checkpoint,
        folder=folder,
    )
    return forecast, notices


def _identity(config: RunConfig, tokens: Tokens) -> dict[str, Any]:
    """What tells a run from others; data that is not prepared goes by its configuration."""
    return identity(config, tokens.data.sha256 if tokens.prepared else source_key(config))


# ------------------------------------------------------------------------------------------------------------ all runs
def forecast_all(
    asked: Sequence[RunRequest], place: Placement, *, measuring: bool, say: Callable[[str], None]
) -> tuple[list[Forecast], list[Notice]]:
    """Every run, with its time where that is measured, and what is to be said of them, errors first.

    Raises:
        UserError: when a source or a tokenizer can't be used.
    """
    sources = {source_key(a.config): a.config for a in asked}  # arms share their data: looked at once
    found = {source: tokens_of(config) for source, config in sources.items()}
    tokens = [found[source_key(a.config)] for a in asked]
    shapes = [(cost.shape_of(a.config), t.data.vocab_size) for a, t in zip(asked, tokens, strict=True)]
    sizes = {shape: cost.footprint(a.config, shape[1]) for shape, a in dict(zip(shapes, asked, strict=True)).items()}
    each = zip(asked, settings(asked), tokens, shapes, strict=True)
    drawn = [_one(a, shown, t, sizes[shape], n) for n, (a, shown, t, shape) in enumerate(each, 1)]
    runs = _branched(asked, tokens, [run for run, _ in drawn], place)
    identities = [_identity(a.config, t) for a, t in zip(asked, tokens, strict=True)]
    notices = [notice for _, of_run in drawn for notice in of_run]
    notices += [*same_runs(identities), *few_seeds(asked[0].config, identities), *check_folders(asked[0].config, runs, place)]
    machine = check_machine(runs, place)
    if measuring and not any(f.kind == "error" for f in machine):
        notices += machine_busy(place)
        seconds = _seconds(asked, runs, shapes, place, say)
        runs = [replace(r, seconds=s) for r, s in zip(runs, seconds, strict=True)]
    return runs, merge_notices(notices + machine, len(asked))


def _branched(
    asked: Sequence[RunRequest], tokens: Sequence[Tokens], runs: Sequence[Forecast], place: Placement
) -> list[Forecast]:
    """The runs, with those of a sweep that go on from another one's steps.

    Not where a launcher that is not the project's decides how many are at work at once, or a cluster: no run waits there.
    """
    if place.at_once is None or len(runs) == 1:
        return list(runs)
    drawn = list(runs)
    sweeps: dict[str | None, list[int]] = defaultdict(list)
    for number, a in enumerate(asked):
        sweeps[a.config.sweep_name].append(number)
    for members in sweeps.values():
        plan = plan_branches([_candidate(asked[m], tokens[m], runs[m]) for m in members])
        for member, branch in zip(members, plan, strict=True):
            run = drawn[member]
            if branch is not None and not run.finished and not run.done:
                trunk = members[branch.trunk]
                state = f"{run.state}, shares the first {branch.step:,} steps of run {trunk + 1}"
                drawn[member] = replace(run, state=state, done=branch.step, trunk=trunk)
    return drawn


def _candidate(asked: RunRequest, tokens: Tokens, run: Forecast) -> Candidate:
    data_sha256, last_step = tokens.data.sha256 or source_key(asked.config), run.steps or asked.config.steps
    record = None if run.folder is None else RunRecord(run.folder)
    return candidate(asked.config, data_sha256, last_step, record, ended=run.finished, saved=run.done)


# ---------------------------------------------------------------------------------------------------------------- time
def _seconds(
    asked: Sequence[RunRequest], runs: Sequence[Forecast], shapes: Sequence[Shape], place: Placement, say: Callable[[str], None]
) -> list[float]:
    """Seconds of each run from now on, from one measurement for each shape."""
    device = pick_device(place.device)
    todo = {shape: a.config for shape, a, run in zip(shapes, asked, runs, strict=True) if not run.finished}
    speeds = {}
    for n, (shape, config) in enumerate(todo.items(), 1):
        say(f"measuring {n} of {len(todo)}: a few steps and an evaluation")
        measure = functools.partial(cost.measure, config, shape[1], device, config.threads or place.threads)
        speeds[shape] = interruptible(measure)  # a step of a large model is one call of torch's
    return [
        0.0 if run.finished else speeds[shape].seconds(run.done, run.steps or a.config.steps, a.config.eval_every)
        for shape, run, a in zip(shapes, runs, asked, strict=True)
    ]

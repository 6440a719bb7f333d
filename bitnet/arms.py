"""From a sweep to its arms: expand, compose, validate, freeze, launch those that are not finished, and count what came of it."""

from __future__ import annotations

import functools
import itertools
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from bitnet import branches, pool, scaling, slurm
from bitnet.called import called
from bitnet.claims import without_runs
from bitnet.compose import Composer, choices, plain, without_hydra
from bitnet.config import RunConfig, knobs, load
from bitnet.errors import UserError, nearest
from bitnet.freeze import Queued, Resolved, freeze, resolve, say
from bitnet.identity import digest, identity, source_key
from bitnet.launching import SweepConfig
from bitnet.overrides import key_of, normalise, quoted, readable_overrides
from bitnet.records import FINAL, RunRecord, declare, provenance, result


@dataclass(frozen=True)
class Arm:
    """One run of a sweep: what to override, and the arm of the sweep file that it came from.

    `written`: the sweep file's own overrides, before any scale. Its claims name runs by them.
    """

    name: str | None
    overrides: tuple[str, ...]
    written: tuple[str, ...] = ()


def typed(composed: DictConfig) -> RunConfig:
    """The typed configuration of what Hydra composed.

    Raises:
        UserError: when a value can't be used.
    """
    return load(plain(without_hydra(composed)))


def expand(sweep: SweepConfig | None, typed_keys: set[str]) -> list[Arm]:
    """Every arm of a sweep, seeds outermost, so that one whole comparison is there early.

    Args:
        sweep: the named sweep, if there is one: its arms x grid x seeds.
        typed_keys: keys that the command line sets; it beats the file, in arms, grid and seeds alike.
    """
    named: Mapping[str, str] = {} if sweep is None else sweep.arms
    arms = [
        (name, tuple(o for o in map(normalise, shlex.split(text)) if key_of(o) not in typed_keys)) for name, text in named.items()
    ]
    grid = {} if sweep is None else {k: v for k, v in sweep.grid.items() if k not in typed_keys}
    seeds = [] if sweep is None or "seed" in typed_keys else sweep.seeds
    lists = [[normalise(f"{k}={v}") for v in values] for k, values in grid.items()]
    seed_overrides = [(f"seed={s}",) for s in seeds] or [()]
    return [
        Arm(name, (*arm, *rest, *seed), (*arm, *rest))
        for seed in seed_overrides
        for name, arm in arms or [(None, ())]
        for rest in itertools.product(*lists)
    ]


def arms_of(
    loader: ConfigLoader, config: RunConfig, options: Mapping[str, str], params: Mapping[str, str], arguments: list[str]
) -> list[Arm]:
    """Every arm of a multirun: what the command line asks for times what the named sweep does, at the scale that is asked for.

    Args:
        config, options: of the sweep without its arms: its values, and what each group chose.
        params: Hydra's `sweeper.params`; axes like those of the command line.
        arguments: overrides of the command line, sweeps among them.
    Raises:
        UserError: when the sweep's file has another sweep's name.
    """
    written = [normalise(f"{k}={v}") for k, v in params.items()] + [normalise(a) for a in arguments]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(written)
    (product,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    typed_keys = {o.get_key_element().lstrip("+~") for o in parsed}
    named, scale = config.sweep, config.scale
    if named is not None and "sweep.name" not in typed_keys and named.name != (file := _file_name(options, named)):
        raise UserError(f"sweeps={file}: its file says sweep.name={named.name}, another sweep's folder; write name: {file}")
    if scale is None:
        return [replace(a, overrides=(*fixed, *a.overrides)) for a in expand(named, typed_keys) for fixed in product]
    if named is not None and scale.seeds:
        named = named.model_copy(update={"seeds": scale.seeds})
    base = scaling.base_overrides(scale, config, options, typed_keys)
    scaled = [replace(a, overrides=scaling.scaled_arm(scale, a.overrides)) for a in expand(named, typed_keys)]
    return [
        replace(a, overrides=(*fixed, *scaling.without(base, a.overrides), *a.overrides)) for a in scaled for fixed in product
    ]


def _file_name(options: Mapping[str, str], named: SweepConfig) -> str:
    """What the sweep's file is called; its name, where no file was chosen."""
    return PurePosixPath(options.get("sweeps", named.name)).name.removesuffix(".yaml")


def sweep(loader: ConfigLoader, master: DictConfig, launcher: Launcher, params: Mapping[str, str], arguments: list[str]) -> Any:
    """Carry out a multirun: the body of the project's Hydra sweeper.

    Raises:
        UserError: before any work, when an arm can't be composed, is invalid, or equals another arm.
        SystemExit: with code 1, at the end, when a run failed.
    """
    config = typed(master)
    arms = arms_of(loader, config, choices(master.hydra), params, arguments)
    on_cluster = "slurm" in str(master.hydra.launcher.get("_target_", "")).lower()
    composer = Composer(loader, master)
    composed = [composer.arm(a.overrides) for a in arms]
    check_claims(config.sweep, arms, composed)
    queued = _enqueue_all(arms, composed, on_cluster)
    if config.sweep is not None:
        _declare(queued, config.sweep, config.scale_name)
    todo = [q for q in queued if not _is_left(q, config)]
    say(f"{len(queued)} runs, {len(queued) - len(todo)} of them finished before, below {queued[0].folder.parent}")
    try:
        returned = launcher.launch([[f"resume={quoted(str(q.folder))}"] for q in todo], initial_job_idx=0) if todo else []
    except KeyboardInterrupt:
        begun = sum(RunRecord(q.folder).read().get("step", 0) > 0 for q in todo if not _is_final(q))
        over = sum(map(_is_final, queued))
        say(f"interrupted: {over} runs over, {begun} saved on their way, the rest not begun; the same command goes on")
        raise
    if todo and config.launcher.kind == "slurm" and not config.launcher.wait:
        look = f"{called('status')} {shlex.quote(str(queued[0].folder.parent))}"
        say(f"look on: {look}; the same command again submits what is missing")
        return returned
    branches.tidy([q.folder for q in queued])
    _summary(queued)
    return returned


def _declare(queued: list[Queued], sweep: SweepConfig, scale: str | None) -> None:
    """Write down what the sweep claims, with the seeds and the scale that it is really run with."""
    seeds = sorted({int(RunRecord(q.folder).read()["seed"]) for q in queued})
    said = sweep.model_dump(mode="json") | {"seeds": seeds}
    declare(queued[0].folder.parent, {"sweep": said, "scale": scale})


def _is_final(run: Queued | Resolved) -> bool:
    return RunRecord(run.folder).read().get("status") in FINAL


def _enqueue_all(
    arms: Sequence[Arm], composed: Sequence[tuple[dict[str, Any], dict[str, str]]], on_cluster: bool
) -> list[Queued]:
    """Validate all arms as they were composed, then freeze them; two that resolve to the same run are an error."""
    configs = [load(values) for values, _ in composed]
    overrides = [readable_overrides(a.overrides, seed=True) for a in arms]
    # once before any data is prepared, which takes minutes, and once more, since two spellings can name the same data
    _check_different([digest(identity(c, source_key(c))) for c in configs], arms)
    resolved = [resolve(c, o, check_device=not on_cluster) for c, o in zip(configs, overrides, strict=True)]
    _check_different([r.run_id for r in resolved], arms)
    if configs[0].launcher.kind == "slurm" and any(not _is_final(r) for r in resolved):
        slurm.check_answers()
    queued = [_freeze(run, arm, options) for run, arm, (_, options) in zip(resolved, arms, composed, strict=True)]
    _branch(resolved, queued)
    return queued


def check_claims(
    sweep: SweepConfig | None, arms: Sequence[Arm], composed: Sequence[tuple[dict[str, Any], dict[str, str]]]
) -> None:
    """Say which claims of a sweep speak of what the command does not ask for: before they cost what others cost.

    Raises:
        UserError: a claim selects runs by a group or a key that no run can have.
    """
    if sweep is None:
        return
    _refuse_unknown_keys(sweep, {"arm", *(group for _, options in composed for group in options)})
    longest = max(values["steps"] for values, _ in composed)
    if late := [name for name, claim in sweep.claims.items() if claim.latest_step() > longest]:
        say(f"note: claims about steps beyond the last, {longest:,}: {', '.join(late)}; they stay inconclusive")
    runs = [(_written(arm) | {"arm": arm.name}, options, values) for arm, (values, options) in zip(arms, composed, strict=True)]
    if lacking := without_runs(sweep.claims, runs):
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        say(f"note: claims about runs that this command does not ask for: {', '.join(lacking[:3])}{more}; they stay inconclusive")


def _refuse_unknown_keys(sweep: SweepConfig, groups: set[str]) -> None:
    named = [(f"{name}.{side}", of) for name, claim in sweep.claims.items() for side, of in claim.selectors().items()]
    for place, key in ((place, key) for place, of in named if not isinstance(of, str) for key in of):
        parent, _, leaf = key.rpartition(".")
        known = knobs(parent) if parent else knobs() | groups
        if leaf not in known:
            raise UserError(f"sweep.claims.{place}: {key}: no such group or key{nearest(leaf, known)}")


def _written(arm: Arm) -> dict[str, str]:
    """What the sweep's file wrote for an arm, by key."""
    return {key_of(o): o.partition("=")[2].strip("'\"") for o in arm.written}


def _told(arm: Arm) -> str:
    """An arm by its name, if it has one, and its overrides."""
    own = f"[{' '.join(readable_overrides(arm.overrides, seed=True)) or 'defaults'}]"
    return own if arm.name is None else f"'{arm.name}' {own}"


def _check_different(ids: Sequence[str], arms: Sequence[Arm]) -> None:
    seen: dict[str, Arm] = {}
    for run_id, arm in zip(ids, arms, strict=True):
        if run_id in seen:
            first, second = _told(seen[run_id]), _told(arm)
            raise UserError(f"two arms of the sweep resolve to the same run: {first} and {second}")
        seen[run_id] = arm


def _branch(resolved: list[Resolved], queued: list[Queued]) -> None:
    """Let runs that begin alike train their common steps once."""
    records = [RunRecord(q.folder) for q in queued]
    left = [_is_left(q, r.config) for q, r in zip(queued, resolved, strict=True)]

    def can_be_trunk(place: int, step: int) -> bool:
        """A run that will not be at work again has to have kept the checkpoint."""
        return not left[place] or branches.kept(records[place], step) is not None

    candidates = [
        branches.Candidate(r.config, r.prepared.sha256, r.last_step, functools.partial(can_be_trunk, place))
        for place, r in enumerate(resolved)
    ]
    branches.promise(branches.plan(candidates), records)


def _is_left(run: Queued, config: RunConfig) -> bool:
    """Whether a launch leaves the run as it is: it is over, or failed and is not to be repeated."""
    return run.finished or (config.launcher.retry == 0 and RunRecord(run.folder).read().get("status") == "failed")


def _freeze(run: Resolved, arm: Arm, options: dict[str, str]) -> Queued:
    label = ",".join(readable_overrides(arm.overrides, seed=False)) or "defaults"
    return freeze(run, label=label, arm=arm.name, written=_written(arm), choices=options, provenance=provenance())


def enqueue(config: RunConfig, overrides: Sequence[str], options: dict[str, str], *, here: bool = True) -> Queued:
    """Validate and freeze the one run that `config` describes; `options` has what each group chose.

    Args:
        here: whether the run is for this machine; if not, its device is not looked for.
    Raises:
        UserError: before anything of the run is written.
    """
    if here and config.launcher.kind == "slurm":
        raise UserError("launcher=slurm: it submits sweeps, and this is a single run for this machine; add -m to submit it")
    if config.scale is not None and config.sweep is None:
        say(f"note: scale={config.scale.name} sizes sweeps; this run has model={options['model']} steps={config.steps}")
    run = resolve(config, readable_overrides(overrides, seed=True), check_device=here)
    return _freeze(run, Arm(None, tuple(overrides)), options)


def launch_here(
    loader: ConfigLoader, master: DictConfig, jobs: Sequence[Sequence[str]], at_once: int | None, per_gpu: int
) -> list[JobReturn]:
    """Run Hydra jobs in processes of their own on this machine: the body of the project's Hydra launcher.

    Jobs of the project's sweeper name a frozen run each; those of another sweeper are frozen here first.
    """
    composer = Composer(loader, master)
    folders = [_folder_of(composer, overrides, here=True) for overrides in jobs]
    device = load(RunRecord(folders[0]).config()).device
    codes = pool.run_all(list(dict.fromkeys(folders)), device, at_once, per_gpu)
    return _returns(folders, jobs, {folder for folder in folders if codes.get(folder, 0) != 0})


def launch_on_slurm(
    loader: ConfigLoader, master: DictConfig, jobs: Sequence[Sequence[str]], parameters: Mapping[str, Any]
) -> list[JobReturn]:
    """Run Hydra jobs as SLURM jobs, frozen as in `launch_here`; what came of them is read from disk.

    Args:
        parameters: see `slurm.run_all`. Without `wait`, what is not over yet counts as failed.
    """
    composer = Composer(loader, master)
    folders = [_folder_of(composer, overrides, here=False) for overrides in jobs]
    slurm.run_all(folders, parameters)
    return _returns(folders, jobs, {f for f in folders if RunRecord(f).read().get("status") not in FINAL})


def _returns(folders: Sequence[Path], jobs: Sequence[Sequence[str]], failed: set[Path]) -> list[JobReturn]:
    """What Hydra's sweepers get to see: each run's objective, or why it failed."""
    returned = []
    for folder, overrides in zip(folders, jobs, strict=True):
        job = JobReturn(overrides=list(overrides), working_dir=str(folder))
        reason = UserError(f"{folder}: {RunRecord(folder).read().get('reason')}") if folder in failed else None
        job.status = JobStatus.COMPLETED if reason is None else JobStatus.FAILED
        job.return_value = result(folder) if reason is None else reason
        returned.append(job)
    return returned


def _folder_of(composer: Composer, overrides: Sequence[str], *, here: bool) -> Path:
    given = {o.key_or_group: o.value() for o in composer.parser.parse_overrides(list(overrides)) if o.key_or_group == "resume"}
    if "resume" in given:
        return Path(str(given["resume"]))
    values, options = composer.arm(overrides)
    return enqueue(load(values), overrides, options, here=here).folder


def _summary(queued: list[Queued]) -> None:
    """Counts by status from disk, each run that did not end well, and what to type next."""
    records = [(q.folder, RunRecord(q.folder).read()) for q in queued]
    counts = Counter(r.get("status", "missing") for _, r in records)
    for folder, record in records:
        if record.get("status") not in {"done"}:
            say(f"{record.get('status', 'missing')}: {folder.name}: {record.get('reason')}")
    say(", ".join(f"{n} {status}" for status, n in counts.items()))
    say(f"tables: {called('report')} {shlex.quote(str(queued[0].folder.parent))}")
    if set(counts) - set(FINAL):
        raise SystemExit(1)

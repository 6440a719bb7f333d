"""A command's runs from their expansion to their end: validate, freeze, launch the unfinished ones, count the outcomes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from bitnet.cli.compose import Composer, Options
from bitnet.cli.overrides import readable_overrides
from bitnet.cli.quoting import quote
from bitnet.common.console import command_name, say
from bitnet.common.errors import UserError
from bitnet.common.text import counted, without_interpolation
from bitnet.config.identity import digest, identity, source_key
from bitnet.config.run import RunConfig, load_config
from bitnet.config.sweep import SweepConfig
from bitnet.launch import local, slurm
from bitnet.runs import trunk
from bitnet.runs.provenance import provenance
from bitnet.runs.reading import Unreadable
from bitnet.runs.record import RunRecord, declare_sweep, last_heldout_loss, read_record
from bitnet.runs.statuses import DONE, FINAL, UNREADABLE, count_statuses
from bitnet.sweep.arms import Arm
from bitnet.sweep.branching import is_skipped, share_first_steps
from bitnet.sweep.check_claims import check_claims
from bitnet.sweep.expand import ComposedArm, expand
from bitnet.sweep.freeze import QueuedRun, ResolvedRun, freeze, resolve


def run_sweep(loader: ConfigLoader, master: DictConfig, launcher: Launcher, arguments: list[str]) -> Any:
    """Carry out a multirun: the body of the project's Hydra sweeper.

    Raises:
        UserError: before any work, when an arm can't be composed, is invalid, or equals another arm.
        SystemExit: with code 1, at the end, when a run failed.
    """
    config, arms = expand(loader, master, arguments)
    on_cluster = "slurm" in str(master.hydra.launcher.get("_target_", "")).lower()
    check_claims(config.sweep, arms, Options.of(master.hydra))
    _check_devices(config.device, master)
    queued = _freeze_all(arms, on_cluster)
    if config.sweep is not None:
        seeds = sorted({c.config.seed for c in arms})
        declare_sweep(queued[0].folder.parent, _declaration(config.sweep, seeds, config.scale_name))
    todo = [q for q in queued if not is_skipped(q, config)]
    say(f"{counted(len(queued), 'run')}, {len(queued) - len(todo)} of them finished before, in {queued[0].folder.parent}")
    try:
        returned = launcher.launch([_resumption(q.folder, config) for q in todo], initial_job_idx=0) if todo else []
    except KeyboardInterrupt:
        begun = sum(RunRecord(q.folder).read().get("step", 0) > 0 for q in todo if not _is_final(q))
        over = sum(map(_is_final, queued))
        ended = f"{counted(over, 'run')} finished, {begun} saved partway, the rest not started"
        say(f"interrupted: {ended}; the same command resumes")
        raise
    if todo and config.launcher.kind == "slurm" and not config.launcher.wait:
        look = f"{command_name('status')} {shlex.quote(str(queued[0].folder.parent))}"
        say(f"watch: {look}; the same command again submits what is missing")
        return returned
    trunk.remove_branch_checkpoints([q.folder for q in queued])
    _summary(queued)
    return returned


def _check_devices(device: str, master: DictConfig) -> None:
    """Raise UserError for several GPUs with a launcher that does not share them among the runs."""
    if "," in device and "bitnet_launcher" not in master.hydra.launcher.get("_target_", ""):
        name = master.hydra.runtime.choices["hydra/launcher"]
        raise UserError(f"device={device}: hydra/launcher={name} does not share GPUs among runs; launcher=local does")


def _resumption(folder: Path, config: RunConfig) -> list[str]:
    """The overrides of a Hydra job that carries a frozen run out: its folder, and the one that Hydra makes, which is there."""
    places = {"resume": str(folder), "hydra.sweep.dir": config.out}
    return [f"{key}={quote(without_interpolation(place))}" for key, place in places.items()]


def _declaration(sweep: SweepConfig, seeds: list[int], scale: str | None) -> dict[str, Any]:
    """What the sweep claims, with the seeds and the scale that it is really run with."""
    return {"sweep": sweep.model_dump(mode="json") | {"seeds": seeds}, "scale": scale}


def _is_final(run: QueuedRun | ResolvedRun) -> bool:
    return RunRecord(run.folder).read().get("status") in FINAL


def _freeze_all(composed: Sequence[ComposedArm], on_cluster: bool) -> list[QueuedRun]:
    """Validate all arms, then freeze them; two that resolve to the same run are an error."""
    arms, configs = [c.arm for c in composed], [c.config for c in composed]
    overrides = [readable_overrides(a.overrides, seed=True) for a in arms]
    # once before any data is prepared, which takes minutes, and once more, since two spellings can name the same data
    _check_different([digest(identity(c, source_key(c))) for c in configs], arms)
    resolved = [resolve(c, o, check_device=not on_cluster) for c, o in zip(configs, overrides, strict=True)]
    _check_different([r.run_id for r in resolved], arms)
    if configs[0].launcher.kind == "slurm" and any(not _is_final(r) for r in resolved):
        slurm.check_answers()
    queued = [_freeze(run, c.arm, c.choices) for run, c in zip(resolved, composed, strict=True)]
    share_first_steps(resolved, queued)
    for run, q in zip(resolved, queued, strict=True):
        if q.finished and (lost := RunRecord(q.folder).lost_rows(run.config.eval_every)) is not None:
            say(f"note: {q.folder}: finished, but its {lost}; remove the folder, and the same command trains it again")
    return queued


def _describe_arm(arm: Arm) -> str:
    """An arm by its name, if it has one, and its overrides."""
    own = f"[{' '.join(readable_overrides(arm.overrides, seed=True)) or 'defaults'}]"
    return own if arm.name is None else f"'{arm.name}' {own}"


def _check_different(ids: Sequence[str], arms: Sequence[Arm]) -> None:
    seen: dict[str, Arm] = {}
    for run_id, arm in zip(ids, arms, strict=True):
        if run_id in seen:
            first, second = _describe_arm(seen[run_id]), _describe_arm(arm)
            raise UserError(f"two arms of the sweep resolve to the same run: {first} and {second}")
        seen[run_id] = arm


def _freeze(run: ResolvedRun, arm: Arm, options: dict[str, str]) -> QueuedRun:
    label = ",".join(readable_overrides(arm.overrides, seed=False)) or "defaults"
    return freeze(run, label=label, arm=arm.name, written=arm.written_values, choices=options, provenance=provenance())


def freeze_single(config: RunConfig, overrides: Sequence[str], options: dict[str, str], *, here: bool = True) -> QueuedRun:
    """Validate and freeze the one run that `config` describes; `options` has what each group chose.

    Args:
        here: whether the run is for this machine; if not, its device is not looked for.
    Raises:
        UserError: before anything of the run is written.
    """
    if here and config.launcher.kind == "slurm":
        raise UserError("launcher=slurm submits sweeps, and this is a single run; add -m to submit it")
    if config.scale is not None and config.sweep is None:
        say(f"note: scale={config.scale.name} applies to sweeps only; this run has model={options['model']} steps={config.steps}")
    run = resolve(config, readable_overrides(overrides, seed=True), check_device=here)
    return _freeze(run, Arm(None, tuple(overrides)), options)


def launch_local(
    loader: ConfigLoader, master: DictConfig, jobs: Sequence[Sequence[str]], parameters: Mapping[str, Any]
) -> list[JobReturn]:
    """Run Hydra jobs in processes of their own on this machine: the body of the project's Hydra launcher.

    Jobs of the project's sweeper name a frozen run each; those of another sweeper are frozen here first.

    Args:
        parameters: `jobs`, `jobs_per_gpu` and `stalled_minutes`, see `local.run_all`.
    """
    folders = _frozen(loader, master, jobs, here=True)
    codes = local.run_all(list(dict.fromkeys(folders)), _device(folders), **parameters)
    return _returns(folders, jobs, {folder for folder in folders if codes.get(folder, 0) != 0})


def _device(folders: Sequence[Path]) -> str:
    """The device of these runs, as the first says whose configuration can be read; the others end one by one.

    Raises:
        UserError: when none can be read.
    """
    first, *others = folders
    try:
        return load_config(RunRecord(first).config()).device
    except UserError:
        if not others:
            raise
        return _device(others)


def launch_on_slurm(
    loader: ConfigLoader, master: DictConfig, jobs: Sequence[Sequence[str]], parameters: Mapping[str, Any]
) -> list[JobReturn]:
    """Run Hydra jobs as SLURM jobs, frozen as in `launch_local`; what came of them is read from disk.

    Args:
        parameters: see `slurm.run_all`. Without `wait`, what is not over yet counts as failed.
    """
    folders = _frozen(loader, master, jobs, here=False)
    slurm.run_all(folders, parameters)
    return _returns(folders, jobs, {f for f in folders if RunRecord(f).read().get("status") not in FINAL})


def _returns(folders: Sequence[Path], jobs: Sequence[Sequence[str]], failed: set[Path]) -> list[JobReturn]:
    """What Hydra's sweepers get to see: each run's objective, or why it failed."""
    returned = []
    for folder, overrides in zip(folders, jobs, strict=True):
        job = JobReturn(overrides=list(overrides), working_dir=str(folder))
        reason = UserError(f"{folder}: {_end(folder)[1]}") if folder in failed else None
        job.status = JobStatus.COMPLETED if reason is None else JobStatus.FAILED
        job.return_value = last_heldout_loss(folder) if reason is None else reason
        returned.append(job)
    return returned


def _frozen(loader: ConfigLoader, master: DictConfig, jobs: Sequence[Sequence[str]], *, here: bool) -> list[Path]:
    """The run folders of Hydra jobs, as another sweeper than the project's may have proposed them.

    Raises:
        UserError: there are none, or one can't be carried out.
    """
    if not jobs:
        raise UserError("nothing to run: an axis of the command has no values")
    composer = Composer(loader, master)
    return [_folder_of(composer, overrides, here=here) for overrides in jobs]


def _folder_of(composer: Composer, overrides: Sequence[str], *, here: bool) -> Path:
    given = {o.key_or_group: o.value() for o in composer.parser.parse_overrides(list(overrides)) if o.key_or_group == "resume"}
    if "resume" in given:
        return Path(OmegaConf.create(given).resume)
    values, options = composer.arm(overrides)
    return freeze_single(load_config(values), overrides, options, here=here).folder


def _end(folder: Path) -> tuple[str, str | None]:
    """How a run stands, and the reason on record; of a folder that was removed or damaged meanwhile, why it can't be read."""
    try:
        record = read_record(folder)
    except Unreadable as error:
        return UNREADABLE, str(error)
    return record["status"], record.get("reason")


def _summary(queued: list[QueuedRun]) -> None:
    """Counts by status from disk, each run that did not end well, and what to type next."""
    ends = [(q.folder, *_end(q.folder)) for q in queued]
    for folder, status, reason in ends:
        if status != DONE:
            say(f"{status}: {folder.name}: {reason}")
    found = [status for _, status, _ in ends]
    say(count_statuses(found))
    say(f"tables: {command_name('report')} {shlex.quote(str(queued[0].folder.parent))}")
    if set(found) - set(FINAL):
        raise SystemExit(1)

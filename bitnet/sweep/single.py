"""Hydra's task function: one run, frozen and carried out, or a frozen one that is resumed."""

from __future__ import annotations

import functools
import os
import shlex
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bitnet.cli.compose import group_choices
from bitnet.cli.hydra_errors import complain
from bitnet.cli.overrides import key_of
from bitnet.common.console import command_name, say
from bitnet.common.errors import UserError, is_disk_error, one_line
from bitnet.config.base import value_at
from bitnet.config.run import load_config

# as the user set it: `main` sets it too, for Hydra to hand errors over instead of printing them
FULL_ERROR = os.environ.get("HYDRA_FULL_ERROR") == "1"


def task(cfg: DictConfig) -> float | None:
    """One run; returns its last held-out loss."""
    try:
        return _run(cfg)
    except (UserError, OmegaConfBaseException) as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise  # recorded by the launcher, so that the other jobs go on
        # an Exception would make Hydra print a line of its own first
        raise SystemExit(complain(error)) from None


def _run(cfg: DictConfig) -> float | None:
    """The frozen run that `resume` names, or the one that `cfg` describes."""
    from bitnet.cli import compose
    from bitnet.sweep import controller

    if cfg.resume is None or HydraConfig.get().mode != RunMode.MULTIRUN:  # a sweep's jobs are told where Hydra may write
        compose.refuse_folders_of_hydra(HydraConfig.get())
    # as typed: an interpolation among them means a key of the run, and Hydra's own part has no such key
    overrides = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    if cfg.resume is not None:
        folder = Path(cfg.resume).expanduser().resolve()
        _amend(cfg, folder, overrides)
        return _execute(folder)
    if "," in str(cfg.device):
        raise UserError(f"device={cfg.device}: a run has one device; the runs of a sweep share several (-m, or sweeps=NAME)")
    return _execute(controller.freeze_single(compose.run_config(cfg), overrides, group_choices(HydraConfig.get())).folder)


def _execute(folder: Path) -> float | None:
    """`training.execute.execute`; in a single run, a failure that is on record is one line and exit code 1."""
    from bitnet.runs.record import RunRecord, last_heldout_loss
    from bitnet.runs.statuses import FINAL
    from bitnet.training import execute

    alone = HydraConfig.get().mode != RunMode.MULTIRUN
    try:
        if alone and RunRecord(folder).read().get("status") in FINAL:
            lost = RunRecord(folder).lost_rows(load_config(RunRecord(folder).config()).eval_every)
            but = "" if lost is None else f", but its {lost}"
            say(f"{folder}: finished before{but}; add overwrite=true to its original command to repeat it")
            return last_heldout_loss(folder)
        objective = execute.execute(folder)
        if alone:
            reason = RunRecord(folder).read().get("reason")
            say(f"{folder}: {reason or 'done'}\ntables: {command_name('report')} {shlex.quote(str(folder))}")
        return objective
    except UserError:
        raise
    except Exception as error:
        trace = folder / "error.txt"
        if FULL_ERROR or not alone or not (trace.exists() or is_disk_error(error)):
            raise
        say(f"error: {one_line(error)}{'' if is_disk_error(error) else f' (traceback in {trace})'}")
        raise SystemExit(1) from None


def _amend(cfg: DictConfig, folder: Path, overrides: list[str]) -> None:
    """Go on with a frozen configuration: where and how often to save may be typed anew, any other change is an error."""
    from bitnet.runs.record import RunRecord

    record = RunRecord(folder)
    frozen, made = record.config(), record.frozen().get("choices", {})
    amended = False
    for key in map(key_of, overrides):
        if key == "resume" or key.startswith(("hydra", "launcher")):
            continue
        if key in {"out", "overwrite"}:
            raise UserError(
                f"{key}={OmegaConf.select(cfg, key)} can't be combined with resume={folder}: a run resumes in its own folder"
            )
        asked = HydraConfig.get().runtime.choices.get(key, OmegaConf.select(cfg, key))
        there = made.get(key, value_at(frozen, key))
        if str(asked) == str(there):
            continue
        if key not in {"device", "checkpoint.every", "checkpoint.keep", "checkpoint.on_mismatch"}:
            raise UserError(
                f"{key}={asked}: the run at resume={folder} was started with {there}; drop this override, or start another run"
            )
        *above, name = key.split(".")
        functools.reduce(dict.__getitem__, above, frozen)[name] = asked
        amended = True
    if amended:
        record.write_config(load_config(frozen).model_dump(mode="json"))

"""What a command line asks for: its runs, as `train` would expand them, and where they would be carried out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra import initialize_config_dir
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from bitnet.cli.compose import Options, group_choices, refuse_folders_of_hydra, run_config, search_path
from bitnet.cli.hydra_errors import explain, from_hydra
from bitnet.cli.hydra_internals import Hydra, initialized
from bitnet.cli.overrides import check_sweep, key_of, normalise, note_repeated_keys, with_current_names, with_multirun
from bitnet.common.errors import UserError
from bitnet.common.paths import share
from bitnet.config.identity import digest, identity, source_key
from bitnet.config.run import RunConfig, load_config
from bitnet.sweep.check_claims import check_claims
from bitnet.sweep.expand import expand
from bitnet.sweep.sequence import sweeps_in_turn, with_sweep


# ----------------------------------------------------------------------------------------------------------- composing
def requested_runs(overrides: list[str], multirun: bool, config_dir: Path | None) -> tuple[list[RunRequest], bool]:
    """The runs that a command line asks for, and whether they are a sweep.

    Raises:
        UserError: when one can't be composed or is invalid, whatever raised it.
    """
    overrides = with_current_names(overrides)
    check_sweep(overrides, multirun)
    note_repeated_keys(overrides)
    written = search_path([normalise(o) for o in with_multirun(overrides)], config_dir)
    with initialize_config_dir(str(share() / "conf"), version_base="1.3"):
        hydra = initialized()
        try:
            return _expanded(hydra, written, multirun)
        except UserError:
            raise
        except Exception as error:
            if not from_hydra(error) and not type(error).__module__.startswith(("hydra", "omegaconf")):
                raise
            raise explain(error) from error


def _expanded(hydra: Hydra, written: list[str], multirun: bool) -> tuple[list[RunRequest], bool]:
    sweeping = multirun or hydra.get_mode("config", written) == RunMode.MULTIRUN
    mode = RunMode.MULTIRUN if sweeping else RunMode.RUN
    master = hydra.compose_config("config", written, run_mode=mode)
    refuse_folders_of_hydra(master.hydra)
    typed = OmegaConf.to_container(master.hydra.overrides.task, resolve=False)
    if not sweeping:
        return [_resumed(master, typed) or RunRequest(run_config(master), tuple(typed), group_choices(master.hydra))], False
    if "ArmsSweeper" not in master.hydra.sweeper._target_:
        search = master.hydra.runtime.choices["hydra/sweeper"]
        raise UserError(f"hydra/sweeper={search}: a search chooses its runs as it goes; leave it out to plan a grid or a sweep")
    if several := sweeps_in_turn(master, typed)[0]:
        return _of_all([_expanded(hydra, with_sweep(written, name), multirun)[0] for name in several]), True
    config, arms = expand(hydra.config_loader, master, typed)
    check_claims(config.sweep, arms, Options(master.hydra))
    return [RunRequest(c.config, c.arm.overrides, c.choices, c.arm.name) for c in arms], True


def _of_all(sweeps: list[list[RunRequest]]) -> list[RunRequest]:
    """The runs of several sweeps; one that an earlier sweep has too is trained, and counted, once."""
    asked: dict[str, int] = {}
    for place, runs in enumerate(sweeps):
        for run in runs:
            asked.setdefault(_sameness(run), place)
    return [run for place, runs in enumerate(sweeps) for run in runs if asked[_sameness(run)] == place]


def _sameness(run: RunRequest) -> str:
    return digest(identity(run.config, source_key(run.config)))


def _resumed(master: DictConfig, typed: list[str]) -> RunRequest | None:
    """The frozen run that `resume` names, None where it names none."""
    from bitnet.runs.record import RunRecord

    if master.resume is None:
        return None
    folder = Path(master.resume).expanduser().resolve()
    record = RunRecord(folder)
    own = tuple(o for o in typed if key_of(o) != "resume")
    return RunRequest(load_config(record.config()), own, record.read().get("choices", {}), record.read().get("arm"), folder)


def placement(runs: Sequence[RunRequest], sweeping: bool) -> Placement:
    """Where the runs of a command are carried out."""
    from bitnet.launch import resources

    config = runs[0].config
    if sweeping and config.launcher.kind not in {"local", "serial"}:
        return Placement(config.device, None, config.threads)
    if not sweeping or config.launcher.kind != "local":
        return Placement(config.device, 1, config.threads)
    room = resources.capacity(len(runs), config.device, config.launcher.jobs, config.launcher.jobs_per_gpu)
    return Placement(config.device, room.jobs, config.threads or room.threads)


@dataclass(frozen=True)
class RunRequest:
    """One run as it is asked for: its configuration, what was typed for it, the option of each group, its arm's name.

    `folder`: where a frozen run lies that is to go on.
    """

    config: RunConfig
    overrides: tuple[str, ...] = ()
    choices: dict[str, str] = field(default_factory=dict)
    arm: str | None = None
    folder: Path | None = None


@dataclass(frozen=True)
class Placement:
    """Where runs are carried out: `at_once` None is a cluster's affair, `threads` None torch's default."""

    device: str
    at_once: int | None
    threads: int | None

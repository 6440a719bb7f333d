"""What a command line asks for: its runs, as `train` would expand them, and where they would be carried out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from bitnet.cli.compose import Options, group_choices, refuse_folders_of_hydra, run_config, search_path
from bitnet.cli.hydra_errors import explain, from_hydra
from bitnet.cli.hydra_internals import compose_command
from bitnet.cli.overrides import check_sweep, key_of, normalise, note_repeated_keys, with_current_names, with_multirun
from bitnet.common.errors import UserError
from bitnet.common.paths import share
from bitnet.config.identity import digest, identity, source_key
from bitnet.config.run import RunConfig, load_config
from bitnet.sweep.check_claims import check_claims
from bitnet.sweep.expand import ComposedArm, expand
from bitnet.sweep.sequence import expand_each, sweeps_in_turn


def requested_runs(overrides: list[str], multirun: bool, config_dir: Path | None) -> tuple[list[RunRequest], bool]:
    """The runs that a command line asks for, and whether they are a sweep.

    Raises:
        UserError: when one can't be composed or is invalid, whatever raised it.
    """
    overrides = with_current_names(overrides, config_dir)
    check_sweep(overrides, multirun)
    note_repeated_keys(overrides)
    written = search_path([normalise(o) for o in with_multirun(overrides)], config_dir)
    with initialize_config_dir(str(share() / "conf"), version_base="1.3"):
        try:
            return _expanded(written, multirun)
        except UserError:
            raise
        except Exception as error:
            if not from_hydra(error) and not type(error).__module__.startswith(("hydra", "omegaconf")):
                raise
            raise explain(error) from error


def _expanded(written: list[str], multirun: bool) -> tuple[list[RunRequest], bool]:
    loader, master, sweeping = compose_command(written, multirun)
    refuse_folders_of_hydra(master.hydra)
    typed = OmegaConf.to_container(master.hydra.overrides.task, resolve=False)
    if not sweeping:
        return [_resumed(master, typed) or RunRequest(run_config(master), tuple(typed), group_choices(master.hydra))], False
    launcher = master.hydra.runtime.choices["hydra/launcher"]
    if "ArmsSweeper" not in master.hydra.sweeper._target_:
        search = master.hydra.runtime.choices["hydra/sweeper"]
        raise UserError(f"hydra/sweeper={search}: a search chooses its runs as it goes; leave it out to plan a grid or a sweep")
    options, (several, owner) = Options.of(master.hydra), sweeps_in_turn(master, typed)
    if several:
        each = expand_each(loader, master, several, owner)
        return _of_all([_requests(config, arms, options, launcher) for config, arms in each]), True
    return _requests(*expand(loader, master, typed), options, launcher), True


def _requests(config: RunConfig, arms: Sequence[ComposedArm], options: Options, launcher: str) -> list[RunRequest]:
    """The runs of one sweep, or of a grid, after a look at what its claims need."""
    check_claims(config.sweep, arms, options)
    return [RunRequest(c.config, c.arm.overrides, c.choices, c.arm.name, launcher=launcher) for c in arms]


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
    config, known = load_config(record.config()), record.frozen()
    return RunRequest(config, own, known.get("choices", {}), known.get("arm"), folder)


def placement(runs: Sequence[RunRequest], sweeping: bool) -> Placement:
    """Where the runs of a command are carried out."""
    from bitnet.launch import resources

    config, launcher = runs[0].config, runs[0].launcher
    if not sweeping or launcher == "basic":
        return Placement(config.device, 1, config.threads)
    if launcher != "bitnet_local":
        return Placement(config.device, None, config.threads, launcher)
    room = resources.capacity(len(runs), config.device, config.launcher.jobs, config.launcher.jobs_per_gpu)
    return Placement(config.device, room.jobs, config.threads or room.threads)


@dataclass(frozen=True)
class RunRequest:
    """One run as it is asked for: its configuration, what was typed for it, the option of each group, its arm's name.

    `folder`: where a frozen run lies that is to go on. `launcher`: Hydra's launcher of the command.
    """

    config: RunConfig
    overrides: tuple[str, ...] = ()
    choices: dict[str, str] = field(default_factory=dict)
    arm: str | None = None
    folder: Path | None = None
    launcher: str = "bitnet_local"


@dataclass(frozen=True)
class Placement:
    """Where runs are carried out: `at_once` None is the affair of `launcher`, Hydra's; `threads` None torch's default."""

    device: str
    at_once: int | None
    threads: int | None
    launcher: str = "bitnet_local"

    @property
    def on_cluster(self) -> bool:
        """Whether the runs are jobs of SLURM."""
        return "slurm" in self.launcher

"""Composition by Hydra: the configuration of a command line, and of many arms quickly.

What groups give is composed once for each choice of options, plain values are set on top.
"""

from __future__ import annotations

import contextlib
import copy
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from bitnet.cli.hydra_errors import explain
from bitnet.cli.hydra_internals import apply_overrides, node_at
from bitnet.cli.overrides import normalise, numbers_first, with_current_names
from bitnet.cli.quoting import list_entries, quote
from bitnet.common.errors import UserError
from bitnet.common.paths import PACKAGE, share
from bitnet.config.run import RunConfig, load_config


class Options:
    """The options of groups in the folders that a configuration is composed from, as Hydra's parser asks a loader for them.

    Its own loader leaves out those that `hydra.searchpath` names: the sweeps, and the user's own.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self.folders = list(folders)

    @classmethod
    def of(cls, hydra: DictConfig) -> Options:
        """Of every folder that a configuration was composed from."""
        return cls(Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file")

    def get_group_options(self, group_name: str, **_: Any) -> list[str]:
        """The names of a group's options; none of what is no group."""
        found = {file.stem for folder in self.folders for file in (folder / group_name).glob("*.yaml")}
        return sorted((name for name in found if not name.startswith("_")), key=numbers_first)


class Composer:
    """Gives what `load_sweep_config` gives, without Hydra's own part, which a run does not need.

    A composition takes Hydra a tenth of a second. Values are applied after groups in any case, so arms that differ in values
    alone (seeds above all) share the composition and pay for the values.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self.loader, self.master = loader, master
        self.options = Options.of(master.hydra)
        self.parser = OverridesParser.create(config_loader=self.options)
        self.parsed: dict[str, Override] = {}
        self.composed: dict[tuple[str, ...], tuple[DictConfig, dict[str, str]]] = {}

    def arm(self, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
        """An arm's configuration as plain values, and which option each of the project's groups has.

        Raises:
            UserError: when a value can't be resolved.
        """
        parsed = [self._parse(o) for o in overrides]
        values = [o for o in parsed if self._is_value(o)]
        chosen = tuple(text for text, o in zip(overrides, parsed, strict=True) if o not in values)
        if chosen not in self.composed:
            whole = self.loader.load_sweep_config(self.master, list(chosen))
            self.composed[chosen] = without_hydra(whole), group_choices(whole.hydra)
        config, options = self.composed[chosen]
        with _restored(config, (o.key_or_group.split(".")[0] for o in values)):
            apply_overrides(values, config)
            return to_plain(config), options

    def _parse(self, override: str) -> Override:
        if override not in self.parsed:
            (self.parsed[override],) = self.parser.parse_overrides([override])
        return self.parsed[override]

    def _is_value(self, override: Override) -> bool:
        """A plain `key=value` that names no group and nothing of Hydra's: what can be applied on top."""
        key = override.key_or_group
        is_plain = not (override.is_add() or override.is_force_add() or override.is_delete() or override.package)
        return is_plain and not key.startswith("hydra") and key not in self.master.hydra.runtime.choices


@contextlib.contextmanager
def _restored(config: DictConfig, parts: Iterable[str]) -> Iterator[None]:
    """Put the named top-level parts back as they were: cheaper than changing a copy of the whole."""
    before = {p: copy.deepcopy(node_at(config, p)) for p in set(parts) if p in config}
    try:
        yield
    finally:
        for part, node in before.items():
            config[part] = node


def without_hydra(composed: DictConfig) -> DictConfig:
    """A copy without Hydra's own part."""
    own = composed.copy()
    with open_dict(own):
        own.pop("hydra", None)
    return own


def to_plain(config: DictConfig) -> dict[str, Any]:
    """Plain containers, interpolations resolved.

    Raises:
        UserError: when one can't be resolved, or a value is missing.
    """
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise explain(error) from None


def group_choices(hydra: DictConfig) -> dict[str, str]:
    """Which option each group has, the project's own groups only."""
    chosen = OmegaConf.to_container(hydra.runtime.choices)
    return {k: str(v) for k, v in chosen.items() if not k.startswith("hydra/") and v is not None}


_FOLDERS_OF_HYDRA = {"run.dir": ".", "sweep.dir": "${out}", "sweep.subdir": "."}


def refuse_folders_of_hydra(hydra: DictConfig) -> None:
    """Refuse the folders that Hydra would write into: runs are named after what they hold, and go where `out` says.

    Raises:
        UserError: one of them is set, on the command line or in a file.
    """
    for key, ours in _FOLDERS_OF_HYDRA.items():
        part, _, name = key.partition(".")
        written = OmegaConf.to_container(hydra[part], resolve=False)[name]
        if written != ours:
            raise UserError(f"hydra.{key}={written}: not used here; out=FOLDER says where runs go, each in a folder of its own")


def run_config(composed: DictConfig) -> RunConfig:
    """The typed configuration of what Hydra composed.

    Raises:
        UserError: when a value can't be used.
    """
    return load_config(to_plain(without_hydra(composed)))


def search_path(overrides: list[str], config_dir: Path | None = None) -> list[str]:
    """The overrides, with the folders of the user's own groups and of `sweeps/` on Hydra's search path.

    Raises:
        UserError: `config_dir` is not there.
    """
    prefix = "hydra.searchpath="
    if config_dir is not None and not config_dir.is_dir():
        raise UserError(f"--config-dir {config_dir}: no such folder")
    given = [entry for o in overrides if o.startswith(prefix) for entry in list_entries(o.removeprefix(prefix))]
    folders = [*([] if config_dir is None else [config_dir.resolve()]), share()]
    places = [*given, *(f"file://{folder}" for folder in folders)]
    return [f"{prefix}[{','.join(map(quote, places))}]", *(o for o in overrides if not o.startswith(prefix))]


def compose_config(overrides: list[str], config_dir: Path | None = None) -> DictConfig:
    """The configuration of the command line of one run, for commands that train nothing.

    Raises:
        UserError: when it can't be composed, whatever Hydra raised.
    """
    written = search_path([normalise(o) for o in with_current_names(overrides, config_dir)], config_dir)
    with initialize_config_dir(str(share() / "conf"), version_base="1.3"):
        try:
            composed = compose("config", written, return_hydra_config=True)
        except Exception as error:
            raise explain(error, sweeps=False) from error
    refuse_folders_of_hydra(composed.hydra)
    return composed


def register_plugins() -> None:
    """Let Hydra, here and in the processes that a launcher starts, find the project's plugins."""
    folder = str(PACKAGE / "sweep" / "plugins")
    if folder not in sys.path:
        sys.path.append(folder)
        inherited = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = f"{inherited}{os.pathsep}{folder}" if inherited else folder

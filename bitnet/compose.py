"""Composing many arms quickly: what groups give is composed by Hydra once for each choice of options, plain values on top."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from bitnet.overrides import explain


class Composer:
    """Gives what `load_sweep_config` gives, without Hydra's own part, which a run does not need.

    A composition takes Hydra a tenth of a second. Values are applied after groups in any case, so arms that differ in values
    alone (seeds above all) share the composition and pay for the values.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self.loader, self.master = loader, master
        self.parser = OverridesParser.create(config_loader=loader)
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
            self.composed[chosen] = without_hydra(whole), choices(whole.hydra)
        config, options = self.composed[chosen]
        with _restored(config, (o.key_or_group.split(".")[0] for o in values)):
            ConfigLoaderImpl._apply_overrides_to_config(values, config)
            return plain(config), options

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
    before = {p: copy.deepcopy(config._get_node(p)) for p in set(parts) if p in config}
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


def plain(config: DictConfig) -> dict[str, Any]:
    """Plain containers, interpolations resolved.

    Raises:
        UserError: when one can't be resolved, or a value is missing.
    """
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise explain(error) from None


def choices(hydra: DictConfig) -> dict[str, str]:
    """Which option each group has, the project's own groups only."""
    chosen = OmegaConf.to_container(hydra.runtime.choices)
    return {k: str(v) for k, v in chosen.items() if not k.startswith("hydra/") and v is not None}

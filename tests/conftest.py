"""What several test files share: configurations as the command line composes them."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from copy import deepcopy
from typing import Any

# The models here are so small that threads wait for each other longer than they compute, ten times as long on a busy machine.
# Read when torch is imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from ending import leaves_nothing_behind, pytest_configure, pytest_runtest_logfinish  # noqa: F401
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bitnet.cli.compose import register_plugins, search_path
from bitnet.cli.overrides import normalise
from bitnet.common.paths import share


@functools.cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    register_plugins()
    with initialize_config_dir(str(share() / "conf"), version_base="1.3"):
        composed = compose("config", search_path([normalise(o) for o in overrides]))
    return OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)


@pytest.fixture
def values() -> Callable[..., dict[str, Any]]:
    """`values("wd=paper", ...)`: what Hydra composes from those overrides, as plain containers of the test's own."""
    return lambda *overrides: deepcopy(_composed(overrides))

"""Runs keep their ids and sweeps their claims: results on disk are found by the one and judged by the other.

`goldens/` was made by the code before the package had folders; sweeps that were renamed since stand under their names of today.
A file that changes on purpose changes here, in the same commit.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from bitnet.cli.compose import register_plugins
from bitnet.common.paths import share
from bitnet.config.identity import digest, identity
from bitnet.config.run import RunConfig
from bitnet.planning.request import requested_runs

GOLDENS = Path(__file__).parent / "goldens"
IDS: dict[str, Any] = json.loads((GOLDENS / "run_ids.json").read_text(encoding="utf-8"))
CLAIMS: dict[str, str] = json.loads((GOLDENS / "claims.json").read_text(encoding="utf-8"))
DATA = "0" * 64  # stands for the hash of any data


@functools.cache
def asked(command: str) -> list[RunConfig]:
    register_plugins()
    words = command.split()
    return [r.config for r in requested_runs([w for w in words if w != "-m"], "-m" in words, None)[0]]


def hashed(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def measured(claim: dict[str, Any]) -> dict[str, Any]:
    """A claim without the words that it is told in, which may become better ones."""
    return {key: value for key, value in claim.items() if key != "says" and not (key == "published" and isinstance(value, str))}


@pytest.mark.parametrize("command", IDS)
def test_runs_keep_their_ids(command):
    ids = [digest(identity(config, DATA)) for config in asked(command)]
    assert (len(ids), ids[0], hashed(ids)) == tuple(IDS[command])


@pytest.mark.parametrize("sweep", CLAIMS)
def test_sweeps_keep_their_claims(sweep):
    config = asked(f"sweeps={sweep}")[0]
    claims = config.model_dump(mode="json")["sweep"]["claims"]
    assert hashed({name: measured(claim) for name, claim in claims.items()}) == CLAIMS[sweep]


def test_every_sweep_has_its_golden():
    assert {p.stem for p in (share() / "sweeps").glob("*.yaml")} == {*CLAIMS, "investigation"}


def test_a_sweep_file_says_its_question_once():
    for path in (share() / "sweeps").glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        assert "# Question" not in text and "# Source" not in text and text.count("\n  question:") == 1, path.name

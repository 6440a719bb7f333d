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
from bitnet.config.claims import measured
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


@pytest.mark.parametrize("command", IDS)
def test_runs_keep_their_ids(command):
    ids = [digest(identity(config, DATA)) for config in asked(command)]
    assert (len(ids), ids[0], hashed(ids)) == tuple(IDS[command])


@pytest.mark.parametrize("sweep", CLAIMS)
def test_sweeps_keep_their_claims(sweep):
    config = asked(f"sweeps={sweep}")[0]
    claims = config.model_dump(mode="json")["sweep"]["claims"]
    assert hashed({name: measured(claim) for name, claim in claims.items()}) == CLAIMS[sweep]


def test_every_golden_has_its_sweep():
    """And not the other way round: a new sweep is one file and nothing else."""
    assert {*CLAIMS} <= {p.stem for p in (share() / "sweeps").glob("*.yaml")}


def template() -> str:
    """The sweep that the docs tell the reader to put into `sweeps/`."""
    docs = (Path(__file__).parents[2] / "docs" / "hypotheses.md").read_text(encoding="utf-8")
    return next(block for block in docs.split("```yaml\n")[1:] if block.startswith("# @package")).partition("```")[0]


def test_a_sweep_file_says_its_question_once():
    shipped = {path.name: path.read_text(encoding="utf-8") for path in (share() / "sweeps").glob("*.yaml")}
    for name, text in (shipped | {"docs/hypotheses.md": template()}).items():
        assert "# Question" not in text and "# Source" not in text and text.count("\n  question:") == 1, name


def test_the_sweep_in_the_docs_can_be_planned(tmp_path):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "my_sweep.yaml").write_text(template().replace("wd07", "wd05"), encoding="utf-8")
    register_plugins()
    runs, sweeping = requested_runs(["sweeps=my_sweep"], False, tmp_path)
    assert sweeping and len(runs) == 2 * 2 * 3 and list(runs[0].config.sweep.claims) == ["raising_hurts"]

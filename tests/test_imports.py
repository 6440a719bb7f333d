"""An import goes down, never up, and never in a circle; planning and reporting import neither torch nor Hydra."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

from bitnet.paths import PACKAGE

# From the ground up. A module may import its own floor and those below; a new file is placed here before it passes.
FLOORS = [
    {"errors", "columns", "paths", "published", "boundary", "files", "heartbeat", "called", "squeue", "parts", "stopping"},
    {"units", "invalid", "claims", "keys"},
    {"sources", "launching"},
    {"config"},
    {"identity"},
    {"quant", "schedules", "losses", "metrics", "textstats", "timeline"},
    {"model"},
    {"hub", "corpus", "tokenizer", "data", "batches", "optim", "checkpoint", "records", "heldout", "progress"},
    {"continuations", "weights"},
    {"probe", "branches"},
    {"loop"},
    {"device", "freeze"},
    {"run"},
    {"server", "checks"},
    {"worker", "pool", "job", "slurm", "cost", "training_checks"},
    {"arms", "compose", "overrides", "usage", "train", "prepare", "scaling", "several", "forecast", "plan", "check", "plugins"},
]
ANALYSIS = {"runs", "experiments", "tables", "layout", "printed", "verification", "report", "status"}
ANALYSIS |= {"stats", "factors", "resolution", "evidence", "rules", "verdicts", "collapse", "advice", "diagnose"}
ANALYSIS |= {"judged", "declared", "wording", "figures", "plotted", "page"}
GROUND = FLOORS[0] | FLOORS[1]
KNOWS_HYDRA = {"train", "arms", "several", "compose", "overrides", "prepare", "plan", "check", "plugins"}
KNOWS_TORCH = {"quant", "losses", "metrics", "model", "optim", "checkpoint", "probe", "continuations", "weights"}
KNOWS_TORCH |= {"loop", "run", "pool", "device", "worker", "cost", "checks", "training_checks"}


def module_of(path: Path) -> str:
    """`config` for bitnet/config.py; whatever lies in a folder goes by the folder's name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


SOURCES = [p for p in sorted(PACKAGE.rglob("*.py")) if p.name != "__init__.py" and "_share" not in p.parts]
MODULES = sorted({module_of(p) for p in SOURCES})


def imported(path: Path) -> set[str]:
    """Full names of what a file imports anywhere in it, functions included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative imports hide where they lead"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "bitnet" else {node.module}
    return names


def own(module: str) -> set[str]:
    """Modules of this package that a module imports."""
    names = {n for p in SOURCES if module_of(p) == module for n in imported(p)}
    return {n.split(".")[1] for n in names if n.startswith("bitnet.")} - {module}


def foreign(module: str) -> set[str]:
    """Top-level packages that a module imports."""
    return {n.split(".")[0] for p in SOURCES if module_of(p) == module for n in imported(p)}


def floor(module: str) -> int:
    return next(i for i, modules in enumerate(FLOORS) if module in modules)


def test_every_module_has_its_place():
    placed = [m for modules in [*FLOORS, ANALYSIS] for m in modules]
    assert len(placed) == len(set(placed))
    assert not set(MODULES) - set(placed), "a new file: place it in FLOORS"


@pytest.mark.parametrize("module", sorted(set(MODULES) - ANALYSIS))
def test_imports_go_down(module):
    assert not own(module) & ANALYSIS, "training and analysis meet in the run records only"
    higher = {m for m in own(module) if floor(m) > floor(module)}
    assert not higher, f"{module} imports {sorted(higher)} from above it"


@pytest.mark.parametrize("module", sorted(ANALYSIS))
def test_analysis_reads_records_only(module):
    assert own(module) <= ANALYSIS | GROUND
    assert not foreign(module) & {"torch", "hydra", "omegaconf", "safetensors"}


def test_no_circles():
    graph = {m: own(m) for m in MODULES}
    assert set(graphlib.TopologicalSorter(graph).static_order()) >= set(MODULES)  # a circle has no order: CycleError


@pytest.mark.parametrize("module", MODULES)
def test_hydra_stays_at_the_door(module):
    assert module in KNOWS_HYDRA or not foreign(module) & {"hydra", "omegaconf"}


@pytest.mark.parametrize("module", MODULES)
def test_torch_is_imported_by_those_who_compute(module):
    assert module in KNOWS_TORCH or "torch" not in foreign(module)


@pytest.mark.parametrize(
    ("module", "kept_out"),
    [("report", {"torch", "hydra"}), ("config", {"torch", "hydra"}), ("records", {"torch", "hydra"}), ("train", {"torch"})],
)
def test_what_a_module_really_loads(module, kept_out):
    """In a fresh process, through everything that it imports in turn."""
    loaded = f"import sys, bitnet.{module}; print(*sorted({kept_out!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", loaded], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []

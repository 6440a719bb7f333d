"""The order of the packages: each imports from those before it alone; torch and Hydra are imported where they are needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from bitnet.common.paths import PACKAGE

# From the ground up: a package and the packages that it may import. `...` stands for all before it.
ORDER: dict[str, set[str] | type(...)] = {
    "common": set(),
    "runs": {"common"},
    "config": {"common", "runs.columns"},
    "data": {"common", "config"},
    "model": {"common", "config", "runs.columns"},
    "evaluation": {"common", "runs", "config", "data", "model"},
    "training": ...,
    "cli": {"common", "config"},
    "launch": {"common", "runs", "training.execute"},
    "sweep": {"common", "runs", "config", "data", "training", "cli", "launch"},
    "checks": {"common", "runs", "config", "data", "model", "evaluation", "training"},
    "planning": {"common", "runs", "config", "data", "model", "evaluation", "training", "cli", "launch", "sweep"},
    "analysis": {"common", "runs", "config"},
    "verdicts": {"common", "runs", "config", "analysis"},
    "reporting": {"common", "runs", "config", "analysis", "verdicts"},
    "benchmark": {"common", "runs", "config", "data", "training", "cli", "planning", "reporting.text_layout"},
}
COMMANDS = {"train", "plan", "status", "report", "prepare", "diagnose", "check", "bench"}
RENAMED = {"job"}  # a name that SLURM jobs were pickled with

# The two rules beside the order: where torch may be imported at the top of a file, and where Hydra.
TORCH = {"model", "evaluation", "training", "checks", "planning", "benchmark"}
HYDRA = {"cli", "sweep", "planning", "train"}
HYDRA_PRIVATE = "cli/hydra_internals.py"

SOURCES = [p for p in sorted(PACKAGE.rglob("*.py")) if "_share" not in p.parts]


def package_of(path: Path) -> str:
    """`config` for bitnet/config/run.py, `train` for bitnet/train.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, *, at_the_top: bool = False) -> set[str]:
    """Full names of the modules that a file imports, those in functions too, or those alone that it imports when loaded."""
    return imports_of(path.read_text(encoding="utf-8"), at_the_top=at_the_top)


def imports_of(text: str, *, at_the_top: bool = False) -> set[str]:
    tree = ast.parse(text)
    nodes = tree.body if at_the_top else ast.walk(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they lead"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def misplaced(package: str, names: set[str]) -> list[str]:
    """Those of the imported names that a package may not import."""
    before = list(ORDER)[: list(ORDER).index(package)]
    allowed = set(before) if ORDER[package] is ... else ORDER[package]
    own = sorted(n.removeprefix("bitnet.") for n in names if n.startswith("bitnet."))
    return [n for n in own if n.split(".")[0] != package and not any(n == a or n.startswith(f"{a}.") for a in allowed)]


def test_every_file_lies_in_a_package_or_is_a_command():
    assert {package_of(p) for p in SOURCES} == {*ORDER, *COMMANDS, *RENAMED, "__init__"}


def test_the_order_allows_only_what_comes_before():
    for place, (package, allowed) in enumerate(ORDER.items()):
        if allowed is not ...:
            assert {a.split(".")[0] for a in allowed} <= set(list(ORDER)[:place]), package


@pytest.mark.parametrize("path", [p for p in SOURCES if package_of(p) in ORDER], ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_a_package_imports_from_those_before_it(path):
    assert misplaced(package_of(path), imports(path)) == []


@pytest.mark.parametrize(
    ("package", "text"),
    [
        ("common", "from bitnet.runs.record import RunRecord"),
        ("config", "from bitnet.runs import record"),
        ("analysis", "def f():\n    from bitnet.training import loop"),
        ("training", "import bitnet.sweep.expand"),
        ("reporting", "from bitnet.report import main"),
    ],
)
def test_a_planted_import_is_seen(package, text):
    assert misplaced(package, imports_of(text))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_torch_and_hydra_stay_in_their_places(path):
    package, place = package_of(path), path.relative_to(PACKAGE).as_posix()
    everywhere, loaded = ({n.split(".")[0] for n in imports(path, at_the_top=top)} for top in (False, True))
    assert "torch" not in loaded or package in TORCH
    assert "torch" not in everywhere or package in TORCH | {"launch"}
    assert not everywhere & {"hydra", "omegaconf"} or package in HYDRA
    private = {n for n in imports(path) if n.startswith("hydra._internal")}
    assert not private or place == HYDRA_PRIVATE


def test_a_package_says_what_it_is_for():
    for package in ORDER:
        text = (PACKAGE / package / "__init__.py").read_text(encoding="utf-8")
        tree = ast.parse(text)
        assert len(tree.body) == 1 and ast.get_docstring(tree), f"{package}/__init__.py is a docstring and nothing else"


def test_commands_are_thin():
    for command in COMMANDS:
        lines = (PACKAGE / f"{command}.py").read_text(encoding="utf-8").count("\n")
        assert lines < 80, f"{command}.py has {lines} lines: parse, call, print"


@pytest.mark.parametrize(
    ("module", "kept_out"),
    [
        ("report", {"torch", "hydra"}),
        ("status", {"torch", "hydra"}),
        ("diagnose", {"torch", "hydra"}),
        ("config.run", {"torch", "hydra"}),
        ("runs.record", {"torch", "hydra"}),
        ("train", {"torch"}),
        ("plan", {"torch"}),
        ("bench", {"torch"}),
    ],
)
def test_what_a_module_really_loads(module, kept_out):
    """In a fresh process, through everything that it imports in turn."""
    loaded = f"import sys, bitnet.{module}; print(*sorted({kept_out!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", loaded], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []

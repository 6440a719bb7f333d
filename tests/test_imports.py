"""The order of the packages: each imports from those before it alone; torch and Hydra are imported where they are needed.

What a package's docstring says of its imports is held against the order here.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
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
    "evaluation": {"common", "runs.columns", "config", "data", "model"},
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
# The commands, and the packages that each puts together; `job` is a name that SLURM jobs were pickled with.
COMMANDS: dict[str, set[str]] = {
    "train": {"common", "cli", "launch", "sweep"},
    "plan": {"common", "cli", "planning"},
    "status": {"common", "launch"},
    "report": {"common", "reporting"},
    "prepare": {"common", "data", "cli"},
    "diagnose": {"common", "analysis", "reporting"},
    "check": {"common", "config", "cli", "checks"},
    "bench": {"common", "cli", "benchmark"},
    "job": {"launch"},
}

# The rules beside the order: where torch may be imported at the top of a file, where Hydra, and where what is private of Hydra
# or of another object is used.
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
    nodes = executed(tree.body) if at_the_top else ast.walk(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they lead"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def executed(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that importing a module executes: those inside `if`, `try`, `with`, loops and classes too, but not those
    of functions, nor those for type checkers alone."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(statement, ast.If) and ast.unparse(statement.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            yield from executed(statement.orelse)
            continue
        for part in ("body", "orelse", "finalbody"):
            yield from executed(getattr(statement, part, []))
        for handler in getattr(statement, "handlers", []):
            yield from executed(handler.body)


def allowed_in(package: str) -> set[str]:
    """What a package, or a command, may import."""
    if package in COMMANDS:
        return COMMANDS[package]
    return set(list(ORDER)[: list(ORDER).index(package)]) if ORDER[package] is ... else ORDER[package]


def sentence(package: str) -> str:
    """What a package's docstring has to say of its imports."""
    *most, last = sorted(allowed_in(package), key=lambda name: list(ORDER).index(name.split(".")[0])) or ["no other package"]
    return f"Imports {', '.join(most)} and {last}" if most else f"Imports {last}"


def misplaced(package: str, names: set[str]) -> list[str]:
    """Those of the imported names that a package, or a command, may not import."""
    allowed = allowed_in(package)
    own = sorted(n.removeprefix("bitnet.") for n in names if n.startswith("bitnet."))
    return [n for n in own if n.split(".")[0] != package and not any(n == a or n.startswith(f"{a}.") for a in allowed)]


def test_every_file_lies_in_a_package_or_is_a_command():
    assert {package_of(p) for p in SOURCES} == {*ORDER, *COMMANDS, "__init__"}


def test_the_order_allows_only_what_comes_before():
    for place, (package, allowed) in enumerate(ORDER.items()):
        if allowed is not ...:
            assert {a.split(".")[0] for a in allowed} <= set(list(ORDER)[:place]), package


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_a_package_imports_from_those_before_it_and_a_command_what_it_puts_together(path):
    if path != PACKAGE / "__init__.py":
        assert misplaced(package_of(path), imports(path)) == []


@pytest.mark.parametrize(
    ("package", "text"),
    [
        ("common", "from bitnet.runs.record import RunRecord"),
        ("config", "from bitnet.runs import record"),
        ("analysis", "def f():\n    from bitnet.training import loop"),
        ("training", "import bitnet.sweep.expand"),
        ("reporting", "from bitnet.report import main"),
        ("report", "from bitnet.planning import cost"),
        ("status", "def f():\n    import bitnet.cli.compose"),
    ],
)
def test_a_planted_import_is_seen(package, text):
    assert misplaced(package, imports_of(text))


@pytest.mark.parametrize(
    ("text", "loaded"),
    [
        ("try:\n    import torch\nexcept ImportError:\n    pass", True),
        ("if x:\n    pass\nelse:\n    import torch", True),
        ("try:\n    pass\nexcept ImportError:\n    import torch", True),
        ("if TYPE_CHECKING:\n    import torch", False),
        ("if x:\n    def f():\n        import torch", False),
    ],
)
def test_an_import_counts_where_loading_a_file_executes_it(text, loaded):
    assert ("torch" in imports_of(text, at_the_top=True)) == loaded


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_torch_and_hydra_stay_in_their_places(path):
    package, place = package_of(path), path.relative_to(PACKAGE).as_posix()
    everywhere, loaded = ({n.split(".")[0] for n in imports(path, at_the_top=top)} for top in (False, True))
    assert "torch" not in loaded or package in TORCH
    assert "torch" not in everywhere or package in TORCH | {"launch"}
    assert not everywhere & {"hydra", "omegaconf"} or package in HYDRA
    private = {n for n in imports(path) if n.startswith(("hydra._internal", "hydra.core.global_hydra"))}
    assert not private or place == HYDRA_PRIVATE


def private_attributes(text: str) -> set[str]:
    """What is reached of other objects by a name that is theirs alone; `_target_` is a key of Hydra's, and public;
    the others that are left out have no other name."""
    found = (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Attribute) and n.attr.startswith("_"))
    return {ast.unparse(n) for n in found if n.attr.strip("_") and not n.attr.endswith("_")} - {"os._exit", "torch._int_mm"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_what_is_private_to_others_is_reached_in_one_place(path):
    reached = {name for name in private_attributes(path.read_text(encoding="utf-8")) if not name.startswith(("self.", "cls."))}
    assert not reached or path.relative_to(PACKAGE).as_posix() == HYDRA_PRIVATE


def test_a_package_says_what_it_is_for():
    for package in ORDER:
        text = (PACKAGE / package / "__init__.py").read_text(encoding="utf-8")
        tree = ast.parse(text)
        said = " ".join((ast.get_docstring(tree) or "").split())
        assert len(tree.body) == 1 and said, f"{package}/__init__.py is a docstring and nothing else"
        assert re.search(rf"{re.escape(sentence(package))}[.;,](?: |$)", said), f"{package}/__init__.py: {sentence(package)}"


def test_the_root_lists_the_packages_in_their_order():
    text = ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))) or ""
    listed = [name for line in text.splitlines() if line.startswith("    ") for name in re.split(r"  +", line.strip())[0].split()]
    assert listed == list(ORDER)


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

"""What an installed copy carries and does, what the pins promise, and how the Makefile makes its environment."""

from __future__ import annotations

import ast
import email
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def run(*command: str | Path, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], text=True, capture_output=True, **options)


# ---------------------------------------------------------------------------------------------------------- the wheel
@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """The folder with the sdist and the wheel that was built from it. No network: the build backend is in `.[dev]`."""
    folder = tmp_path_factory.mktemp("dist")
    built = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(dist) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def requirements(wheel) -> list[Requirement]:
    """Every requirement that the wheel declares, those of its extras too."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
    return [Requirement(line) for line in metadata.get_all("Requires-Dist")]


def sources() -> list[Path]:
    return [p for p in (ROOT / "bitnet").rglob("*") if p.suffix in {".py", ".csv", ".j2"} and "_share" not in p.parts]


def shared() -> list[Path]:
    return [p for folder in ("conf", "sweeps") for p in (ROOT / folder).rglob("*.yaml")]


def test_wheel_holds_the_package_its_data_and_nothing_else(wheel):
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    expected = {p.relative_to(ROOT).as_posix() for p in sources()}
    expected |= {f"bitnet/_share/{p.relative_to(ROOT).as_posix()}" for p in shared()}
    assert names == expected
    assert {"bitnet/analysis/published.csv", "bitnet/_share/conf/config.yaml", "bitnet/_share/sweeps/quickstart.yaml"} <= names
    assert any(n.startswith("bitnet/sweep/plugins/hydra_plugins/") for n in names)
    # with an __init__.py the folder would hide every other package's Hydra plugins
    assert "bitnet/sweep/plugins/hydra_plugins/__init__.py" not in names


def test_sdist_holds_what_a_build_and_the_tests_need_and_no_run(dist):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {n.partition("/")[2] for n in archive.getnames()}
    assert {"LICENSE", "Makefile", "constraints.txt", "pyproject.toml", "tests/test_packaging.py"} <= names
    assert not [n for n in names if n.startswith(("outputs", ".venv"))]


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> dict[str, str]:
    """An environment in which the wheel's copy of the package comes before the checkout's."""
    target = tmp_path_factory.mktemp("installed")
    result = run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", target, wheel)
    assert result.returncode == 0, result.stderr
    return {**os.environ, "PYTHONPATH": str(target)}


def test_installed_copy_finds_its_own_configuration(installed, tmp_path):
    code = "from bitnet.common.paths import share; print(share())"
    result = run(sys.executable, "-c", code, env=installed, cwd=tmp_path)
    share = Path(result.stdout.strip())
    assert share == Path(installed["PYTHONPATH"]) / "bitnet" / "_share"
    assert (share / "conf" / "config.yaml").is_file()


def test_checkout_reads_its_own_configuration():
    from bitnet.common.paths import share

    assert share() == ROOT


@pytest.mark.parametrize("name", ["train", "report", "prepare"])
def test_commands_explain_themselves_from_anywhere(installed, tmp_path, name):
    script = Path(installed["PYTHONPATH"]) / "bin" / f"bitnet-{name}"
    by_script = run(script, "--help", env=installed, cwd=tmp_path)
    as_module = run(sys.executable, "-m", f"bitnet.{name}", "--help", env=installed, cwd=tmp_path)
    assert (by_script.returncode, as_module.returncode) == (0, 0), by_script.stderr + as_module.stderr
    assert f"bitnet.{name}" in as_module.stdout or f"bitnet-{name}" in as_module.stdout
    assert not list(tmp_path.iterdir()), "--help left files behind"


# ------------------------------------------------------------------------------------------------- what it depends on
def imported() -> set[str]:
    """Top-level names that the package's modules import, wherever in the file."""
    names: set[str] = set()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())) if path.suffix == ".py" else ():
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(str(node.module).partition(".")[0])
    return names - sys.stdlib_module_names - {"bitnet", "hydra_plugins"}


def test_every_import_is_a_declared_dependency(requirements):
    declared = {canonicalize_name(r.name) for r in requirements if "extra" not in str(r.marker)}
    providers = importlib.metadata.packages_distributions()
    undeclared = [n for n in imported() if not declared & {canonicalize_name(d) for d in providers.get(n, [n])}]
    assert not undeclared


@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_pin_each_dependency_once_and_within_its_range(requirements, python):
    pins: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            assert pin.url is None
            if pin.marker is None or pin.marker.evaluate({"python_version": python}):
                (specifier,) = pin.specifier
                assert specifier.operator == "==" and pin.name not in pins, line
                pins[pin.name] = specifier.version
    assert pins["torch"] == "2.13.0"
    for requirement in requirements:
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement


# -------------------------------------------------------------------------------------------------------- the Makefile
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

# stands in for an interpreter: makes an environment whose `pip` only notes that it was called, and fails when told to
FAKE_PYTHON = """#!/bin/sh
case "$*" in
  *ensurepip*) [ ! -e no-ensurepip ] ;;
  "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  *"pip install"*) echo "$*" >> pip-calls; [ ! -e cut-short ] ;;
  *version_info*) [ ! -e too-old ] ;;
esac
"""


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A folder, with a space in its name, in which `make` can make an environment without a network."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    fake = folder / "fake python"
    fake.write_text(FAKE_PYTHON)
    fake.chmod(0o755)
    return folder


def make_venv(checkout: Path, python: str = "./fake python") -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return run("make", "venv", f"PYTHON={python}", cwd=checkout, env=environment)


@needs_make
def test_make_installs_the_tested_versions_once(checkout):
    assert make_venv(checkout).returncode == 0
    assert make_venv(checkout).returncode == 0
    (call,) = (checkout / "pip-calls").read_text().splitlines()
    assert "-c constraints.txt -e .[dev]" in call
    os.utime(checkout / "constraints.txt", (2**32, 2**32))
    assert make_venv(checkout).returncode == 0
    assert len((checkout / "pip-calls").read_text().splitlines()) == 2


@needs_make
def test_make_starts_afresh_after_an_install_that_was_cut_short(checkout):
    (checkout / "cut-short").touch()
    assert make_venv(checkout).returncode != 0
    (checkout / ".venv" / "half-written").touch()
    (checkout / "cut-short").unlink()
    assert make_venv(checkout).returncode == 0
    assert not (checkout / ".venv" / "half-written").exists()


@needs_make
def test_make_keeps_an_environment_that_someone_else_made(checkout):
    (checkout / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(checkout / "fake python", checkout / ".venv" / "bin" / "python")
    (checkout / "cut-short").touch()
    assert make_venv(checkout).returncode != 0
    (checkout / "cut-short").unlink()
    (checkout / ".venv" / "theirs").touch()
    assert make_venv(checkout).returncode == 0
    assert (checkout / ".venv" / "theirs").exists()


@needs_make
@pytest.mark.parametrize(
    ("trouble", "python", "sentence"),
    [
        ("too-old", "./fake python", "no Python 3.10 to 3.13 among: ./fake python"),
        ("", "/no/such/python", "no Python 3.10 to 3.13 among: /no/such/python"),
        ("no-ensurepip", "./fake python", "./fake python lacks the venv module (ensurepip)"),
    ],
)
def test_make_says_in_one_line_why_there_can_be_no_environment(checkout, trouble, python, sentence):
    if trouble:
        (checkout / trouble).touch()
    result = make_venv(checkout, python)
    ours = [line for line in result.stderr.splitlines() if not line.startswith("make: ***")]
    assert result.returncode != 0
    assert len(ours) == 1 and sentence in ours[0]
    assert not (checkout / ".venv").exists()

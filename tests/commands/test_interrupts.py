"""Ctrl-C while a command still imports what it needs: one exit code, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from bitnet.common.paths import PACKAGE

# Loaded by Python at its start, by this name: Ctrl-C at the first import of a module.
AT_IMPORT = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r} and "begun" not in globals():
            globals()["begun"] = True
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
"""
SMALL = ["data=synthetic", "data.tokens=20000", "model=tiny"]
COMMANDS = [
    ("train", "hydra", SMALL),
    ("train", "torch", SMALL),
    ("plan", "hydra", SMALL),
    ("plan", "torch", SMALL),
    ("check", "hydra", SMALL),
    ("check", "torch", SMALL),
    ("prepare", "hydra", SMALL[:2]),
    ("prepare", "tokenizers", SMALL[:2]),
    ("report", "pandas", ["."]),
    ("diagnose", "pandas", ["."]),
    ("status", "rich", ["."]),
]


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize(("name", "module", "arguments"), COMMANDS, ids=[f"{c}-{m}" for c, m, _ in COMMANDS])
def test_ctrl_c_in_an_import_ends_the_command_without_a_traceback(name, module, arguments, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(AT_IMPORT.format(module=module))
    places = os.pathsep.join([str(PACKAGE.parent), str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-m", f"bitnet.{name}", *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": places},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr

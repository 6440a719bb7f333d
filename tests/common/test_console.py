"""Messages are told to whoever listens, and nobody has to; results wait for their reader until it leaves."""

from __future__ import annotations

import errno
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bitnet.common import starting
from bitnet.common.console import say
from bitnet.common.paths import PACKAGE

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes as POSIX has them")

PROGRAM = """
import sys
from bitnet.common.starting import begin
begin("__main__")
from bitnet.common.console import print_text, say
"""
MANY = "\nfor line in range(5000): say(f'{line} ' + 'x' * 100)"  # half a megabyte: a pipe takes 64 kilobytes
RESULTS = "\nfor line in range(5000): print_text(f'{line} ' + 'x' * 100)"


def program(body: str, **streams) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    return subprocess.Popen([sys.executable, "-c", PROGRAM + body], env=environment, **streams)


def shell(line: str, body: str, folder: Path) -> subprocess.CompletedProcess:
    """A bash line in which PROGRAM stands for the program."""
    (folder / "program.py").write_text(PROGRAM + body)
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    command = line.replace("PROGRAM", f"{sys.executable} program.py")
    return subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("closed", ["2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"])
def test_with_closed_streams_messages_go_nowhere_and_no_file_gets_them(closed, tmp_path):
    body = "\nfile = open('later', 'w')\nsay('a message')\nsys.stderr.write('another')\nprint('a result')\nsys.exit(3)"
    done = shell(f"PROGRAM {closed}", body, tmp_path)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout == ("a result\n" if "1>" not in closed else "")
    assert (tmp_path / "later").read_text() == ""


def test_a_child_of_a_program_with_closed_streams_has_open_ones(tmp_path):
    body = "\nimport subprocess\nsys.exit(subprocess.call([sys.executable, '-c', 'import os; os.fstat(2)']))"
    assert shell("PROGRAM 2>&-", body, tmp_path).returncode == 0


def test_a_pipe_that_nobody_reads_costs_a_second_at_most():
    reading, writing = os.pipe()
    began = time.monotonic()
    process = program(MANY, stderr=writing)
    assert process.wait(timeout=30) == 0
    assert time.monotonic() - began < 20
    os.close(writing)
    assert os.read(reading, 10).startswith(b"0 xxx")
    os.close(reading)


@pytest.mark.parametrize("body", [MANY, RESULTS], ids=["messages", "results"])
def test_a_reader_that_stops_early_changes_no_exit_code(body, tmp_path):
    done = shell('PROGRAM 2>&1 | head -n 1; echo "${PIPESTATUS[0]}"', body + "\nsys.exit(3)", tmp_path)
    assert done.stdout.splitlines()[1:] == ["3"] and done.stderr == ""


def test_what_is_left_unflushed_when_the_reader_has_gone_is_no_error_either(tmp_path):
    body = "\nimport time\ntime.sleep(0.5)\nprint('unflushed')\nsys.exit(3)"
    assert shell('PROGRAM | true; echo "${PIPESTATUS[0]}"', body, tmp_path).stdout == "3\n"


def test_results_wait_for_a_reader_that_takes_its_time():
    process = program(RESULTS, stdout=subprocess.PIPE)
    time.sleep(2)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and len(said.splitlines()) == 5000


def test_a_terminal_that_nobody_reads_costs_a_second_at_most():
    ours, theirs = pty.openpty()
    process = program(MANY, stderr=theirs)
    os.close(theirs)
    assert process.wait(timeout=30) == 0
    os.close(ours)


def test_messages_to_a_terminal_that_has_gone_are_dropped():
    ours, theirs = pty.openpty()
    process = program("\nsys.stdin.readline()\n" + MANY, stdin=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    os.close(ours)
    process.communicate(b"\n", timeout=30)
    assert process.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk to write to")
def test_a_full_disk_takes_no_message_and_that_is_no_error_but_a_lost_result_is():
    with open("/dev/full", "w") as full:
        assert program(MANY, stderr=full).wait(timeout=30) == 0
        assert program("\nprint_text('a result')", stdout=full, stderr=subprocess.DEVNULL).wait(timeout=30) != 0


@pytest.mark.parametrize("stream", [None, "broken", "closed"])
def test_in_another_program_too_a_message_raises_nothing(stream, monkeypatch, capsys):
    class Broken:
        def write(self, text: str) -> int:
            raise (OSError(errno.EIO, "gone") if stream == "broken" else ValueError("I/O operation on closed file"))

    monkeypatch.setattr(sys, "stderr", None if stream is None else Broken())
    say("a message")
    assert capsys.readouterr().out == ""


def test_the_streams_of_a_program_that_imports_a_command_are_left_alone():
    before = sys.stdout, sys.stderr
    starting.begin("bitnet.train")
    assert (sys.stdout, sys.stderr) == before

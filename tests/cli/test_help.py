"""The help text: what a user's own folder of groups adds to it."""

from __future__ import annotations

import pytest

from bitnet.cli import help


def test_help_lists_the_groups_and_sweeps_of_config_dir(tmp_path):
    files = {"wd/mine.yaml": "", "myown/x.yaml": "", "sweeps/my_question.yaml": "sweep:\n  question: Does it learn?"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    lines = help.help_text(["--help", "--config-dir", str(tmp_path), "-m"]).splitlines()
    assert any(line.split()[:2] == ["myown", "x"] for line in lines)
    assert any(line.split()[:1] == ["wd"] and "mine" in line.split() and "paper" in line.split() for line in lines)
    assert any(line.split() == ["my_question", "Does", "it", "learn?"] for line in lines)
    assert not any("myown" in line for line in help.help_text().splitlines())


@pytest.mark.parametrize("arguments", [["--config-dir"], ["--config-dir", "nowhere"]])
def test_help_is_printed_whatever_else_is_wrong(arguments):
    assert help.help_text(["--help", *arguments]) == help.help_text()

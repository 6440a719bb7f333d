"""How runs of no sweep are called after the command that asked for them."""

from __future__ import annotations

from bitnet.analysis import grouping


def test_a_command_is_shortened_to_what_was_asked():
    assert grouping.short_command("/a/bin/python /b/bin/bitnet-train wd=paper 'x=[a b]'") == "wd=paper 'x=[a b]'"
    assert grouping.short_command("python -m pytest") == "python -m pytest"
    assert grouping.short_command("python -m bitnet.train") == "python -m bitnet.train"

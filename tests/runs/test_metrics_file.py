"""What of a `metrics.csv` can be used: the report, a run that goes on and a run that is done give one answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from run_folders import evaluations, make_run, metrics_text

from bitnet.analysis import frames
from bitnet.runs.metrics_file import known_evaluations, lost_rows, rows_problem, rows_until
from bitnet.runs.record import RunRecord

STEPS = [1, 1000, 2000]
TEXT = metrics_text(evaluations(STEPS, [5, 5, 5], [8.25, 7.5, 7.125])).encode()

Damage = Callable[[bytes], bytes]

UNDONE: dict[str, Damage] = {
    "line ends of Windows": lambda text: text.replace(b"\n", b"\r\n"),
    "a byte order mark": lambda text: b"\xef\xbb\xbf" + text,
    "both": lambda text: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"),
}

SAVED_ELSEWHERE: dict[str, Damage] = {
    "line ends of another system": lambda text: text.replace(b"\n", b"\r"),
    "in UTF-16": lambda text: b"\xff\xfe" + text.decode().encode("utf-16-le"),
    "another separator than commas": lambda text: text.replace(b",", b";"),
    "names in quotes": lambda text: text.replace(b"Step,Loss", b'"Step","Loss"'),
    "Loss 8.25, not 8.2500": lambda text: text.replace(b"8.2500", b"8.25"),
    "Loss 7.5, not 7.5000": lambda text: UNDONE["line ends of Windows"](text.replace(b"7.5000", b"7.5")),
}

LOST: dict[str, tuple[Damage, str]] = {
    "a row": (lambda text: b"".join(line for line in text.splitlines(True) if not line.startswith(b"1000,")), "1000"),
    "the end of the last row": (lambda text: text[:-3], "2000"),
    "cells of the last row": (lambda text: text[: text.rindex(b"2000,") + 20] + b"\n", "2000"),
    "every row": (lambda text: text[: text.index(b"\n") + 1], "1, 1000, 2000"),
}

UNUSABLE: dict[str, tuple[Damage | None, str]] = {
    "gone": (None, "is missing"),
    "emptied": (lambda _: b"", "is empty"),
    "torn": (lambda text: text[:30], "has no complete header"),
}
UNUSABLE |= {how: (change, f"is not used: another program saved it ({how}) and may") for how, change in SAVED_ELSEWHERE.items()}


def answers(folder: Path, change: Damage | None) -> tuple[frames.Records, str | None, str | None, str | None]:
    """What the report, a run that goes on, and one that is done say of a file."""
    run = make_run(folder, steps=2000, config={"eval_every": 1000})
    path = run / "metrics.csv"
    path.unlink()
    if change is not None:
        path.write_bytes(change(TEXT))
    found = frames.read_runs([folder])
    return found, rows_problem(path, STEPS, None), lost_rows(path, STEPS), RunRecord(run).lost_rows(1000)


@pytest.mark.parametrize("how", UNDONE)
def test_line_ends_and_a_byte_order_mark_change_no_number(tmp_path, how):
    found, going_on, done, recorded = answers(tmp_path, UNDONE[how])
    assert found.metrics["Step"].tolist() == STEPS and found.metrics["Loss"].tolist() == [8.25, 7.5, 7.125]
    assert found.runs["note"].tolist() == [""] and found.runs["holes"].tolist() == [()]
    assert (going_on, done, recorded) == (None, None, None)
    (path,) = tmp_path.glob("*/metrics.csv")
    assert [row[:3] for row in rows_until(path, 1000)] == [["1", "8.2500", "5"], ["1000", "7.5000", "5"]]


@pytest.mark.parametrize("how", UNUSABLE)
def test_a_file_that_is_not_used_is_told_by_all_for_the_same_reason(tmp_path, how):
    """Numbers that another program saved may have been rounded, and a verdict on rounded numbers is none."""
    change, said = UNUSABLE[how]
    found, going_on, done, recorded = answers(tmp_path, change)
    assert not len(found.metrics)
    (note,) = found.runs["note"]
    assert note == done == recorded == f"metrics.csv {going_on}"
    assert going_on.startswith(said)


@pytest.mark.parametrize("how", LOST)
def test_an_evaluation_that_is_lost_is_missed_by_all(tmp_path, how):
    change, step = LOST[how]
    found, going_on, done, recorded = answers(tmp_path, change)
    several = "s" * (", " in step)
    said = f"lacks the evaluation{several} at step{several} {step}"
    assert found.runs["note"].iloc[0].endswith(said)
    assert going_on == said and done == recorded == f"metrics.csv {said}"


def test_which_evaluations_are_known_depends_on_how_a_run_ended():
    assert known_evaluations("done", 25, 10) == [1, 10, 20, 25]
    assert known_evaluations("running", 25, 10) == [1, 10, 20]
    assert known_evaluations("diverged", 20, 10) == [1, 10]

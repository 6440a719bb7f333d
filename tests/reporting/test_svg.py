"""Figures as SVG: the same from the same numbers, well-formed whatever stands in them, safe to put into a page."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from bitnet.reporting.svg import COLOURS, Curve, DotRow, arm_style, draw_curves, draw_dots, draw_shares, draw_strip

NASTY = '<script>alert("x")</script> $\\frac{1}$ & Ω %s'
STEPS = np.array([100.0, 200.0, 300.0])


def curve(number: int = 0, **options) -> Curve:
    mean = np.array([9.0, 8.0, 7.0]) + number
    return Curve(arm_style(number), STEPS, mean, mean - 0.1, mean + 0.1, **options)


def drawn() -> dict[str, str]:
    return {
        "curves": draw_curves(
            [curve(), curve(1, published=[(200, 7.5)], diverged=[(300, 8)])], "a", NASTY, [150], [(NASTY, 10.8)]
        ),
        "dots": draw_dots([DotRow(NASTY, [1.0, 2.0, 1.5], 1.5, (1.0, 2.0))], "b", NASTY, 0.0, (-0.5, 0.5)),
        "shares": draw_shares([(NASTY, 0.9, "main"), ("rest", 0.1, "rest")], "c", NASTY),
    }


@pytest.mark.parametrize("kind", ["curves", "dots", "shares"])
def test_text_in_a_figure_stays_text(kind):
    svg = drawn()[kind]
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg") and root.get("class") == "figure"
    assert not [e for e in root.iter() if e.tag.endswith("script")]
    assert NASTY in "".join(root.itertext())


@pytest.mark.parametrize("kind", ["curves", "dots", "shares"])
def test_the_same_numbers_give_the_same_bytes_and_leave_no_trace(kind):
    before = dict(matplotlib.rcParams)
    assert drawn()[kind] == drawn()[kind]
    assert dict(matplotlib.rcParams) == before
    assert not re.search(r"\d{4}-\d\d-\d\dT", drawn()[kind]), "a date"


def test_figures_of_different_names_share_no_inner_name():
    ids = [set(re.findall(r' id="([^"]+)"', draw_curves([curve()], name, "y"))) for name in ("one", "two")]
    assert ids[0] and not ids[0] & ids[1]


def test_a_figure_scales_with_its_page():
    root = ElementTree.fromstring(drawn()["curves"])
    assert root.get("viewBox") and root.get("height") is None


def test_what_has_no_number_is_no_figure():
    empty = np.array([])
    assert draw_curves([Curve(arm_style(0), empty, empty, empty, empty)], "a", "y") == ""
    assert draw_dots([DotRow("arm", [])], "a") == ""


def test_published_points_show_before_any_run_does():
    empty = np.array([])
    assert draw_curves([Curve(arm_style(0), empty, empty, empty, empty, published=[(100, 5)])], "a", "y") != ""


@pytest.mark.parametrize(
    ("mean", "anchor", "above"),
    [
        ([9, 8, 7], "end", True),
        ([9, 8, 5.1], "start", True),  # a curve runs along it at the right
        ([5.1, 5.1, 5.1], "end", False),  # and here all along
        ([], "end", True),
    ],
)
def test_a_levels_name_stands_clear_of_the_curves(mean, anchor, above):
    line = np.array(mean, dtype="float64")
    drawing = draw_curves(
        [Curve(arm_style(0), STEPS[: len(mean)], line, line, line, published=[(100, 9)])], "a", "y", (), [("five", 5)], (4, 10)
    )
    (name,) = (e for e in ElementTree.fromstring(drawing).iter() if e.text == "five 5.00")
    (plain,) = (
        e
        for e in ElementTree.fromstring(draw_curves([curve()], "a", "y", (), [("five", 5)], (4, 10))).iter()
        if e.text == "five 5.00"
    )
    assert f"text-anchor: {anchor}" in (name.get("style") or "")
    assert (float(name.get("y") or 0) == float(plain.get("y") or 0)) == above


def test_sixteen_arms_look_different():
    assert len({arm_style(i) for i in range(16)}) == 16
    assert len({arm_style(i).colour for i in range(8)}) == 8


def test_a_strip_is_as_long_as_its_run_got():
    root = ElementTree.fromstring(draw_strip([(0, 500, "#111111"), (500, 1000, "#222222")], 2000))
    widths = [float(bar.get("width")) for bar in root]
    assert widths == [75.0, 75.0] and float(root[1].get("x")) == 75.0


def test_a_dot_for_each_seed():
    root = ElementTree.fromstring(draw_dots([DotRow("", [1.0, 2.0, 3.0], 2.0, (1.0, 3.0))], "a"))
    dots = [e for e in root.iter() if e.tag.endswith("use") and COLOURS[1].lower() in str(e.get("style")).lower()]
    assert len(dots) == 3


def test_colours_are_hexadecimal():
    assert all(re.fullmatch("#[0-9A-F]{6}", colour) for colour in COLOURS)

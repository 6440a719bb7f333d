"""Figures as SVG text: what to draw comes in as numbers, and the same numbers give the same bytes.

Made to be put into a page: a figure is about as wide as a phone's column, its text stays text, and colours (Okabe and Ito's,
which colour-blind readers tell apart) never say anything alone: lines have dashes, classes have words.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C6D31")

DASHES = ("", "5 2", "1.5 1.5", "6 2 1.5 2")  # SVG's, in line widths

GREY, FAINT, INK = "#666666", "#BBBBBB", "#222222"

WIDTH = 4.4  # inches

_Place = tuple[Literal["right", "left"], Literal["bottom", "top"]]

_ANCHORS: dict[Literal["right", "left"], float] = {"right": 1.0, "left": 0.0}

_SETTINGS = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name with a dollar sign is no formula
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.labelcolor": INK,
    "axes.formatter.useoffset": False,
}


@dataclass(frozen=True)
class Style:
    """How an arm is drawn, here and in the legend; dashes in line widths."""

    colour: str
    dash: str

    @property
    def svg_dash(self) -> str:
        """For a legend's line of 2.5 pixels."""
        return " ".join(f"{2.5 * float(x):g}" for x in self.dash.split())


def arm_style(number: int) -> Style:
    """Of the arm with this number; after eight, colours come again with another dash."""
    return Style(COLOURS[number % len(COLOURS)], DASHES[(number % len(COLOURS) // 2 + number // len(COLOURS)) % len(DASHES)])


@dataclass(frozen=True)
class Curve:
    """One arm over steps: mean, smallest and largest over its seeds, published points, and where runs diverged."""

    style: Style
    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    published: Sequence[tuple[float, float]] = ()
    diverged: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class DotRow:
    """A line of `draw_dots`: a number a seed, their mean, and its interval where it has one."""

    label: str
    values: Sequence[float]
    mean: float | None = None
    interval: tuple[float, float] | None = None


def _svg(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element that scales with its page; `name` keeps its inner names apart from other figures'."""
    out = io.StringIO()
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # nothing refers to groups, and their names would occur twice in a page
    opening, rest = text.split(">", 1)
    opening = re.sub(r' height="[^"]*"', "", opening.replace("<svg", '<svg class="figure"'))
    return f"{opening}>{rest}"


def framed_figure(svg: str, title: str, legend: Sequence[tuple[str, Style]] = ()) -> str:
    """A figure as a file of its own: on white, under its title and the legend that a page writes around it."""
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert size is not None  # every figure here has one
    inner, height = float(size[1]), float(size[2])
    longest = max([len(title) * 1.1, *(len(label) + 7 for label, _ in legend)])
    width, top = max(inner, 4.9 * longest + 16), 22 + 14 * len(legend)
    lines = [f'<text x="8" y="15" font-size="10" font-weight="bold">{escape(title)}</text>']
    for i, (label, look) in enumerate(legend):
        y = 29 + 14 * i
        dash = f' stroke-dasharray="{look.svg_dash}"' if look.dash else ""
        lines.append(f'<path d="M8 {y - 3}h22" stroke="{look.colour}" stroke-width="2"{dash}/>')
        lines.append(f'<text x="36" y="{y}" font-size="9">{escape(label)}</text>')
    nested = re.sub(r'<svg class="figure"(.*?) width="[^"]*"', rf'<svg y="{top}" width="{inner:g}" height="{height:g}"\1', svg)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {top + height:g}" width="{1.6 * width:g}" '
        f'font-family="Helvetica, Arial, sans-serif" fill="{INK}"><rect width="100%" height="100%" fill="white"/>'
        f"{''.join(lines)}{nested}</svg>\n"
    )


def _axes(height: float, width: float, left: float, bottom: float) -> tuple[Figure, Axes]:
    """Axes with margins in inches: the same in every figure, so that panels align; a layout engine takes as long as drawing."""
    figure = Figure(figsize=(width, height))
    room = (left / width, bottom / height, 1 - (left + 0.12) / width, 1 - (bottom + 0.1) / height)
    return figure, figure.add_axes(room)


# --------------------------------------------------------------------------------------------------------------- curves
def draw_curves(
    drawn: Sequence[Curve],
    name: str,
    ylabel: str,
    boundaries: Sequence[float] = (),
    levels: Sequence[tuple[str, float]] = (),
    limits: tuple[float, float] | None = None,
    end: float | None = None,
) -> str:
    """A column over steps, an arm a curve; empty when there is nothing to draw.

    Args:
        boundaries: steps at which stage 2 begins. levels: horizontal lines with their names. limits: of y.
        end: the last step of the longest run, so that what is not there yet has its place; by default where the data end.
    """
    if not any(len(c.steps) or c.published for c in drawn):
        return ""
    with matplotlib.rc_context(_SETTINGS):
        figure, axes = _axes(2.9, WIDTH, 0.55, 0.45)
        for step in boundaries:
            axes.axvline(step, color=FAINT, linewidth=1, zorder=0)
        for curve in drawn:
            _draw(axes, curve)
        if limits is not None:
            axes.set_ylim(*limits)
        if end is not None:
            axes.set_xlim(-0.02 * end, 1.02 * end)
        for i, (label, level) in enumerate(levels):
            axes.axhline(level, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)), zorder=0)
            across, side = _free_place(axes, drawn, [y for _, y in levels], i)
            axes.annotate(f"{label} {level:.2f}", (_ANCHORS[across], level), xycoords=("axes fraction", "data"), ha=across,
                          va=side, fontsize=7.5, color=GREY)  # fmt: skip
        for step in boundaries[:1]:
            axes.annotate("stage 2", (step, 1), xycoords=("data", "axes fraction"), xytext=(3, 0), textcoords="offset points",
                          va="top", fontsize=7.5, color=GREY)  # fmt: skip
        axes.set(xlabel="step", ylabel=ylabel)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
        axes.yaxis.set_major_locator(MaxNLocator(6, min_n_ticks=3))
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:.4g}")  # longer ones would push the label out
    return _svg(figure, name)


def _free_place(axes: Axes, drawn: Sequence[Curve], levels: Sequence[float], number: int) -> _Place:
    """Where along a level, and on which side of it, its name stands clear of all lines: at the right and above, if it can.

    Lines are the curves' means and the other levels; what is drawn beside a curve's mean may still touch it.
    """
    (first, last), (low, high) = axes.get_xlim(), axes.get_ylim()
    level, height = levels[number], 0.06 * (high - low)  # of the name and the space around it
    room: dict[_Place, float] = {}
    for across, anchor in _ANCHORS.items():
        at = first + np.linspace(min(anchor, 0.6), max(anchor, 0.4), 17) * (last - first)
        lines = [np.interp(at, c.steps, c.mean, np.nan, np.nan) for c in drawn if len(c.steps)]
        lines += [np.full_like(at, other) for i, other in enumerate(levels) if i != number]
        for side, middle in (("bottom", level + height / 2), ("top", level - height / 2)):
            gaps = np.abs(np.array(lines) - middle)
            room[across, side] = min(height, np.nan_to_num(gaps, nan=np.inf).min(initial=np.inf))
    return max(room, key=room.__getitem__)  # the first that has room enough, or the roomiest


def _draw(axes: Axes, curve: Curve) -> None:
    colour = curve.style.colour
    dash = tuple(float(x) for x in curve.style.dash.split())
    lonely = "o" if len(curve.steps) == 1 else None  # a line of one point shows nothing
    axes.plot(curve.steps, curve.mean, color=colour, linewidth=1.6, linestyle=(0, dash) if dash else "-", marker=lonely,
              markersize=4)  # fmt: skip
    if np.any(curve.high > curve.low):
        axes.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
    if curve.published:
        steps, values = zip(*curve.published, strict=True)
        axes.plot(steps, values, "D", markersize=5, markerfacecolor="white", markeredgecolor=colour, markeredgewidth=1.4)
    if curve.diverged:
        steps, values = zip(*curve.diverged, strict=True)
        axes.plot(steps, values, "x", markersize=7, color=colour, markeredgewidth=2)


# ----------------------------------------------------------------------------------------------------------------- dots
def draw_dots(
    rows: Sequence[DotRow],
    name: str,
    xlabel: str = "",
    reference: float | None = 0.0,
    margins: Sequence[float] = (),
    width: float = WIDTH,
) -> str:
    """Every seed's number as a dot, a row each; the mean a bar with its 95 % interval. Empty without a number.

    Args:
        reference: where nothing is (0, or a bound), as a solid line; None: no line. margins: what counts, dashed.
    """
    rows = [row for row in rows if len(row.values)]
    if not rows:
        return ""
    labelled = any(row.label for row in rows)
    with matplotlib.rc_context(_SETTINGS):
        bottom = 0.45 if xlabel else 0.28
        figure, axes = _axes((0.45 if labelled else 0.3) * len(rows) + bottom + 0.1, width, 0.12, bottom)
        if reference is not None:
            axes.axvline(reference, color=INK, linewidth=0.8, zorder=0)
        for margin in margins:
            axes.axvline(margin, color=GREY, linewidth=0.8, linestyle=(0, (3, 2)), zorder=0)
        for y, row in enumerate(rows):
            _dots(axes, y, row)
        axes.set_ylim(len(rows) - 0.5, -0.75 if labelled else -0.5)
        _bare(axes, xlabel)
    return _svg(figure, name)


def _dots(axes: Axes, y: float, row: DotRow) -> None:
    if row.interval is not None:
        axes.plot(row.interval, [y, y], color=COLOURS[0], linewidth=2.2, solid_capstyle="butt", alpha=0.55)
    if row.mean is not None and len(row.values) > 1:
        axes.plot([row.mean], [y], "|", color=COLOURS[0], markersize=12, markeredgewidth=2)
    axes.plot(row.values, [y] * len(row.values), "o", color=COLOURS[1], markersize=4.5,
              markeredgecolor="white", markeredgewidth=0.5)  # fmt: skip
    _heading(axes, y, row.label)


def _heading(axes: Axes, y: float, text: str) -> None:
    """A row's name above it: beside it, long names would leave no room for the row."""
    axes.annotate(text, (0, y), xycoords=("axes fraction", "data"), xytext=(0, 7), textcoords="offset points", fontsize=8,
                  color=INK, va="bottom")  # fmt: skip


def _bare(axes: Axes, xlabel: str) -> None:
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel(xlabel)
    axes.margins(x=0.06)


# --------------------------------------------------------------------------------------------------------------- shares
def draw_shares(of: Sequence[tuple[str, float, str]], name: str, xlabel: str) -> str:
    """Shares of a whole as bars, in the order given: (name, share, kind), kind one of `main`, `interaction`, `rest`."""
    colours: Mapping[str, str] = {"main": COLOURS[0], "interaction": COLOURS[4], "rest": FAINT}
    with matplotlib.rc_context(_SETTINGS):
        figure, axes = _axes(0.4 * len(of) + 0.55, WIDTH, 0.12, 0.45)
        for y, (label, share, kind) in enumerate(of):
            axes.barh(y, share, height=0.42, color=colours[kind])
            axes.annotate(f"{share:.0%}", (share, y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=9,
                          fontweight="bold", color=INK)  # fmt: skip
            _heading(axes, y, label)
        axes.set_ylim(len(of) - 0.6, -0.85)
        _bare(axes, xlabel)
        axes.set_xlim(0, 1.08)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    return _svg(figure, name)


# --------------------------------------------------------------------------------------------------------------- strips
def draw_strip(stretches: Sequence[tuple[float, float, str]], end: float) -> str:
    """A run's course as a bar from step 0 to `end`: (first, last, colour) of each stretch."""
    scale = 300 / end
    bars = [
        f'<rect x="{first * scale:.1f}" y="0" width="{max(1.0, (last - first) * scale):.1f}" height="12" fill="{colour}"/>'
        for first, last, colour in stretches
    ]
    return f'<svg class="strip" viewBox="0 0 300 12" preserveAspectRatio="none" role="img">{"".join(bars)}</svg>'

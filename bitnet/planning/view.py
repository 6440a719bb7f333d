"""The plan as a person reads it, or as JSON."""

from __future__ import annotations

import dataclasses
import json
import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from tabulate import tabulate

from bitnet.common.console import command_name, print_text
from bitnet.common.errors import UserError
from bitnet.common.text import DASH, counted, format_bytes, format_duration
from bitnet.config.run import RunConfig
from bitnet.planning.totals import totals
from bitnet.runs.statuses import FAILED

if TYPE_CHECKING:
    from bitnet.planning.forecast import Forecast
    from bitnet.planning.request import Placement
    from bitnet.planning.warnings import Notice

_WIDTH = 118


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:,.0f}"


def _clock(seconds: float | None) -> str:
    return DASH if seconds is None else format_duration(seconds)


def _steps(run: Forecast) -> str:
    return f"at most {run.asked_steps:,}" if run.steps is None else f"{run.steps:,}"


def rows(runs: Sequence[Forecast], differing: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table, a row a run."""
    named = any(r.arm for r in runs)
    heads = ["", "id", *(["arm"] if named else []), *differing]
    heads += ["parameters", "memory", "steps", "tokens", "time", "disk", "state"]
    table = []
    for n, r in enumerate(runs, 1):
        who = [str(n), r.run_id or DASH, *([r.arm or ""] if named else []), *(r.settings.get(k, "") for k in differing)]
        costs = [
            _number(r.parameters),
            format_bytes(r.memory),
            _steps(r),
            _number(r.tokens),
            _clock(r.seconds),
            format_bytes(r.disk),
        ]
        table.append([*who, *costs, r.state])
    return heads, table


def _to_train(runs: Sequence[Forecast]) -> str:
    """`1 run to train`; `9 runs: 3 finished, 6 to train`; `9 runs: 9 finished, none to train`."""
    todo = sum(not r.finished for r in runs)
    if todo == len(runs):
        return f"{counted(todo, 'run')} to train"
    failed = sum(r.finished and r.state.startswith(FAILED) for r in runs)
    done = len(runs) - todo - failed
    parts = [*([f"{done:,} finished"] if done else []), *([f"{failed:,} failed and skipped"] if failed else [])]
    return f"{counted(len(runs), 'run')}: {', '.join(parts)}, {f'{todo:,}' if todo else 'none'} to train"


def _summary(runs: Sequence[Forecast], total: dict[str, Any], place: Placement) -> str:
    """Totals in a sentence."""
    text = f"{_to_train(runs)}; "
    if total["seconds"] is not None:
        text += f"{format_duration(total['seconds'])} one after another"
        side = total["seconds_at_once"]
        text += f", {format_duration(side)} with {place.at_once} at once" if place.at_once not in (None, 1) else ""
        text += "; "
    tokens = "an unknown number of" if total["tokens"] is None else _number(total["tokens"])
    return text + f"{tokens} tokens; {format_bytes(total['disk'])} of disk"


def _where(place: Placement, out: str) -> str:
    from bitnet.training.device import describe, pick_device

    if place.at_once is None:
        where = "on a cluster" if place.on_cluster else f"as many at once as hydra/launcher={place.launcher} decides"
        return f"{where}, output in {out}; times are for this machine"
    try:
        device = ", ".join(describe(pick_device(name)) for name in place.device.split(","))
    except UserError:
        device = place.device
    threads = "" if place.threads is None else f", {counted(place.threads, 'thread')} each"
    return f"{device}, {place.at_once} at once{threads}, output in {out}"


def _notice_line(notice: Notice) -> str:
    arms = f"{'arms' if len(notice.arms) > 1 else 'arm'} {_ranges(notice.arms)}: " if notice.arms else ""
    return f"{notice.kind}: {arms}{notice.text}"


def _ranges(numbers: Sequence[int]) -> str:
    """`1-3, 7` for 1, 2, 3 and 7."""
    parts: list[list[int]] = []
    for n in numbers:
        if parts and n == parts[-1][-1] + 1:
            parts[-1].append(n)
        else:
            parts.append([n])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


def show(runs: Sequence[Forecast], notices: Sequence[Notice], place: Placement, config: RunConfig, command: list[str]) -> None:
    """The whole plan on stdout: a drawn table on a terminal, plain text elsewhere."""
    keys = dict.fromkeys(k for r in runs for k in r.settings)
    differing = [k for k in keys if len({r.settings.get(k, "") for r in runs}) > 1]
    common = " ".join(f"{k}={runs[0].settings[k]}" for k in keys if k not in differing and runs[0].settings.get(k))
    if config.sweep is not None:
        print_text(textwrap.fill(f"{config.sweep.name}: {config.sweep.question}", _WIDTH))
    label = "every run" if len(runs) > 1 else "the run"
    print_text(textwrap.fill(f"{label}: {common}", _WIDTH, subsequent_indent="  ", break_on_hyphens=False))
    print_text(f"{_where(place, config.out)}\n")
    heads, table = rows(runs, differing)
    console = Console(markup=False, emoji=False, highlight=False)
    if console.is_terminal:
        drawn = Table()
        for head in heads:
            drawn.add_column(head, justify="left" if head in {"id", "arm", "state", *differing} else "right")
        for row in table:
            drawn.add_row(*row)
        console.print(drawn)
    else:
        align = ["left" if head in {"id", "arm", "state", *differing} else "right" for head in heads]
        print_text(tabulate(table, heads, tablefmt="simple", disable_numparse=True, colalign=align))
    print_text(f"\n{_summary(runs, totals(runs, place), place)}")
    for notice in notices:
        print_text(_notice_line(notice))
    if not any(f.kind == "error" for f in notices):
        print_text(f"to start: {command_name('train')} {shlex.join(command)}")


def as_json(runs: Sequence[Forecast], notices: Sequence[Notice], place: Placement) -> str:
    whole = {"place": place, "totals": totals(runs, place), "runs": list(runs), "flags": list(notices)}
    return json.dumps(whole, indent=2, default=lambda o: str(o) if isinstance(o, Path) else dataclasses.asdict(o))

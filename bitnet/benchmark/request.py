"""What a command line of `bitnet.bench` asks for, from its arguments to its exit code."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bitnet.benchmark import document
from bitnet.benchmark.cases import DEFAULT_SIZES, QUICK_SIZES, parse_contenders, parse_sizes
from bitnet.benchmark.compare import SLOWER, compare, require_comparable
from bitnet.benchmark.results import circumstances, read, write
from bitnet.benchmark.steps import measure_steps
from bitnet.benchmark.sweeps import measure_sweep, named_sweep, scale_commands
from bitnet.benchmark.view import changes_section, costs_section, steps_section
from bitnet.common.console import print_text, say
from bitnet.common.errors import UserError
from bitnet.common.files import why_unwritable
from bitnet.reporting.text_layout import Section, render

Results = dict[str, Any]


def run(arguments: argparse.Namespace, width: int | None) -> int:
    """Measure, or read, then print, write and compare; 1 when something got slower beyond the spread.

    Args:
        width: characters of a line; None: as many as it takes.
    Raises:
        UserError: for what can't be used, before anything is measured.
    """
    measure = _MEASURES[arguments.what](arguments)
    path = arguments.json or _default_path(arguments.what)
    _check(arguments, path)
    earlier = None if arguments.compare is None else read(arguments.compare, "--compare", "steps")
    given = None if arguments.read is None else read(arguments.read, "--from", arguments.what)
    if earlier is not None:
        now = vars(arguments) if given is None else given
        require_comparable(earlier, now["device"], now["threads"], arguments.compare)
    results = measure() if given is None else given
    if given is None or arguments.json is not None:
        write(path, results)
        say(f"results are in {path}")
    sections = [_TABLES[arguments.what](results)]
    if arguments.document is not None:
        document.update(arguments.document, arguments.what, sections)
    changes = [] if earlier is None else compare(earlier, results)
    if earlier is not None:
        sections.append(changes_section(changes, arguments.compare))
    print_text("\n".join(render(section, "plain", width) for section in sections))
    return 1 if any(c.verdict == SLOWER for c in changes) else 0


def _check(arguments: argparse.Namespace, path: Path) -> None:
    """Refuse what could be of no use, or would be found out only after the measurement."""
    for option in ("threads", "rounds"):
        if getattr(arguments, option) < 1:
            raise UserError(f"--{option} {getattr(arguments, option)}: a whole number from 1 on is needed")
    if arguments.compare is not None and arguments.what != "steps":
        raise UserError(f"--compare {arguments.compare}: only training steps are compared, {arguments.what} is measured once")
    if (why := why_unwritable(path.parent)) is not None:
        raise UserError(f"--json {path}: {why}")
    if arguments.document is not None:
        document.around(arguments.document, arguments.what)


def _default_path(kind: str) -> Path:
    """A file of its own for each time, so that none is lost and any can be compared with."""
    return Path("outputs") / "bench" / f"{kind}-{datetime.now(timezone.utc):%Y-%m-%dT%H-%M-%S}.json"


# -------------------------------------------------------------------------------- a kind of measurement, read and ready to start
def _steps(arguments: argparse.Namespace) -> Callable[[], Results]:
    if arguments.overrides:
        raise UserError(f"{arguments.overrides[0]}: overrides belong to `sweep`; steps are chosen with --sizes, see --help")
    sizes = QUICK_SIZES if arguments.quick and arguments.sizes == DEFAULT_SIZES else arguments.sizes
    cases, contenders = parse_sizes(sizes), parse_contenders(arguments.contenders)
    how = {"device": arguments.device, "threads": arguments.threads, "rounds": arguments.rounds}
    return lambda: measure_steps(cases, contenders, **how)


def _sweep(arguments: argparse.Namespace) -> Callable[[], Results]:
    overrides = named_sweep(arguments.overrides)
    return lambda: _costs("sweep", {" ".join(overrides): overrides})


def _scale(arguments: argparse.Namespace) -> Callable[[], Results]:
    if arguments.overrides:
        raise UserError(f"{arguments.overrides[0]}: overrides belong to `sweep`, see --help")
    return lambda: _costs("scale", scale_commands(quick=arguments.quick))


def _costs(kind: str, commands: dict[str, list[str]]) -> Results:
    results = circumstances(kind) | {"cases": []}
    for name, overrides in commands.items():
        say(name)
        results["cases"].append({"command": name, "overrides": overrides, "cost": asdict(measure_sweep(overrides))})
    return results


_MEASURES = {"steps": _steps, "sweep": _sweep, "scale": _scale}

_TABLES: dict[str, Callable[[Results], Section]] = {"steps": steps_section, "sweep": costs_section, "scale": costs_section}

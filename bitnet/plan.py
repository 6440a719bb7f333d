"""`python -m bitnet.plan`: what a training command would do, run by run, before it does it. Starts nothing, writes nothing."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from tabulate import tabulate

from bitnet.called import called
from bitnet.compose import Composer, choices
from bitnet.config import RunConfig, load
from bitnet.errors import UserError
from bitnet.identity import digest, identity, source_key
from bitnet.overrides import as_sweep, check_sweep, explain, from_hydra, key_of, normalise, refuse, tell_repeats
from bitnet.paths import share
from bitnet.timeline import Stretch, makespan
from bitnet.train import complain, register_plugins, search_path
from bitnet.units import amount, clock

if TYPE_CHECKING:  # they load torch, which --help and a refusal do without
    from bitnet.forecast import Asked, Flag, Forecast, Place

_MISSING = "\u2013"
_WIDTH = 118

_EPILOG = """Every arm is composed and validated as bitnet.train does it, and listed with what tells it from the others:

  parameters   of the model
  memory       bytes on its device at the worst moment: weights, gradients, Adam's two means, what autograd keeps, logits;
               from a dry step without content. Python, torch and (on a GPU) CUDA come on top
  steps        those that it will do: a single pass over the data may end first
  time         from now to its end: a few steps and an evaluation of each distinct shape are measured, alone on this device.
               Runs side by side on a CPU share its memory and are somewhat slower; saving is not counted
  disk         checkpoints kept, metrics and records, when it is over

Below the table: `error` for what would stop it or make it fail (arms that are the same run, a device that is not there, too
little memory, disk or data), `note` for what is worth knowing before. Data is never prepared here: where it is not, the plan
says what that leaves unknown.

examples
  python -m bitnet.plan sweeps=quickstart
  python -m bitnet.plan -m model=256,512,768,1024 wd=paper,wd005 --no-measure
  python -m bitnet.plan sweeps=quickstart --json | jq '.runs[].seconds'

Exit codes: 0 it can be started, 1 an error stands below the table, 2 the input can't be used."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bitnet-plan",
        description="List the runs that a training command asks for, with their costs and what would go wrong.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for bitnet.train")
    parser.add_argument("-m", "--multirun", action="store_true", help="every combination of comma-separated values")
    parser.add_argument("--config-dir", "-cd", type=Path, help="a folder of your own groups and sweeps, as for bitnet.train")
    parser.add_argument("--no-measure", action="store_true", help="no times: a plan of many sizes in a moment")
    parser.add_argument("--json", action="store_true", help="print one JSON object: runs, totals, flags")
    parser.error = refuse
    return parser


# ----------------------------------------------------------------------------------------------------------- composing
def _asked(overrides: list[str], multirun: bool, config_dir: Path | None) -> tuple[list[Asked], bool]:
    """The runs that a command line asks for, and whether they are a sweep.

    Raises:
        UserError: when one can't be composed or is invalid, whatever raised it.
    """
    check_sweep(overrides, multirun)
    tell_repeats(overrides)
    if config_dir is not None:
        if not config_dir.is_dir():
            raise UserError(f"--config-dir {config_dir}: no such folder")
        overrides = [f"hydra.searchpath=['file://{config_dir.resolve()}']", *overrides]
    written = search_path([normalise(o) for o in as_sweep(overrides)])
    with initialize_config_dir(str(share() / "conf"), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None  # made by the line above
        try:
            return _expanded(hydra, written, multirun)
        except UserError:
            raise
        except Exception as error:
            if not from_hydra(error) and not type(error).__module__.startswith(("hydra", "omegaconf")):
                raise
            raise explain(error) from error


def _expanded(hydra: Hydra, written: list[str], multirun: bool) -> tuple[list[Asked], bool]:
    from bitnet import arms
    from bitnet.forecast import Asked

    sweeping = multirun or hydra.get_mode("config", written) == RunMode.MULTIRUN
    mode = RunMode.MULTIRUN if sweeping else RunMode.RUN
    master = hydra.compose_config("config", written, run_mode=mode)
    typed = OmegaConf.to_container(master.hydra.overrides.task, resolve=False)
    if not sweeping:
        return [_resumed(master, typed) or Asked(arms.typed(master), tuple(typed), choices(master.hydra))], False
    if "ArmsSweeper" not in master.hydra.sweeper._target_:
        search = master.hydra.runtime.choices["hydra/sweeper"]
        raise UserError(f"hydra/sweeper={search}: a search chooses its runs as it goes; leave it out to plan a grid or a sweep")
    config = arms.typed(master)
    if config.sweep is not None and config.sweep.includes:
        from bitnet.several import instead

        return _of_all([_expanded(hydra, instead(written, name), multirun)[0] for name in config.sweep.includes]), True
    composer = Composer(hydra.config_loader, master)
    listed = arms.arms_of(hydra.config_loader, config, choices(master.hydra), master.hydra.sweeper.params, typed)
    composed = [composer.arm(arm.overrides) for arm in listed]
    arms.check_claims(config.sweep, listed, composed)
    each = zip(listed, composed, strict=True)
    return [Asked(load(values), arm.overrides, options, arm.name) for arm, (values, options) in each], True


def _of_all(sweeps: list[list[Asked]]) -> list[Asked]:
    """The runs of several sweeps; one that an earlier sweep has too is trained, and counted, once."""
    asked: dict[str, int] = {}
    for place, runs in enumerate(sweeps):
        for run in runs:
            asked.setdefault(_sameness(run), place)
    return [run for place, runs in enumerate(sweeps) for run in runs if asked[_sameness(run)] == place]


def _sameness(run: Asked) -> str:
    return digest(identity(run.config, source_key(run.config)))


def _resumed(master: DictConfig, typed: list[str]) -> Asked | None:
    """The frozen run that `resume` names, None where it names none."""
    from bitnet.forecast import Asked
    from bitnet.records import RunRecord

    if master.resume is None:
        return None
    folder = Path(master.resume).expanduser().resolve()
    record = RunRecord(folder)
    own = tuple(o for o in typed if key_of(o) != "resume")
    return Asked(load(record.config()), own, record.read().get("choices", {}), record.read().get("arm"), folder)


def _place(config: RunConfig, runs: int, sweeping: bool, on_cluster: bool) -> Place:
    """Where `runs` of a command are carried out."""
    from bitnet import pool
    from bitnet.forecast import Place

    if on_cluster:
        return Place(config.device, None, config.threads)
    if not sweeping or config.launcher.kind != "local":
        return Place(config.device, 1, config.threads)
    room = pool.room(max(1, runs), config.device, config.launcher.jobs, config.launcher.jobs_per_gpu)
    return Place(config.device, room.jobs, config.threads or room.threads)


# ------------------------------------------------------------------------------------------------------------ printing
def _number(value: float | None) -> str:
    return _MISSING if value is None else f"{value:,.0f}"


def _clock(seconds: float | None) -> str:
    return _MISSING if seconds is None else clock(seconds)


def _steps(run: Forecast) -> str:
    return f"{run.asked_steps:,} at most" if run.steps is None else f"{run.steps:,}"


def rows(runs: Sequence[Forecast], differing: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table, a row a run."""
    named = any(r.arm for r in runs)
    heads = ["", "id", *(["arm"] if named else []), *differing]
    heads += ["parameters", "memory", "steps", "tokens", "time", "disk", "state"]
    table = []
    for n, r in enumerate(runs, 1):
        who = [str(n), r.run_id or _MISSING, *([r.arm or ""] if named else []), *(r.settings.get(k, "") for k in differing)]
        costs = [_number(r.parameters), amount(r.memory), _steps(r), _number(r.tokens), _clock(r.seconds), amount(r.disk)]
        table.append([*who, *costs, r.state])
    return heads, table


def totals(runs: Sequence[Forecast], place: Place) -> dict[str, Any]:
    """Sums over the runs that are not over; None is unknown."""
    from bitnet.forecast import disk_needed

    todo = [r for r in runs if not r.finished]
    known = all(r.seconds is not None for r in todo)
    tokens = None if any(r.tokens is None for r in todo) else sum(r.tokens for r in todo)
    return {
        "runs": len(runs),
        "to_do": len(todo),
        "tokens": tokens,
        "seconds": sum(r.seconds for r in todo) if known else None,
        "seconds_at_once": makespan(_stretches(runs), place.at_once) if known and place.at_once is not None else None,
        "disk": disk_needed(runs, place),
    }


def _stretches(runs: Sequence[Forecast]) -> list[Stretch]:
    """What each run that is not over has to do, and which other one it waits for."""
    places = {number: place for place, number in enumerate(n for n, r in enumerate(runs) if not r.finished)}
    found = []
    for run in (runs[number] for number in places):
        if run.trunk not in places:
            found.append(Stretch(run.seconds))
            continue
        trunk = runs[run.trunk]
        share = (run.done - trunk.done) / ((trunk.steps or trunk.asked_steps) - trunk.done)
        found.append(Stretch(run.seconds, places[run.trunk], share * trunk.seconds))
    return found


def _summary(total: dict[str, Any], place: Place) -> str:
    """Totals in a sentence."""
    text = f"{total['runs']} runs, {total['to_do']} to do: "
    if total["seconds"] is not None:
        text += f"{clock(total['seconds'])} one after another"
        side = total["seconds_at_once"]
        text += f", {clock(side)} with {place.at_once} at once" if place.at_once not in (None, 1) else ""
        text += "; "
    return text + f"{_number(total['tokens'])} tokens; {amount(total['disk'])} of disk"


def _where(place: Place, out: str) -> str:
    from bitnet.device import describe, pick_device

    if place.at_once is None:
        return f"on a cluster, below {out}; times are of this machine"
    try:
        device = describe(pick_device(place.device))
    except UserError:
        device = place.device
    threads = "" if place.threads is None else f", {place.threads} thread{'s' * (place.threads > 1)} each"
    return f"{device}, {place.at_once} at once{threads}, below {out}"


def _flag_line(flag: Flag) -> str:
    arms = f"{'arms' if len(flag.arms) > 1 else 'arm'} {_ranges(flag.arms)}: " if flag.arms else ""
    return f"{flag.kind}: {arms}{flag.text}"


def _ranges(numbers: Sequence[int]) -> str:
    """`1-3, 7` for 1, 2, 3 and 7."""
    parts: list[list[int]] = []
    for n in numbers:
        if parts and n == parts[-1][-1] + 1:
            parts[-1].append(n)
        else:
            parts.append([n])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


def _show(runs: Sequence[Forecast], flags: Sequence[Flag], place: Place, config: RunConfig, command: list[str]) -> None:
    """The whole plan on stdout: a drawn table on a terminal, plain text elsewhere."""
    keys = dict.fromkeys(k for r in runs for k in r.settings)
    differing = [k for k in keys if len({r.settings.get(k, "") for r in runs}) > 1]
    common = " ".join(f"{k}={runs[0].settings[k]}" for k in keys if k not in differing and runs[0].settings.get(k))
    if config.sweep is not None:
        print(textwrap.fill(f"{config.sweep.name}: {config.sweep.question}", _WIDTH))
    label = "every run" if len(runs) > 1 else "the run"
    print(textwrap.fill(f"{label}: {common}", _WIDTH, subsequent_indent="  ", break_on_hyphens=False))
    print(f"{_where(place, config.out)}\n")
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
        print(tabulate(table, heads, tablefmt="simple", disable_numparse=True, colalign=align))
    print(f"\n{_summary(totals(runs, place), place)}")
    for flag in flags:
        print(_flag_line(flag))
    if not any(f.kind == "error" for f in flags):
        print(f"start it: {called('train')} {shlex.join(command)}")


def _as_json(runs: Sequence[Forecast], flags: Sequence[Flag], place: Place) -> str:
    whole = {"place": place, "totals": totals(runs, place), "runs": list(runs), "flags": list(flags)}
    return json.dumps(whole, indent=2, default=lambda o: str(o) if isinstance(o, Path) else dataclasses.asdict(o))


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    register_plugins()
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        arguments = _parser().parse_intermixed_args(argv)
        asked, sweeping = _asked(arguments.overrides, arguments.multirun, arguments.config_dir)
        from bitnet.forecast import forecast_all
        from bitnet.freeze import say

        config = asked[0].config
        on_cluster = sweeping and config.launcher.kind not in {"local", "serial"}
        place = _place(config, len(asked), sweeping, on_cluster)
        runs, flags = forecast_all(asked, place, measuring=not arguments.no_measure, say=say)
    except UserError as error:
        return complain(error)
    except KeyboardInterrupt:
        return 130
    if arguments.json:
        print(_as_json(runs, flags, place))
    else:
        given = sys.argv[1:] if argv is None else argv
        _show(runs, flags, place, config, [a for a in given if a not in {"--no-measure", "--json"}])
    return 1 if any(f.kind == "error" for f in flags) else 0


if __name__ == "__main__":
    sys.exit(main())

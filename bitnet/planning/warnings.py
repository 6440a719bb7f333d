"""What would stop the runs of a plan or make them fail, and what is worth knowing before."""

from __future__ import annotations

import heapq
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bitnet.common.errors import UserError
from bitnet.common.files import existing_parent, why_unwritable
from bitnet.common.text import counted, format_bytes
from bitnet.config.claims import ENOUGH_SEEDS, seeds_allow
from bitnet.config.identity import digest
from bitnet.config.run import RunConfig
from bitnet.launch import resources
from bitnet.planning import cost
from bitnet.planning.request import Placement
from bitnet.training.device import pick_device

if TYPE_CHECKING:
    from bitnet.planning.forecast import Forecast

_BUSY = 0.5  # processes at work for each core, before the plan adds its own


@dataclass(frozen=True)
class Notice:
    """An `error` would stop or fail a run, or the sweep; a `note` is worth knowing before. `arms`: numbers from 1; none: all."""

    kind: Literal["error", "note"]
    text: str
    arms: tuple[int, ...] = ()


def merge_notices(notices: Iterable[Notice], count: int) -> list[Notice]:
    """Each text once, with the arms that it holds for, of `count`; errors first. A note on all of them names none."""
    arms: dict[tuple[str, str], list[int]] = defaultdict(list)
    for notice in notices:
        arms[notice.kind, notice.text].extend(notice.arms)
    merged = []
    for (kind, text), numbers in arms.items():
        those = tuple(sorted(set(numbers)))
        merged.append(Notice(kind, text, () if kind == "note" and len(those) == count else those))
    return sorted(merged, key=lambda f: f.kind != "error")


def same_runs(identities: Sequence[dict[str, Any]]) -> list[Notice]:
    """Arms that resolve to the same run, which a launch refuses."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, what in enumerate(identities, 1):
        numbers[digest(what)].append(number)
    text = "these resolve to the same run; keep only one of them"
    return [Notice("error", f"arms {', '.join(map(str, n))}: {text}") for n in numbers.values() if len(n) > 1]


def few_seeds(config: RunConfig, identities: Sequence[dict[str, Any]]) -> list[Notice]:
    """What the seeds of a sweep with declared claims allow to conclude, where that is less than a p-value below 0.05."""
    claims = getattr(config.sweep, "claims", None)
    arms_with = Counter(Counter(digest(i, without_seed=True) for i in identities).values())
    few = sorted(n for n in arms_with if n < ENOUGH_SEEDS)
    if not claims or not few:
        return []
    allowed = [f"n = {n} ({counted(arms_with[n], 'arm')}): {seeds_allow(n)}" for n in few]
    text = f"seeds for {counted(len(claims), 'declared claim')}: {'; '.join(allowed)}. A sign-flip p-value below 0.05 needs"
    return [Notice("note", f"{text} n = {ENOUGH_SEEDS} or more")]


def check_folders(config: RunConfig, runs: Sequence[Forecast], place: Placement) -> list[Notice]:
    """Whether the folders can be written, and hold what the runs leave."""
    notices, out, cache = [], Path(config.out), Path(config.data.cache)
    if any(r.run_id is None for r in runs) and (why := why_unwritable(cache)) is not None:
        notices.append(Notice("error", f"data.cache={cache}: can't be written ({why}); name another folder"))
    if (why := why_unwritable(out)) is not None:
        return [*notices, Notice("error", f"out={out}: can't be written ({why}); name another folder with out=FOLDER")]
    needed, free = disk_needed(runs, place), shutil.disk_usage(existing_parent(out)).free
    if needed > free:
        least = "checkpoint.keep=1 needs less, out=FOLDER writes elsewhere"
        notices.append(Notice("error", f"out={out}: {format_bytes(needed)} needed, {format_bytes(free)} free; {least}"))
    return notices


def disk_needed(runs: Iterable[Forecast], place: Placement) -> int:
    """Bytes that the runs that are not over leave; one more checkpoint for each at work, and for each step that others share."""
    todo = [r for r in runs if not r.finished]
    saving = heapq.nlargest(place.at_once or len(todo), (r.checkpoint for r in todo))
    shared = {(r.trunk, r.done): r.checkpoint for r in todo if r.trunk is not None}
    return sum(r.disk for r in todo) + sum(saving) + sum(shared.values())


def check_machine(runs: Sequence[Forecast], place: Placement) -> list[Notice]:
    """Whether the device is there, and whether the largest runs that may be at work together fit into what is free now."""
    if place.at_once is None:
        return []
    try:
        device = pick_device(place.device)
    except UserError as error:
        return [Notice("error", str(error))]
    free = cost.available_memory(device)
    gpus = resources.capacity(1, place.device, None, 1).devices if device.type == "cuda" else ()
    apart = max(1, len(gpus))  # they hold runs apart from each other
    needed = heapq.nlargest(-(-place.at_once // apart), (r.memory for r in runs if not r.finished))
    if free is None or sum(needed) <= free:
        return []
    kind = "error" if needed[0] > free else "note"
    remedy = "a smaller model or batch_size" + ("" if len(needed) == 1 else ", or launcher.jobs=1")
    what = f"{counted(len(needed), 'run')} at once on {device.type} may need {format_bytes(sum(needed))} of memory"
    return [Notice(kind, f"{what}, {format_bytes(free)} free; try {remedy}")]


def machine_busy(place: Placement) -> list[Notice]:
    """Whether other processes take the cores from what is measured."""
    cores, load = os.cpu_count() or 1, os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load < _BUSY * cores:
        return []
    return [
        Notice(
            "note",
            f"other processes are using this machine (load {load:.1f} on {counted(cores, 'core')}): the times include that",
        )
    ]

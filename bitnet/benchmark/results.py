"""From turns to figures: medians with quartiles, ratios within rounds, shares of the bound; and the file that holds them."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bitnet.benchmark.bound import memory_needed, step_work
from bitnet.benchmark.cases import REFERENCE, Case, run_of
from bitnet.benchmark.interleaved import Turns
from bitnet.common.errors import UserError
from bitnet.common.files import write_atomically

FORMAT = 1  # of the file

Figure = dict[str, float]


def figure(values: Sequence[float]) -> Figure:
    """Median and quartiles."""
    if len(values) == 1:
        return {"median": values[0], "low": values[0], "high": values[0]}
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def results_of(case: Case, turns: dict[str, Turns]) -> list[dict[str, Any]]:
    """An entry a contender, in the order of `turns`."""
    yardstick = turns.get(REFERENCE)
    ratios = yardstick is not None and yardstick.error is None
    return [_entry(case, name, t, yardstick if ratios else None) for name, t in turns.items()]


def _entry(case: Case, name: str, turns: Turns, yardstick: Turns | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"case": str(case), "contender": name, "hidden": case.hidden, "batch": case.batch}
    entry |= {"length": case.length, "vocabulary": case.vocabulary}
    if turns.error is not None:
        return entry | {"error": turns.error}
    step = figure(turns.seconds)
    split = {part: 1000 * statistics.median(p[part] for p in turns.parts) for part in turns.parts[0]}
    work = step_work(run_of(case).model, case.vocabulary, case.batch, case.length)
    entry |= {
        "tokens_per_second": figure([case.tokens / s for s in turns.seconds]),
        "ratio": None,
        "step_ms": 1000 * step["median"],
        "split_ms": split,
        "evaluation_ms": figure([1000 * s for s in turns.evaluations]) if turns.evaluations else None,
        "evaluation_steps": statistics.median(turns.evaluations) / step["median"] if turns.evaluations else None,
        "evaluations_per_second": figure([1 / s for s in turns.evaluations]) if turns.evaluations else None,
        "evaluation_ratio": None,
        "bound_share": statistics.median(
            work.seconds(p["fp32"], p["copy"]) / s for p, s in zip(turns.peaks, turns.seconds, strict=True)
        ),
        "memory": turns.memory,
        "rounds_seconds": turns.seconds,
    }
    if yardstick is not None:
        entry["ratio"] = figure([theirs / ours for theirs, ours in zip(yardstick.seconds, turns.seconds, strict=True)])
        if turns.evaluations:
            its_step = statistics.median(yardstick.seconds)
            entry["evaluation_ratio"] = figure([its_step / s for s in turns.evaluations])
    return entry


def too_large(case: Case, contenders: Sequence[str], available: int | None) -> str | None:
    """Why a case can't be measured on this machine, all contenders being alive at once; None where it can."""
    needed = len(contenders) * memory_needed(run_of(case).model, case.vocabulary, case.batch, case.length)
    if available is None or needed < available:
        return None
    return f"needs about {needed / 1e9:.0f} GB for {len(contenders)} contenders at once, {available / 1e9:.0f} GB are free"


def circumstances(kind: str) -> dict[str, Any]:
    """Where and how figures were measured; `kind`: steps, sweep or scale."""
    return {
        "format": FORMAT,
        "kind": kind,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "torch": version("torch"),
    }


def processor() -> str:
    """The processor's model and what matters to products of narrow numbers; as much as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    known = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    units = [u for u in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile") if u in known.get("flags", "").split()]
    return " ".join([known.get("model name", platform.machine()), *([f"({', '.join(units)})"] if units else [])])


def write(path: Path, results: dict[str, Any]) -> None:
    """Write results as JSON, with the folder where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(results, indent=1) + "\n")


def read(path: Path, option: str, kind: str) -> dict[str, Any]:
    """Results that `write` wrote; `option` is what named them, `kind` what they have to be of.

    Raises:
        UserError: when they can't be read, or are something else.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        found = results["format"], results["kind"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{option} {path}: not a file of bitnet.bench's results ({type(error).__name__})") from None
    if found != (FORMAT, kind):
        raise UserError(f"{option} {path}: results of {found[1]} in format {found[0]}; needed are {kind} in format {FORMAT}")
    return results

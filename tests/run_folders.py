"""Run folders made by hand, for the tests of what reads them."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from bitnet.runs.columns import COLUMNS, format_value

Row = dict[str, float]


def evaluations(steps: Sequence[int], unique: Sequence[float], loss: Sequence[float] = ()) -> list[Row]:
    """Rows of metrics.csv with 20 random contexts; the loss is 7 where none is given."""
    losses = loss or [7.0] * len(steps)
    named = zip(steps, unique, losses, strict=True)
    return [{"Step": s, "UniquePredictions": u, "Loss": x, "contexts_positions": 20} for s, u, x in named]


def losses(steps: Sequence[int], values: Sequence[float], **own: float) -> list[Row]:
    """Rows with these losses, in training and held out, for as many of the steps as there are values, and what they share."""
    return [own | {"Step": s, "Loss": x, "heldout_loss": x} for s, x in zip(steps, values, strict=False)]


def declare(folder: Path, *versions: tuple[str, dict[str, Any]], **sweep: Any) -> None:
    """`sweep.json` with these claims at these times."""
    folder.mkdir(parents=True, exist_ok=True)
    declared = [{"at": at, "sweep": {"name": folder.name, "claims": claims, **sweep}, "scale": None} for at, claims in versions]
    (folder / "sweep.json").write_text(json.dumps({"declared": declared}))


def metrics(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's metrics.csv, as they are written."""
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def metrics_text(rows: Sequence[Row]) -> str:
    """What the trainer writes: every column, an empty cell where there is no value."""
    lines = [",".join(_cell(column, row.get(column, "")) for column in COLUMNS) for row in rows]
    return "\n".join([",".join(COLUMNS), *lines]) + "\n"


def _cell(column: str, value: float | str) -> str:
    """A text is what stands there, whatever a run would write."""
    return value if isinstance(value, str) else format_value(column, value)


def make_run(
    folder: Path,
    *,
    arm: str = "wd=paper",
    seed: int = 0,
    hidden: int = 256,
    steps: int = 10_000,
    status: str = "done",
    rows: Sequence[Row] | None = (),
    config: dict[str, Any] | None = None,
    name: str | None = None,
    **record: Any,
) -> Path:
    """One run folder below `folder`. `rows=None`: no metrics.csv; `config` and `record` replace keys in its files; `name`: the
    folder's, by default that of what tells the run from others."""
    choices = {"lr": "study", "optimizer": "adam_l2", "clip": "norm1", "smoothing": "none", "model": str(hidden)}
    choices |= dict(token.split("=") for token in arm.split(","))
    identity = f"{arm}-{hidden}-{steps}"
    run = folder / (name or f"{identity}-{seed}")
    run.mkdir(parents=True)
    values = {
        "schema": 1,
        "id": f"{identity}-{seed}",
        "arm_id": identity,
        "label": arm,
        "arm": None,
        "seed": seed,
        "status": status,
        "reason": None,
        "step": steps if status == "done" else 0,
        "steps": steps,
        "sweep": folder.name,
        "published": [],
        "overrides": arm.split(","),
        "choices": choices,
        "created": "2025-01-01T00:00:00+00:00",
    }
    if status != "queued":
        values |= {
            "started": "2025-01-01T00:00:00+00:00",
            "device": "cpu",
            "data": {"name": "pydocs", "vocab_size": 8192, "ln_vocab": 9.01, "unigram_entropy": 6.9},
            "timing": {"train_seconds": 90.0, "eval_seconds": 10.0, "tokens_per_second": 1000.0},
        }
    (run / "run.json").write_text(json.dumps(values | record))
    (run / "config.yaml").write_text(yaml.safe_dump(study_config(arm, steps, hidden) | (config or {})))
    if rows is not None and status != "queued":
        (run / "metrics.csv").write_text(metrics_text(rows))
    return run


# What the options that tests name change in the configuration of the study's wd=paper.
_OPTIONS = {
    "wd=wd005": ("wd", {"stage2": 0.05}),
    "wd=wd01": ("wd", {"stage2": 0.1}),
    "wd=wd02": ("wd", {"stage2": 0.2}),
    "optimizer=adamw": ("optimizer", {"kind": "adamw"}),
    "clip=norm01": ("clip", {"max_norm": 0.1}),
    "smoothing=ls01": ("smoothing", {"epsilon": 0.1}),
}


def study_config(arm: str, steps: int, hidden: int) -> dict[str, Any]:
    """What config.yaml holds of the study's protocol, for an arm in the options above."""
    model = {"hidden_size": hidden, "num_layers": 4, "num_heads": 4, "num_kv_heads": 4, "ffn_size": 2 * hidden}
    model |= {"gated_ffn": True, "tied_head": False, "fused_projections": True, "norm_placement": "block_and_bitlinear"}
    model |= {"output_scale": 1.0}
    model |= {"activation": "relu2", "norm_eps": 1e-5, "rope_theta": 10_000.0, "init": "pytorch"}
    lr = {"kind": "two_stage_linear", "peak": 1.5e-3, "warmup_steps": 375, "boundary": 0.5, "mid_fraction": 2 / 3}
    config: dict[str, Any] = {
        "steps": steps,
        "batch_size": 4,
        "seq_len": 32,
        "schedule_lag": 1,
        "precision": "fp32",
        "model": model,
        "lr": lr | {"end_fraction": 0.001, "reference_hidden_size": None},
        "wd": {"kind": "two_stage", "stage1": 0.1, "stage2": 0.0, "boundary": 0.5, "first_step": None},
        "clip": {"max_norm": 1.0},
        "smoothing": {"epsilon": 0.0, "form": "study"},
        "optimizer": {"kind": "adam_l2", "betas": [0.9, 0.95], "eps": 1e-8, "decay_scope": "all", "reset_at": None},
        "quant": {"weights": "ternary", "activations": "int8"},
        "regularizer": {"kind": "none", "weight": 0.0},
        "data": {"source": "pydocs", "encode": "lines", "order": "sequential", "at_end": "stop"},
        "probe": {"metric": "random_contexts", "contexts": 20, "context_length": 8},
    }
    for option in arm.split(","):
        group, values = _OPTIONS.get(option, ("wd", {}))
        config[group] = config[group] | values
    return config


def baseline_config() -> dict[str, Any]:
    """What the study's baseline has of its own: its metric B, and an optimizer that was built without decay."""
    wd = study_config("wd=wd005", 1, 1)["wd"] | {"first_step": 0.0}
    return {"probe": {"metric": "first_batch"}, "wd": wd}

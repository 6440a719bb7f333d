"""The tables of `analysis.tables` and `analysis.verification` as text: what a cell looks like, and what a caption must say.

Each function turns one numeric frame into a `Section` of strings, which `text_layout` lays out.
"""

from __future__ import annotations

import pandas as pd

from bitnet.analysis import verification as plan
from bitnet.analysis.published import DATA, PRINTED_PARAMETERS, VOCAB_SIZE, formula_parameters, same_data
from bitnet.common.text import DASH, counted
from bitnet.reporting.text_layout import Section
from bitnet.runs.columns import PARTS
from bitnet.runs.statuses import DONE

PRINTED_STEPS = 12

_VERDICTS = (
    "Pass: every success criterion. Fail: a failure criterion is met or a success criterion missed. A run without an "
    "evaluation at a criterion's step has not reached it, and is undecided unless another criterion fails it."
)

_COUNTS = "n: runs behind the mean; +d: diverged runs of the arm; +u: unfinished (running, failed, queued, missing)"


# --------------------------------------------------------------------------------------------------------------- cells
def number(value: float | None, digits: int) -> str:
    """A value with `digits` decimals; the dash for what is missing."""
    return DASH if value is None or pd.isna(value) else f"{value:,.{digits}f}"


def spread(mean: float, sd: float, digits: int) -> str:
    """`mean ± sd`; no spread where there is none (n = 1)."""
    return number(mean, digits) + ("" if pd.isna(sd) else f" ± {sd:.{digits}f}")


def _tokens(row: pd.Series) -> str:
    """`10.3 [8-12]`, `10` for a single run."""
    n = row["n"] + row["n_diverged"]
    if pd.isna(row["mean"]) or n == 1:
        return number(row["mean"], 0)
    return f"{row['mean']:.1f} [{row['min']:.0f}-{row['max']:.0f}]"


def _n_text(n: int, diverged: int, unfinished: int) -> str:
    """`2+1d+1u`: two runs behind the value, one diverged and one unfinished run in the arm."""
    return f"{n}" + (f"+{diverged}d" if diverged else "") + (f"+{unfinished}u" if unfinished else "")


def _counts(table: pd.DataFrame) -> list[str]:
    # an unfinished run that already got as far as the table asks stands in n
    beyond = (table["runs"] - table["diverged"] - table["n"]).clip(lower=0).combine(table["unfinished"], min)
    return [_n_text(n, d, u) for n, d, u in zip(table["n"], table["diverged"], beyond, strict=True)]


def _beside(published: pd.Series, runs: pd.DataFrame) -> str:
    """What a reader must know of the published figures: that there are none, or that they are of other data."""
    if not published.notna().any():
        return "\nThere are no published figures for these arms."
    if same_data(runs):
        return ""
    data = runs[runs["data"].notna()].drop_duplicates(["data", "vocab_size"])
    ours = ", ".join(f"{d} V={number(v, 0)}" for d, v in zip(data["data"], data["vocab_size"], strict=True))
    return f"\npublished: {DATA}, V={VOCAB_SIZE:,}; here: {ours}."


# -------------------------------------------------------------------------------------------------------------- tables
def contents(experiments: dict[str, int]) -> Section:
    """The experiments that follow and how many runs each has, where there are several."""
    caption = "Each has its own tables, since arms of different experiments are not meant to be compared; to compare some "
    caption += "anyway, name their folders. The verification plan and the unfinished runs come last, over all experiments."
    frame = pd.DataFrame({"runs": [number(n, 0) for n in experiments.values()]}, index=pd.Index(experiments, name="experiment"))
    return Section(f"{len(experiments)} experiments", caption, [frame], level=1)


def opening(experiment: str, runs: int, shared: list[str]) -> Section:
    """The heading of an experiment; `shared` as of `bitnet.analysis.tables.shared_overrides`."""
    caption = f"Runs: {number(runs, 0)}."
    if shared:
        caption += f" Common to all arms, and omitted from their names: {' '.join(shared)}"
    return Section(experiment, caption, level=1)


def tokens(table: pd.DataFrame, arms: pd.DataFrame, runs: pd.DataFrame) -> Section:
    """Rows steps, a column an arm with the published figure in brackets; arms of the same length stand together."""
    frames = []
    for _, same_length in arms.groupby("steps"):
        part = table[table["arm_id"].isin(same_length.index)]
        steps = _chosen(part, sorted(set(same_length["boundary_step"])))
        rows = pd.Index(["n", *(number(step, 0) for step in steps)], name="step")
        columns = {}
        for arm_id, arm in same_length.iterrows():
            head, cells = _arm_column(part[part["arm_id"] == arm_id].set_index("step"), arm, steps)
            columns[head] = cells
        frames.append(pd.DataFrame(columns, index=rows))
    caption = f"Mean and [smallest-largest] over seeds; (published) on the right. {_ceilings(arms)}\n{_COUNTS}."
    caption += f" At most {PRINTED_STEPS} steps are shown; the CSV has all of them."
    caption += _beside(table["published"], runs)
    return Section("Distinct predicted tokens by step and arm", caption, frames)


def _arm_column(table: pd.DataFrame, arm: pd.Series, steps: list[float]) -> tuple[str, list[str]]:
    """Heading and cells of one arm: how many runs, then each step's figure, with its own n where that is smaller."""
    most = int(table["n"].max()) if len(table) else 0
    compared = bool(table["published"].notna().any())
    cells = [_n_text(most, int(arm["diverged"]), max(0, int(arm["runs"] - arm["diverged"] - most)))]
    for step in steps:
        row = table.loc[step] if step in table.index else None
        text = DASH if row is None else _tokens(row)
        if row is not None and 0 < row["n"] + row["n_diverged"] < most + arm["diverged"]:
            text += f" n={_n_text(int(row['n']), int(row['n_diverged']), 0)}"
        cells.append(f"{text} ({number(None if row is None else row['published'], 0)})" if compared else text)
    return arm["arm"] + (" (published)" if compared else ""), cells


def _chosen(table: pd.DataFrame, boundaries: list[float]) -> list[float]:
    """Steps to print, twelve at most: the first, those at the boundaries, the last, then published and other ones."""
    steps = sorted(set(table["step"]))
    at_boundary = [max(before) for b in boundaries if (before := [s for s in steps if s <= b])]
    chosen = set(steps[:1] + steps[-1:] + at_boundary[:PRINTED_STEPS])
    for pool in (sorted(set(table.loc[table["published"].notna(), "step"])), steps):
        rest = [step for step in pool if step not in chosen]
        free = max(0, PRINTED_STEPS - len(chosen))
        picks = min(free, len(rest))
        chosen |= {rest[(2 * i + 1) * len(rest) // (2 * picks)] for i in range(picks)}
    return sorted(chosen)


def _ceilings(arms: pd.DataFrame) -> str:
    kinds = {"random_contexts": "the last position of random contexts", "first_batch": "the first training batch"}
    facts = arms[["metric", "ceiling"]].drop_duplicates().sort_values(["metric", "ceiling"])
    pairs = zip(facts["metric"], facts["ceiling"], strict=True)
    places = [f"{kinds.get(metric, metric)} (ceiling {number(ceiling, 0)})" for metric, ceiling in pairs]
    return f"Tokens: distinct argmaxes at {', or at '.join(places)}."


def boundary(table: pd.DataFrame, runs: pd.DataFrame) -> Section:
    """Two frames, rows arms: the loss, then the distinct tokens."""
    names = pd.Index(table["arm"], name="arm")
    common = {"n": _counts(table), "steps": _arrows(table[["step_before", "step_after"]])}
    their_loss = zip(table["published_loss_before"], table["published_loss_after"], strict=True)
    theirs = [
        DASH if pd.isna(before - after) else f"{before:.2f}→{after:.2f} ({100 * (1 - after / before):.1f} %)"
        for before, after in their_loss
    ]
    loss = common | {
        "before": _spreads(table, "loss_before", 2),
        "after": _spreads(table, "loss_after", 2),
        "drop": _spreads(table, "drop", 2),
        "drop %": _spreads(table, "drop_percent", 1),
        "published": theirs,
    }
    unique = common | {
        "before": _spreads(table, "unique_before", 1),
        "after": _spreads(table, "unique_after", 1),
        "final": _spreads(table, "unique_final", 1),
        "after/before": _spreads(table, "recovery", 2),
        "final/before": _spreads(table, "final_over_before", 2),
        "published": _arrows(table[[f"published_unique_{when}" for when in ("before", "after", "final")]]),
    }
    caption = "First the training loss on one batch (nats), then the distinct tokens, at the last evaluation up to the "
    caption += "boundary and at the first one at least a tenth of the run later. Mean ± sd over seeds; held-out loss is in the "
    caption += f"CSV.\n{_COUNTS}."
    caption += _beside(table["published_unique_before"], runs)
    frames = [pd.DataFrame(columns, index=names) for columns in (loss, unique)]
    return Section("Before and after the boundary", caption, frames)


def _arrows(table: pd.DataFrame) -> list[str]:
    """`5,000→6,000` of each row, the dash for a row without any value."""
    rows = table.to_numpy().tolist()
    return ["→".join(number(v, 0) for v in row) if pd.notna(row).any() else DASH for row in rows]


def _spreads(table: pd.DataFrame, measure: str, digits: int) -> list[str]:
    return [spread(m, sd, digits) for m, sd in zip(table[measure], table[f"{measure}_sd"], strict=True)]


def parameters(table: pd.DataFrame) -> Section:
    """Rows models, columns parts."""
    usual = table["formula"].notna()
    models = [
        number(h, 0) + ("" if study_layout else f" ({layers:.0f} layers, FFN {ffn:.0f})")
        for study_layout, h, layers, ffn in zip(usual, table["hidden_size"], table["num_layers"], table["ffn_size"], strict=True)
    ]
    numbers = ["vocab_size", "total", *PARTS, "formula", "difference"]
    heads = {"vocab_size": "V", "difference": "off by"}
    columns = {heads.get(c, c): [number(v, 0) for v in table[c]] for c in numbers}
    columns["published"] = [DASH if pd.isna(v) else f"{v / 1e6:.0f}M" for v in table["published"]]
    caption = "Counted in the models. formula: 40 h^2 + 2 V h + 29 h, for the study's layout only; off by: total - "
    caption += f"formula.\nThe study (V = {VOCAB_SIZE:,}) printed 28M scaled by h^2, which the embedding does not "
    caption += "follow: its own formula gives "
    caption += ", ".join(f"{formula_parameters(h, VOCAB_SIZE) / 1e6:.0f}M" for h in PRINTED_PARAMETERS)
    caption += f" at h = {', '.join(map(str, PRINTED_PARAMETERS))}."
    return Section("Parameters by size", caption, [pd.DataFrame(columns, index=pd.Index(models, name="hidden"))])


_STATISTICS = {
    "unique_mean": ("unique, mean", 1),
    "unique_min": ("unique, smallest", 1),
    "unique_max": ("unique, largest", 1),
    "unique_stage1": ("unique, mean before the boundary", 1),
    "unique_stage2": ("unique, mean after the boundary", 1),
    "share_under_3": ("points under 3 unique, %", 1),
    "unique_final": ("unique, final", 1),
    "loss_min": ("loss, smallest", 2),
    "loss_mean": ("loss, mean", 2),
    "loss_final": ("loss, final", 2),
}


def baseline(table: pd.DataFrame, runs: pd.DataFrame) -> Section:
    """Rows statistics, a column an arm with the published figure in brackets."""
    columns = {}
    compared = [f"published_{name}" for name in _STATISTICS]
    for (_, arm), n in zip(table.iterrows(), _counts(table), strict=True):
        against = bool(arm[compared].notna().any())
        cells = [n, number(arm["steps"], 0)]
        for name, (_, digits) in _STATISTICS.items():
            factor = 100 if name == "share_under_3" else 1
            text = spread(arm[name] * factor, arm[f"{name}_sd"] * factor, digits)
            cells.append(f"{text} ({number(arm[f'published_{name}'] * factor, digits)})" if against else text)
        columns[arm["arm"] + (" (published)" if against else "")] = cells
    rows = pd.Index(["n", "steps", *(title for title, _ in _STATISTICS.values())], name="over all evaluations of a run")
    caption = f"Each run's statistic, then mean ± sd over seeds; finished and diverged runs only.\n{_COUNTS}."
    caption += _beside(table["published_unique_mean"], runs)
    return Section("Each arm over its whole run (the study's baseline table)", caption, [pd.DataFrame(columns, index=rows)])


def learning(table: pd.DataFrame) -> Section:
    """Rows arms, lowest held-out loss first."""
    table = table.sort_values("heldout_loss", kind="stable")
    beside = zip(table["heldout_distinct_targets"], table["heldout_positions"], strict=True)
    columns = {
        "n": _counts(table),
        "held-out loss": _spreads(table, "heldout_loss", 2),
        "unigram entropy": [number(v, 2) for v in table["unigram_entropy"]],
        "ln V": [number(v, 2) for v in table["ln_vocab"]],
        "uniq": _spreads(table, "heldout_uniq", 1),
        "targets/ positions": [f"{number(t, 0)}/{number(p, 0)}" if t == t else DASH for t, p in beside],
        "entropy mean": [number(v, 2) for v in table["entropy_mean"]],
        "entropy argmax": [number(v, 2) for v in table["entropy_argmax"]],
        "logit sd": _spreads(table, "logit_std", 3),
    }
    caption = "At the end of finished runs, on held-out text (nats), lowest loss first. Nothing learned: loss and entropy "
    caption += "mean near ln V, tiny logit sd. Only frequencies learned: loss near the unigram entropy. uniq: distinct "
    caption += "argmaxes; targets: distinct next tokens over the same positions. Mean ± sd over seeds.\n"
    caption += f"{_COUNTS}."
    frame = pd.DataFrame(columns, index=pd.Index(table["arm"], name="arm"))
    return Section("What the arms learned", caption, [frame])


def verification(table: pd.DataFrame) -> Section:
    """Rows facts and criteria, a column a run."""
    columns = {}
    for _, run in table.iterrows():
        cells = [number(run["hidden_size"], 0), number(run["steps"], 0), number(run["seed"], 0), run["status"]]
        cells += [run["device"] or DASH, number(run["seconds"], 0)]
        cells += [f"{number(run[f'step_{s}'], 0)} ({number(run[f'published_{s}'], 0)})" for s in plan.STEPS]
        cells += [number(run["ceiling"], 0), *(run[f"success {c.name}"] for c in plan.SUCCESS)]
        cells += [*(run[f"failure {c.name}"] for c in plan.FAILURE), run["failure volatile"], run["verdict"]]
        columns[f"{run['sweep']} {run['run']}"] = cells
    rows = ["hidden", "steps", "seed", "status", "device", "duration, s"]
    rows += [f"tokens at {step:,} (published)" for step in plan.STEPS] + ["ceiling of the count"]
    rows += [f"success: {c.name}" for c in plan.SUCCESS] + [f"failure: {c.name}" for c in plan.FAILURE]
    index = pd.Index([*rows, "failure: volatile", "verdict"], name="run")
    lines = [plan.overall(table), plan.ceiling_remark(table)]
    lines += [f"{run['sweep']} {run['run']}: {run['verdict']}; {run['why']}." for _, run in table.iterrows()]
    lines += [_VERDICTS, f"{plan.VOLATILE}."]
    return Section("Verification plan", "\n".join(filter(None, lines)), [pd.DataFrame(columns, index=index)])


def not_done(table: pd.DataFrame, counts: dict[str, int], again: int) -> Section:
    """Rows runs, or nothing but the caption when all is well."""
    runs = sum(counts.values())
    shown = ", ".join(f"{n} {status}" for status, n in counts.items())
    caption = f"{counted(runs, 'run')}: {shown}."
    if counts.get(DONE) == runs:
        caption = f"All {runs} runs finished." if runs > 1 else "The one run finished."
    if again:
        caption += f" {counted(again, 'folder')} with a run that another folder has too; each run counts once."
    who = [DASH if pd.isna(seed) else f"{arm}, seed {seed:.0f}" for arm, seed in zip(table["arm"], table["seed"], strict=True)]
    steps = zip(table["step"], table["steps"], strict=True)
    columns = {
        "status": table["status"].tolist(),
        "step": [DASH if pd.isna(t) else f"{number(s, 0)}/{number(t, 0)}" for s, t in steps],
        "reason": [r if isinstance(r, str) and r else DASH for r in table["reason"]],
        "folder": table["folder"].tolist(),
    }
    frame = pd.DataFrame(columns, index=pd.Index(who, name="arm"))
    return Section("Runs that did not finish, or ended early", caption, [frame])

"""Which runs a claim speaks of, and whether they may be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from bitnet.common.errors import UserError, suggestion
from bitnet.config.claims import Selector, is_level, level
from bitnet.config.measured import measured_over, why_unlike

NOT_YET = "not yet"  # how the reason of a verdict begins that waits for runs

# What runs that are averaged or compared have in common unless their arms are about it: by column of the runs, what it is
# called and the overrides that set it.
ALIKE = {"steps": ("lengths", ("steps",)), "data_sha256": ("texts", ("data", "tokenizer"))}


def select(runs: pd.DataFrame, selector: Selector, declared: Sequence[str] = ()) -> pd.DataFrame:
    """The runs that a selector names: an arm, or what they chose ({} for all).

    Args:
        declared: arms of the sweep, so that one without a run yet is told from one that is misspelt.
    Raises:
        UserError: it names no run.
    """
    if not len(runs):
        raise UserError(f"{NOT_YET} decided: there are no runs")
    if isinstance(selector, str):
        chosen = runs[runs["arm"] == selector]
        if not len(chosen):
            arms = list(dict.fromkeys([*declared, *runs["arm"].dropna()]))
            hint = "" if selector in arms else suggestion(selector, arms)
            raise UserError(f"arm '{selector}': {'it has no run' if selector in arms else 'no such arm'}{hint}")
        return chosen
    chosen = runs
    for key, wanted in selector.items():
        values = [level(key, r["written"] | {"arm": r["arm"]}, r["choices"], r["config"]) for _, r in chosen.iterrows()]
        fits = [is_level(value, wanted) for value in values]
        if not any(fits):
            there = list(dict.fromkeys(str(v) for v in values if v is not None))
            if not there:
                groups = {group for choices in runs["choices"] for group in choices}
                raise UserError(f"{key}={wanted}: no run has this group or key{suggestion(key, groups)}")
            raise UserError(f"{key}={wanted}: none of these runs has this value; they have {', '.join(there[:6])}")
        chosen = chosen[fits]
    return chosen


def varies(keys: Iterable[str], prefixes: Sequence[str]) -> bool:
    """Whether one of these keys, as `data` or `data.paths`, is one of `prefixes` or stands below one."""
    return any(key.split(".", 1)[0] in prefixes for key in keys)


def check_alike(chosen: Sequence[tuple[str, Selector, pd.DataFrame]], metrics: Iterable[str]) -> None:
    """Whether runs of one side, or of two, may be averaged and compared.

    Args:
        chosen: name, selector and runs of each side.
        metrics: that are to be.
    Raises:
        UserError: they differ in length or data without their arms, or a selector, saying so; or in what one of the metrics
            is counted over, whatever their arms say.
    """
    together = pd.concat([runs for _, _, runs in chosen])
    for column, (what, keys) in ALIKE.items():
        if column not in together or together[column].nunique() < 2:
            continue
        meant = [_names(selector, runs, keys) for _, selector, runs in chosen]
        for (name, _, runs), named in zip(chosen, meant, strict=True):
            if runs[column].nunique() > 1 and not named:
                raise UserError(f"{name}: its runs have different {what} ({_listed(runs[column])}); select one with {keys[0]}")
        if not any(meant):
            raise UserError(f"the sides have different {what} ({_listed(together[column])}), which no arm or selector sets")
    for metric in metrics:
        if (why := unlike({name: runs for name, _, runs in chosen}, metric)) is not None:
            raise UserError(why)


def unlike(sides: Mapping[str, pd.DataFrame], metric: str) -> str | None:
    """Why a metric of these runs can't be averaged within a side or compared between them; None where it can."""
    return why_unlike(
        metric, {name: [measured_over(metric, r["config"], r) for _, r in of.iterrows()] for name, of in sides.items()}
    )


def _names(selector: Selector, runs: pd.DataFrame, keys: Sequence[str]) -> bool:
    """Whether a selector, or the sweep's file for each of the runs, sets one of `keys`."""
    return (not isinstance(selector, str) and varies(selector, keys)) or all(varies(w, keys) for w in runs["written"])


def _listed(values: pd.Series) -> str:
    """`20, 4,000` of lengths; hashes by their beginning."""
    return ", ".join(v[:10] if isinstance(v, str) else f"{v:,.0f}" for v in sorted(values.dropna().unique()))

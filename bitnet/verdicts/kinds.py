"""Runs of one sweep's folder that differ in scale, length, data or typed overrides: each kind is judged by itself."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bitnet.config.identity import affects_result
from bitnet.runs.statuses import DONE
from bitnet.verdicts.crossing import level_of
from bitnet.verdicts.selection import ALIKE, varies


def kinds_of_runs(runs: pd.DataFrame, sweep: Mapping[str, Any]) -> dict[str, list[str]]:
    """Ids of the runs of each scale, data, length and set of typed overrides, unless the sweep's arms vary or its claims name it.

    First the kind of which most arms have a run that is done; then the largest scale; within one, that which follows the sweep's
    file closest, then that of most runs.
    """
    keys = [o.partition("=")[0] for text in (sweep.get("arms") or {}).values() for o in shlex.split(text)]
    keys += sweep.get("grid") or {}
    claims = sweep.get("claims")
    for claim in claims.values() if isinstance(claims, Mapping) else ():
        sides = claim.values() if isinstance(claim, Mapping) else ()
        keys += [key for side in sides if isinstance(side, Mapping) for key in side]
    runs = runs.join(_typed(runs, keys))
    runs = runs.assign(size=runs["steps"] * runs["tokens_per_step"] * runs["hidden_size"] ** 2)
    runs["scale_size"] = runs.groupby(runs["scale"].fillna(""))["size"].transform("max")
    fixed = ["scale", *(column for column, (_, own) in ALIKE.items() if not varies(keys, own)), "typed"]
    of = runs[fixed].astype("object").where(runs[fixed].notna(), None)
    groups: dict[tuple[Any, ...], list[str]] = {}
    for run, kind in zip(runs.index, of.itertuples(index=False, name=None), strict=True):
        groups.setdefault(kind, []).append(run)
    ordered = sorted(groups.items(), key=lambda item: _weight(runs.loc[item[1]]), reverse=True)
    differing = [i for i in range(len(fixed)) if len({kind[i] for kind in groups}) > 1]
    return {", ".join(_label(fixed[i], kind[i]) for i in differing): ids for kind, ids in ordered}


def _typed(runs: pd.DataFrame, own: Sequence[str]) -> pd.DataFrame:
    """`typed`: each run's values of the keys that some run was given beside those of the sweep's file (`own`), where they
    differ and can change a result. `beside`: how many such keys, and the length, the run itself was given."""
    given = [{o.partition("=")[0].lstrip("+~") for o in overrides} for overrides in runs["overrides"]]
    decisive = {key for key in set().union(*given) - {*own, "seed", "scale"} if affects_result(key)}
    of = {key: level_of(runs, key) for key in sorted(decisive - {"steps"})}
    differing = {key: values for key, values in of.items() if values.nunique() > 1}
    texts = [" ".join(f"{key}={values[run]}" for key, values in differing.items()) for run in runs.index]
    return pd.DataFrame({"typed": texts, "beside": [len(keys & decisive) for keys in given]}, runs.index)


def _weight(runs: pd.DataFrame) -> tuple[int, float, int, int, float, str]:
    """What orders kinds: how many arms have a run that is done; about how much the largest run of this scale computes; how few
    overrides were typed beside the sweep's file; how many runs are done; the largest of these; when the last began."""
    done = runs["arm_id"][runs["status"] == DONE]
    began = runs["started"].fillna("").astype(str).max()
    return done.nunique(), runs["scale_size"].max(), -runs["beside"].min(), len(done), runs["size"].max(), began


def _label(column: str, value: Any) -> str:
    if column == "steps":
        return f"{value:,.0f} steps"
    if column == "scale":
        return "no scale" if value is None else f"scale={value}"
    return str(value) if column == "typed" else f"data {str(value)[:10]}"

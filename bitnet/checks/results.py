"""All checks of a run, and their table."""

from __future__ import annotations

import dataclasses
from typing import Any

from tabulate import tabulate

from bitnet.checks.study import STUDY
from bitnet.checks.subject import make_subject, run_check
from bitnet.checks.training import OURS
from bitnet.config.run import RunConfig

_WORDS = {True: "pass", False: "FAIL", None: "n/a"}


def check_run(config: RunConfig) -> list[dict[str, Any]]:
    """A row a check, the study's first: group, check, passed, value, expected, published.

    Raises:
        UserError: when the run could not be carried out at all.
    """
    subject = make_subject(config)
    return [
        {"group": group, "check": name} | dataclasses.asdict(run_check(check, subject)) | {"published": published}
        for group, name, check, published in (*STUDY, *OURS)
    ]


def results_table(results: list[dict[str, Any]]) -> str:
    """The results for a person, with their counts."""
    heads = ["", "check", "result", "found", "expected", "study"]
    rows, group = [], None
    for r in results:
        rows.append([r["group"] if r["group"] != group else "", r["check"], _WORDS[r["passed"]]])
        rows[-1] += [r["value"], r["expected"], r["published"]]
        group = r["group"]
    counts = [sum(r["passed"] is p for r in results) for p in (True, False, None)]
    summary = f"{counts[0]} pass, {counts[1]} FAIL, {counts[2]} n/a"
    widths = [None, None, None, 46, 34, None]
    return f"{tabulate(rows, heads, tablefmt='simple', disable_numparse=True, maxcolwidths=widths)}\n\n{summary}"

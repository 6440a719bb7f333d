"""The text of `bitnet-train --help`, made from the configuration's own files so that it can't fall behind them."""

from __future__ import annotations

import textwrap
from pathlib import Path

import yaml

from bitnet.cli.overrides import config_dir, groups
from bitnet.common.errors import one_line
from bitnet.common.paths import share

_HEAD = """Train BitNet b1.58 language models: one run, a grid, or a named sweep.

usage: python -m bitnet.train [-m] [KEY=VALUE ...] [--cfg job] [--hydra-help]
"""

_TAIL = """examples
  python -m bitnet.train                                             one run of the defaults
  python -m bitnet.train recipe=modern model=512 data=text 'data.paths=[my/folder]'
  python -m bitnet.train -m model=256,512,768,1024 wd=paper,wd005    every combination: 8 runs
  python -m bitnet.train sweeps=quickstart                           a named sweep; sweeps/quickstart.yaml says what it asks
  python -m bitnet.train sweeps=phase5_scaling steps=200 model=256   the command line overrides the file
  python -m bitnet.train resume=outputs/2026-01-31/defaults-0123456789

Each run gets a folder, <out>/<sweep or date>/<overrides>-<id>/, with config.yaml, run.json, metrics.csv and checkpoints/.
Ctrl-C saves; the same command then resumes from the last checkpoint. A second Ctrl-C gives runs 5 s for that, a third none.
Finished runs are skipped; overwrite=true repeats them. Tables: python -m bitnet.report FOLDER. Progress of runs:
python -m bitnet.status. To tokenise once, before a large sweep: python -m bitnet.prepare.

  -m             every combination of the comma-separated values
  --cfg job      print the resulting configuration, run nothing
  --config-dir   a folder with your own groups and sweeps, laid out like conf/
  --hydra-help   Hydra's own options

Flags and KEY=VALUE may come in any order. sweeps=A,B runs one sweep after the other; device=cuda:0,cuda:1 shares these GPUs
among the runs of a sweep.

A path is taken as it stands, blanks, quotes and backslashes too; quotes around the whole are not part of it. In a list, and in
a sweep, a path with a comma needs them: out="'a,b'" data.paths='["a,b.txt",c.txt]'. ${KEY} is another key's value; \\${ is a
dollar sign and a brace.

Exit codes: 0 all runs ended (divergence counts as a result), 1 a run failed (error.txt in its folder has the traceback),
2 invalid input (one line says why), 130 interrupted and saved."""


def help_text(arguments: list[str] | None = None) -> str:
    """The whole help text, with the groups and sweeps of `--config-dir` among the others where `arguments` name one."""
    own = config_dir(arguments or [])
    found = groups(own)
    sweeps = found.pop("sweeps", [])
    width = max(map(len, found))
    listed = "\n".join(
        textwrap.fill(f"{name:<{width}}  {' | '.join(options)}", 118, initial_indent="  ", subsequent_indent=" " * (width + 4))
        for name, options in found.items()
    )
    questions = "\n".join(f"  {name:<24}{_question(name, own)}" for name in sweeps)
    sections = {
        "groups (KEY=OPTION; each option is a file in conf/KEY/)": listed,
        "keys and their defaults (KEY=VALUE, or PART.KEY=VALUE; those of a group are in its files)": _keys(),
        "sweeps (sweeps=NAME)": questions,
    }
    return "\n\n".join([_HEAD.rstrip(), *(f"{title}\n{body}" for title, body in sections.items()), _TAIL])


def _keys() -> str:
    """The keys of the primary configuration with the comments that explain them."""
    lines = (share() / "conf" / "config.yaml").read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("steps:"))
    last = next(i for i, line in enumerate(lines) if line.startswith("sweep:"))
    return textwrap.indent("\n".join(line for line in lines[first:last] if line), "  ")


def _question(name: str, own: Path | None) -> str:
    """What the named sweep asks; nothing where its file doesn't say."""
    places = [share() / "sweeps", *([] if own is None else [own / "sweeps"])]
    path = next(p for place in places if (p := place / f"{name}.yaml").exists())
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return str((values.get("sweep") or {}).get("question", ""))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError) as error:  # help is printed whatever else is wrong
        return f"({path} can't be read: {one_line(error)[:100]})"

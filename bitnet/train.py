"""`python -m bitnet.train`: the one training entry point, and the one place that knows Hydra.

Composes the configuration, hands a single run to `run.py` and a sweep to `arms.py`, and turns what a user got wrong into one
line and exit code 2.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bitnet import server, usage
from bitnet.called import called
from bitnet.compose import choices
from bitnet.config import load
from bitnet.errors import UserError, in_one_line, is_of_disk
from bitnet.overrides import as_sweep, check_sweep, explain, from_hydra, key_of, normalise, split, tell_repeats
from bitnet.paths import share
from bitnet.stopping import like_ctrl_c

# as the user set it: `main` sets it too, for Hydra to hand errors over instead of printing them
_FULL_ERROR = os.environ.get("HYDRA_FULL_ERROR") == "1"


def task(cfg: DictConfig) -> float | None:
    """One run; returns its last held-out loss."""
    try:
        return _run(cfg)
    except (UserError, OmegaConfBaseException) as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise  # recorded by the launcher, so that the other jobs go on
        # an Exception would make Hydra print a line of its own first
        raise SystemExit(complain(error)) from None


def _run(cfg: DictConfig) -> float | None:
    """The frozen run that `resume` names, or the one that `cfg` describes."""
    from bitnet import arms

    # as typed: an interpolation among them means a key of the run, and Hydra's own part has no such key
    overrides = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    if cfg.resume is not None:
        folder = Path(cfg.resume).expanduser().resolve()
        _amend(cfg, folder, overrides)
        return _execute(folder)
    return _execute(arms.enqueue(arms.typed(cfg), overrides, choices(HydraConfig.get())).folder)


def _execute(folder: Path) -> float | None:
    """`run.execute`; in a single run, a failure that is on record is one line and exit code 1."""
    from bitnet import run
    from bitnet.freeze import say
    from bitnet.records import FINAL, RunRecord

    alone = HydraConfig.get().mode != RunMode.MULTIRUN
    try:
        if alone and RunRecord(folder).read().get("status") in FINAL:
            say(f"{folder}: finished before; overwrite=true, beside its own command, repeats it")
            return run.result(folder)
        objective = run.execute(folder)
        if alone:
            reason = RunRecord(folder).read().get("reason")
            say(f"{folder}: {reason or 'done'}\ntables: {called('report')} {shlex.quote(str(folder))}")
        return objective
    except UserError:
        raise
    except Exception as error:
        trace = folder / "error.txt"
        if _FULL_ERROR or not alone or not (trace.exists() or is_of_disk(error)):
            raise
        print(f"error: {in_one_line(error)}{'' if is_of_disk(error) else f' (traceback in {trace})'}", file=sys.stderr)
        raise SystemExit(1) from None


def _amend(cfg: DictConfig, folder: Path, overrides: list[str]) -> None:
    """Go on with a frozen configuration: where and how often to save may be typed anew, any other change is an error."""
    from bitnet.records import RunRecord

    record = RunRecord(folder)
    frozen, made = OmegaConf.create(record.config()), record.read().get("choices", {})
    amended = False
    for key in map(key_of, overrides):
        if key == "resume" or key.startswith(("hydra", "launcher")):
            continue
        if key in {"out", "overwrite"}:
            raise UserError(f"{key}={OmegaConf.select(cfg, key)} does not go with resume={folder}: a run goes on where it lies")
        asked = HydraConfig.get().runtime.choices.get(key, OmegaConf.select(cfg, key))
        there = made.get(key, OmegaConf.select(frozen, key))
        if str(asked) == str(there):
            continue
        if key not in {"device", "checkpoint.every", "checkpoint.keep"}:
            raise UserError(
                f"{key}={asked}: the run at resume={folder} was frozen with {there}; leave it out, or start another run"
            )
        OmegaConf.update(frozen, key, asked)
        amended = True
    if amended:
        record.write_config(load(OmegaConf.to_container(frozen)).model_dump(mode="json"))


def search_path(overrides: list[str]) -> list[str]:
    """The overrides, with the folder of `sweeps/` on Hydra's search path, whatever the working directory is."""
    prefix = "hydra.searchpath="
    given = [o[len(prefix) :].strip("[]") for o in overrides if o.startswith(prefix)]
    places = [p for g in given for p in g.split(",") if p] + [f"'file://{share()}'"]
    return [f"{prefix}[{','.join(places)}]", *(o for o in overrides if not o.startswith(prefix))]


def composed(overrides: list[str]) -> DictConfig:
    """The configuration of the command line of one run, for commands that train nothing.

    Raises:
        UserError: when it can't be composed, whatever Hydra raised.
    """
    written = search_path([normalise(o) for o in overrides])
    with initialize_config_dir(str(share() / "conf"), version_base="1.3"):
        try:
            return compose("config", written)
        except Exception as error:
            raise explain(error, sweeps=False) from error


def register_plugins() -> None:
    """Let Hydra, here and in the processes that a launcher starts, find the project's plugins."""
    folder = str(Path(__file__).parent / "plugins")
    if folder not in sys.path:
        sys.path.append(folder)
        inherited = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = f"{inherited}{os.pathsep}{folder}" if inherited else folder


def _fans_out(overrides: list[str], flags: list[str]) -> bool:
    """Whether the command is about to start runs by `launcher=local`: a guess, which saves two seconds where it is right."""
    typed = {key_of(o): o.partition("=")[2] for o in overrides}
    sweeping = "sweeps" in typed or typed.get("hydra.mode") == "MULTIRUN" or bool(flags)
    plainly = set(flags) <= {"-m", "--multirun"} and "hydra/launcher" not in typed
    return sweeping and plainly and typed.get("launcher", "local") == "local"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if {"--help", "-h"} & set(arguments):
        print(usage.text(arguments))
        return 0
    register_plugins()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed by Hydra
    try:
        overrides, flags, multirun = split(arguments)
        check_sweep(overrides, multirun)
        tell_repeats(overrides)
        # overrides first, all together: Hydra's argument parser loses those that stand behind a flag
        sys.argv = [sys.argv[0], *search_path([normalise(o) for o in as_sweep(overrides)]), *flags]
        with like_ctrl_c(), server.kept(_fans_out(overrides, flags)):
            hydra.main(version_base="1.3", config_path=str(share() / "conf"), config_name="config")(task)()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        return complain(error)
    except Exception as error:
        if _FULL_ERROR or not from_hydra(error):
            raise
        return complain(error)
    except KeyboardInterrupt:
        return 130
    return 0


def complain(error: Exception, *, sweeps: bool = True) -> int:
    """Print what the user got wrong as one line; returns the exit code. `sweeps`: whether the command can sweep."""
    print(f"error: {explain(error, sweeps=sweeps)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

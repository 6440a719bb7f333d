"""`python -m bitnet.train`: the one training entry point, and the one place that knows Hydra.

Composes the configuration, hands a single run to `run.py` and a sweep to `arms.py`, and turns what a user got wrong into one
line and exit code 2.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bitnet import usage
from bitnet.errors import UserError
from bitnet.overrides import SESSION_KEYS, explain, key_of, normalise, readable_overrides
from bitnet.paths import share


def task(cfg: DictConfig) -> float | None:
    """One run; returns its last held-out loss."""
    try:
        return _run(cfg)
    except UserError as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise  # recorded by the launcher, so that the other jobs go on
        # an Exception would make Hydra print a line of its own first
        raise SystemExit(_complain(error)) from None


def _run(cfg: DictConfig) -> float | None:
    """The frozen run that `resume` names, or the one that `cfg` describes."""
    from bitnet import arms, run

    overrides = list(HydraConfig.get().overrides.task)
    if cfg.resume is not None:
        folder = Path(cfg.resume).expanduser().resolve()
        _refuse_changes(cfg, folder, overrides)
        return run.execute(folder)
    queued = run.enqueue(
        arms.typed(cfg),
        overrides=readable_overrides(overrides, seed=True),
        label=",".join(readable_overrides(overrides, seed=False)) or "defaults",
        arm=None,
        choices=arms.choices(OmegaConf.create({"hydra": HydraConfig.get()})),
        check_device=True,
    )
    if queued.finished:
        run.say(f"{queued.folder}: finished before; overwrite=true repeats it")
    return run.result(queued.folder) if queued.finished else run.execute(queued.folder)


def _refuse_changes(cfg: DictConfig, folder: Path, overrides: list[str]) -> None:
    """`resume` goes on with a frozen configuration: an override that asks for another value is an error."""
    from bitnet.records import RunRecord

    record = RunRecord(folder)
    frozen, made = record.config(), record.read().get("choices", {})
    for key in map(key_of, overrides):
        if key in SESSION_KEYS or key.startswith("hydra"):
            continue
        asked = HydraConfig.get().runtime.choices.get(key, OmegaConf.select(cfg, key))
        there = made.get(key, OmegaConf.select(OmegaConf.create(frozen), key))
        if str(asked) != str(there):
            raise UserError(
                f"{key}={asked}: the run at resume={folder} was frozen with {there}; leave it out, or start another run"
            )


def search_path(arguments: list[str]) -> list[str]:
    """The arguments with the folder of `sweeps/` on Hydra's search path, whatever the working directory is."""
    prefix = "hydra.searchpath="
    given = [a[len(prefix) :].strip("[]") for a in arguments if a.startswith(prefix)]
    rest = [a for a in arguments if not a.startswith(prefix)]
    places = [p for g in given for p in g.split(",") if p] + [f"'file://{share()}'"]
    # beside the other overrides: Hydra's argument parser wants them together
    first = next((i for i, a in enumerate(rest) if "=" in a and not a.startswith("-")), len(rest))
    return [*rest[:first], f"{prefix}[{','.join(places)}]", *rest[first:]]


def register_plugins() -> None:
    """Let Hydra, here and in the processes that a launcher starts, find the project's plugins."""
    folder = str(Path(__file__).parent / "plugins")
    if folder not in sys.path:
        sys.path.append(folder)
        inherited = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = f"{inherited}{os.pathsep}{folder}" if inherited else folder


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if {"--help", "-h"} & set(arguments):
        print(usage.text())
        return 0
    register_plugins()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here instead of being printed by Hydra
    try:
        sys.argv = [sys.argv[0], *search_path([normalise(a) for a in arguments])]
        hydra.main(version_base="1.3", config_path=str(share() / "conf"), config_name="config")(task)()
    except UserError as error:
        return _complain(error)
    except HydraException as error:
        return _complain(explain(error))
    except OmegaConfBaseException as error:
        return _complain(UserError(" ".join(str(error).split())))
    except KeyboardInterrupt:
        return 130
    return 0


def _complain(error: UserError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

"""What checks look at: the run as it would start. Each check is a function of a `Subject` that says whether it passed, what it
found and what it should have found. They look at what training itself builds, never at copies made for the check.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bitnet.common.errors import UserError, one_line
from bitnet.config.run import RunConfig
from bitnet.data.prepared import Prepared
from bitnet.data.run_data import batches_and_heldout, prepare_data
from bitnet.evaluation.probe import Row
from bitnet.training.build import build
from bitnet.training.device import make_deterministic, pick_device
from bitnet.training.loop import Trainer


@dataclass(frozen=True)
class CheckResult:
    """What a check found. `passed` is None where there is nothing to check."""

    passed: bool | None
    value: str
    expected: str


class Subject:
    """A run as it would start: configuration, data, and what `training.build.build` makes of them.

    `trainer` is shared by the checks that only look; those that train take a `fresh` one.
    """

    def __init__(self, config: RunConfig, prepared: Prepared, device: torch.device) -> None:
        self.config, self.prepared, self.device = config, prepared, device
        self.trainer = self.fresh()
        self.inputs_BT, self.targets_BT = self.trainer.batch(1)

    def fresh(self, **changes: object) -> Trainer:
        """Everything built anew, with `changes` to the configuration."""
        return build(self.config.model_copy(update=changes), self.prepared, self.device)

    @torch.no_grad()
    def logits(self, ids_BT: Tensor) -> Tensor:
        """B x T x V in fp32."""
        with self.trainer.autocast():
            return self.trainer.model(ids_BT).float()

    @functools.cached_property
    def evaluation(self) -> tuple[Row, list[str]]:
        """A whole evaluation, and what it changed that it must not change."""
        model = self.trainer.model.train()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        generator = torch.get_rng_state()
        row = self.trainer.probe.measure(1)
        changed = [k for k, v in model.state_dict().items() if not torch.equal(v, before[k])]
        changed += [] if torch.equal(generator, torch.get_rng_state()) else ["random generator"]
        changed += [] if all(m.training for m in model.modules()) else ["training mode"]
        changed += [] if all(p.grad is None for p in model.parameters()) else ["gradients"]
        return row, changed


def make_subject(config: RunConfig) -> Subject:
    """The run of a configuration, with its data prepared, computing as training does.

    Raises:
        UserError: when it could not be carried out.
    """
    device = pick_device(config.device)
    prepared = prepare_data(config)
    batches_and_heldout(config, prepared)
    make_deterministic(config.threads or torch.get_num_threads())
    return Subject(config, prepared, device)


def run_check(check: Callable[[Subject], CheckResult], subject: Subject) -> CheckResult:
    """What the check finds; a check that breaks has failed, and says by what.

    Raises:
        UserError: when the run itself can't be carried out.
    """
    try:
        return check(subject)
    except UserError:
        raise
    except Exception as error:
        return CheckResult(False, one_line(error), "no exception")


def differing(a: Tensor, b: Tensor) -> int:
    """How many entries are not the same bits; nan is unlike itself."""
    return int((a != b).sum())

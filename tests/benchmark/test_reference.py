"""The readable reference computes what the harness does."""

from __future__ import annotations

import pytest
import torch

from bitnet.benchmark.cases import Case, run_of
from bitnet.benchmark.contenders import made_up_tokens, plain_trainer
from bitnet.benchmark.reference import ReferenceModel
from bitnet.training.build import build

CASE = Case(hidden=32, batch=4, length=16, vocabulary=256)
STEPS = 40

# Both round alike until a value lies so close to the edge of a level that the last bit of what came before decides. From then on
# they differ by a level here and there: by 0.0003 of the loss, once by 0.003, over 200 steps of this model.
BEFORE_A_FLIP, FIRST, AFTER = 1e-6, 5, 2e-3


@pytest.fixture(scope="module")
def losses() -> dict[str, list[tuple[float, float]]]:
    """By quantiser, the losses of the harness and of the reference, which always quantises, from the same weights on."""
    return {quant: both(quant) for quant in ("b158", "float")}


def both(quant: str) -> list[tuple[float, float]]:
    config, data = run_of(CASE, quant=quant), made_up_tokens(CASE.vocabulary)
    # at the full learning rate from the sixth step on, so that weights move
    config = config.model_copy(update={"lr": config.lr.model_copy(update={"warmup_steps": 5})})
    trainer = build(config, data, torch.device("cpu"))
    model = ReferenceModel(CASE.vocabulary, CASE.hidden, 2 * CASE.hidden)
    model.load_state_dict(trainer.model.state_dict())
    adam = torch.optim.Adam(model.parameters(), betas=config.optimizer.betas, eps=config.optimizer.eps)
    reference = plain_trainer(config, data, model, adam)
    return [(float(trainer.update(step)[0]), float(reference.update(step))) for step in range(1, STEPS + 1)]


def test_its_losses_are_ours_within_rounding(losses):
    apart = [abs(ours - its) / its for ours, its in losses["b158"]]
    assert max(apart[:FIRST]) < BEFORE_A_FLIP
    assert max(apart) < AFTER


def test_losses_without_quantisation_are_outside_of_that(losses):
    """What the bound is worth: another computation exceeds it."""
    apart = [abs(ours - its) / its for ours, its in losses["float"]]
    assert max(apart[:FIRST]) > 100 * BEFORE_A_FLIP
    assert max(apart) > AFTER


def test_the_weights_move_far_beyond_the_bound(losses):
    first, last = losses["b158"][0][1], losses["b158"][-1][1]
    assert last < (1 - 20 * AFTER) * first

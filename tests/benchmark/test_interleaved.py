"""Contenders in processes of their own, really started, at a size that takes no time."""

from __future__ import annotations

import pytest

from bitnet.benchmark import interleaved
from bitnet.benchmark.cases import CONTENDERS, PARTS, Case, run_of
from bitnet.benchmark.interleaved import Client, Ended, machine, measure
from bitnet.common.errors import UserError

CASE = Case(hidden=16, batch=2, length=8, vocabulary=64)
ROUNDS = 3


@pytest.fixture(scope="module")
def turns(request) -> dict[str, interleaved.Turns]:
    """All contenders, whose turns are short here."""
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    patch.setattr(interleaved, "ROUND_SECONDS", 0.01)
    return measure(CASE, list(CONTENDERS), device="cpu", threads=1, rounds=ROUNDS)


def test_every_contender_has_its_turns(turns):
    assert list(turns) == list(CONTENDERS)
    for name, taken in turns.items():
        assert taken.error is None, (name, taken.error)
        assert len(taken.seconds) == len(taken.parts) == ROUNDS
        assert [set(peaks) for peaks in taken.peaks] == [{"fp32", "copy"}] * ROUNDS
        assert taken.memory is None or taken.memory > 0
        assert (len(taken.evaluations) >= 2) == (name in {"ours", "float"})


def test_the_parts_are_the_whole_of_a_step(turns):
    for taken in turns.values():
        for seconds, parts in zip(taken.seconds, taken.parts, strict=True):
            assert list(parts) == list(PARTS)
            assert sum(parts.values()) == pytest.approx(seconds, rel=0.05, abs=1e-3)


def test_another_one_begins_each_round(monkeypatch):
    asked = []

    class Noting:
        def __init__(self, order):
            self.name = order["contender"]

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *_: None  # noqa: E731
        answer = dict

        def ask(self, **request):
            if self.name is None:
                return {"fp32": 1.0, "copy": 1.0}
            asked.append((self.name, next(iter(request))))
            if self.name == "float":
                raise Ended("out of memory")
            return {"seconds": None if "evaluate" in request else 1.0, "parts": dict.fromkeys(PARTS, 0.0), "memory": 5}

    monkeypatch.setattr(interleaved, "Client", Noting)
    turns = measure(CASE, list(CONTENDERS), device="cpu", threads=1, rounds=2)
    order = [name for name, what in asked if what == "steps"]
    warm_up = ["reference"] * 3 + ["transformers"] * 3 + ["float"] + ["ours"] * 3
    assert order == [*warm_up, "reference", "transformers", "ours", "transformers", "ours", "reference"]
    assert turns["float"].error == "out of memory"
    assert [len(t.seconds) for t in turns.values()] == [2, 2, 0, 2]


def test_a_device_that_is_not_there_is_the_users_mistake():
    with pytest.raises(UserError, match="device=cuda:7: this machine has"):
        machine("cuda:7", 1)


def test_a_process_that_dies_says_why():
    order = {"contender": "nobody", "config": run_of(CASE).model_dump(mode="json"), "device": "cpu", "threads": 1}
    with Client(order) as client, pytest.raises(Ended, match="KeyError: 'nobody'"):
        client.answer()
    with Client({"contender": None, "device": "cpu", "threads": 1}) as client:
        client.process.kill()
        with pytest.raises(Ended, match="its process ended with -9"):
            client.ask(steps=1)

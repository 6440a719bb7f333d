"""Claims that are written once for several levels."""

from __future__ import annotations

import pytest

from bitnet.common.errors import UserError
from bitnet.config.each import expand_each


def test_a_claim_becomes_one_for_each_level():
    claim = {"each": {"model": [256, 512]}, "says": "At hidden {model}", "arm": {"model": "{model}"}, "bound": 0.6}
    assert expand_each({"flat": claim, "other": {"says": "{model} stays"}}) == {
        "flat_256": {"says": "At hidden 256", "arm": {"model": 256}, "bound": 0.6},
        "flat_512": {"says": "At hidden 512", "arm": {"model": 512}, "bound": 0.6},
        "other": {"says": "{model} stays"},
    }


def test_levels_bring_values_of_their_own():
    claim = {"each": {"model": {256: {"loss": "10.10", "seen": None}}}, "published": "{seen}", "says": "{loss} at {model}"}
    assert expand_each({"flat": claim}) == {"flat_256": {"published": None, "says": "10.10 at 256"}}


def test_axes_are_crossed_and_names_may_hold_placeholders():
    claim = {"each": {"model": [1, 2], "wd": ["a", "b"]}, "explained_by": ["x_{model}"]}
    assert list(expand_each({"c": claim})) == ["c_1_a", "c_1_b", "c_2_a", "c_2_b"]
    named = expand_each({"{wd}_at_{model}": claim})
    assert list(named) == ["a_at_1", "b_at_1", "a_at_2", "b_at_2"] and named["b_at_2"] == {"explained_by": ["x_2"]}


def test_placeholders_in_keys_are_filled_and_texts_stay_texts():
    claim = {"each": {"key": ["lr.peak"], "lr": [3]}, "says": "{lr}", "explained_by": ["{lr}"], "arm": {"{key}": "{lr}"}}
    assert expand_each({"at_{lr}": claim}) == {"at_3": {"says": "3", "explained_by": ["3"], "arm": {"lr.peak": 3}}}


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"c": {"each": [256]}}, "sweep.claims.c.each=[256]: levels by axis are needed"),
        ({"c": {"each": {"model": []}}}, "sweep.claims.c.each={'model': []}: levels by axis are needed"),
        ({"c": {"each": {"model": {256: "x"}}}}, "sweep.claims.c.each.model.256='x': a mapping of placeholders to values"),
        (
            {"c": {"each": {"model": [1]}, "arm": {"model": "{modle}"}}},
            "sweep.claims.c.arm.model: {modle}: `each` has no axis or value named modle; did you mean 'model'?",
        ),
        ({"c": {"each": {"model": [1]}, "arm": {"{modle}": 1}}}, "sweep.claims.c.arm: {modle}: `each` has no axis or value"),
        ({"c": {"each": {"a": ["x"], "b": ["x"]}, "arm": {"{a}": 1, "{b}": 2}}}, "sweep.claims.c.arm: two keys of this name, x"),
        ({"c": {"each": {"model": {256: {"model": 3}}}}}, "sweep.claims.c.each.model.256.model: {model} stands for something"),
        (
            {"c": {"each": {"a": {1: {"x": 1}}, "b": {2: {"x": 2}}}}},
            "sweep.claims.c.each.b.2.x: {x} stands for something",
        ),
        ({"c": {"each": {"lr": [0.1]}}}, "sweep.claims.c_0.1: a claim's name can't hold a dot; give the levels names"),
        ({"c_1": {}, "c": {"each": {"model": [1]}}}, "sweep.claims.c_1: two claims have this name"),
    ],
)
def test_what_can_not_be_expanded_is_one_line(claims, said):
    with pytest.raises(UserError) as error:
        expand_each(claims)
    assert str(error.value).startswith(said)

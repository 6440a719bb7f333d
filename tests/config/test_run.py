"""The door: what is refused and in which words, what `auto` becomes, and what makes two runs the same run."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from bitnet.common.errors import UserError
from bitnet.common.limits import check_threads
from bitnet.config.identity import digest, identity
from bitnet.config.run import RunConfig, known_keys, load_config, misfit_of

MISSING = object()
CLAIM = {"kind": "bound", "says": "x", "metric": "heldout_loss", "arm": {}, "expected": "at_most", "bound": 1, "margin": 1}
SWEEP = {"name": "x", "question": "why?"}


def changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The values with dotted keys set, or taken out."""
    for key, value in changes.items():
        *parents, last = key.split(".")
        part = values
        for parent in parents:
            part = part[parent]
        if value is MISSING:
            del part[last]
        else:
            part[last] = value
    return values


# ------------------------------------------------------------------------------------------------------------- what is refused
REFUSED = [
    # unknown keys, at every level and in every kind of variant
    ({"stepz": 3}, "stepz=3: no such key; did you mean 'steps'?"),
    ({"model.hiden_size": 3}, "model.hiden_size=3: no such key; did you mean 'hidden_size'?"),
    ({"lr.peek": 3}, "lr.peek=3: no such key; did you mean 'peak'?"),
    ({"wd.stage3": 3}, "wd.stage3=3: no such key; did you mean 'stage2'?"),
    ({"data.max_byte": 3}, "data.max_byte=3: no such key; did you mean 'max_bytes'?"),
    ({"sweep": SWEEP | {"armz": {}}}, "sweep.armz={}: no such key; did you mean 'arms'?"),
    ({"quite_unlike_anything": 3}, "quite_unlike_anything=3: no such key"),
    ({"data.branching": 3}, "data.branching=3: data.source=pydocs has no such key"),
    ({"lr.second_peak": 3}, "lr.second_peak=3: lr.kind=two_stage_linear has no such key"),
    # missing ones
    ({"steps": MISSING}, "steps: missing"),
    ({"lr.peak": MISSING}, "lr.peak: missing"),
    ({"lr.kind": MISSING}, "lr.kind: missing"),
    ({"optimizer.betas": [0.9]}, "optimizer.betas.1: missing"),
    ({"sweep": {"name": "x"}}, "sweep.question: missing"),
    # unknown kinds and options
    ({"lr.kind": "fag"}, "lr.kind='fag': allowed are two_stage_linear, faq, cosine, constant; did you mean 'faq'?"),
    ({"data.source": "hubs"}, "data.source='hubs': allowed are pydocs, hub, text, synthetic; did you mean 'hub'?"),
    ({"model.activation": "relu"}, "model.activation='relu': allowed are relu2, silu, gelu; did you mean 'relu2'?"),
    ({"optimizer.kind": "sgd"}, "optimizer.kind='sgd': allowed are adam_l2, adamw"),
    ({"schedule_lag": 2}, "schedule_lag=2: allowed are 0, 1"),
    # wrong types
    ({"steps": "many"}, "steps='many': input should be a valid integer, unable to parse string as an integer"),
    ({"steps": 1.5}, "steps=1.5: input should be a valid integer, got a number with a fractional part"),
    ({"steps": None}, "steps=None: input should be a valid integer"),
    ({"lr.peak": "high"}, "lr.peak='high': input should be a valid number, unable to parse string as a number"),
    ({"model": 256}, "model=256: a group of keys is needed"),
    ({"lr": None}, "lr=None: a group of keys is needed"),
    (
        {"sweep": SWEEP | {"claims": {"a": CLAIM | {"metric": "heldout_los"}}}},
        "sweep.claims.a.metric='heldout_los': no such column or number of a run; did you mean",
    ),
    ({"sweep": SWEEP | {"claims": {"a": CLAIM | {"kind": "contrasts"}}}}, "sweep.claims.a.kind='contrasts': allowed are"),
    ({"sweep": SWEEP | {"claims": {"a": CLAIM | {"at": 0}}}}, "sweep.claims.a.at=0: a step from 1 on, a fraction"),
    ({"sweep": SWEEP | {"claims": {"a": CLAIM | {"at": None}}}}, "sweep.claims.a.at=None: a step from 1 on, a fraction"),
    ({"sweep": SWEEP | {"claims": {"a": CLAIM | {"margin": 0}}}}, "sweep.claims.a.margin=0: input should be greater than 0"),
    (
        {"sweep": SWEEP | {"claims": {"a": CLAIM | {"explained_by": ["b"]}}}},
        "sweep.claims.a.explained_by=b: no such claim of this sweep",
    ),
    ({"sweep": SWEEP | {"published": ["phase_1"]}}, "sweep.published.0='phase_1': allowed are phase1, phase3"),
    (
        {"sweep": SWEEP | {"claims": {"a": CLAIM | {"explained_by": ["a"]}}}},
        "sweep.claims.a.explained_by=a: a claim can't explain itself",
    ),
    ({"sweep": SWEEP | {"arms": {"one": ""}, "claims": {"a": CLAIM | {"arm": "on"}}}}, "sweep.claims.a.arm=on: no such arm"),
    ({"scale": {"name": "x", "steps": 2}}, "scale.steps=2: input should be less than or equal to 1"),
    (
        {"sweep": SWEEP | {"arms": {"a": "x='"}}},
        """sweep.arms.a="x='": no closing quotation; quotes come in pairs""",
    ),
    ({"sweep": SWEEP | {"grid": {"a": 3}}}, "sweep.grid.a=3: input should be a valid list"),
    ({"sweep": SWEEP | {"grid": {"a": [[1]]}}}, "sweep.grid.a.0=[1]: input should be a valid string"),
    ({"optimizer.betas": [0.9, 0.9, 0.9]}, "optimizer.betas=[0.9, 0.9, 0.9]: tuple should have at most 2 items"),
    # out of bounds
    ({"steps": 0}, "steps=0: input should be greater than 0"),
    ({"steps": -5}, "steps=-5: input should be greater than 0"),
    ({"seed": -1}, "seed=-1: input should be greater than or equal to 0"),
    ({"seed": 2**32}, "seed=4294967296: input should be less than 4294967296"),
    ({"threads": 0}, "threads=0: input should be greater than 0"),
    ({"threads": 1025}, "threads=1025: input should be less than or equal to 1024"),
    ({"steps": 10**400}, "steps=1000"),
    ({"probe.prompts": 10**16}, "probe.prompts=10000000000000000: input should be less than or equal to"),
    ({"lr.peak": float("nan")}, "lr.peak=nan: "),
    ({"lr.peak": float("inf")}, "lr.peak=inf: input should be a finite number"),
    ({"lr.boundary": 1}, "lr.boundary=1: input should be less than 1"),
    ({"lr.end_fraction": float("nan")}, "lr.end_fraction=nan: "),
    ({"wd.stage1": -0.1}, "wd.stage1=-0.1: input should be greater than or equal to 0"),
    ({"clip.max_norm": 0}, "clip.max_norm=0: input should be greater than 0"),
    ({"smoothing.epsilon": 1.0}, "smoothing.epsilon=1.0: input should be less than 1"),
    ({"optimizer.betas": [0.9, 1.0]}, "optimizer.betas.1=1.0: input should be less than 1"),
    ({"tokenizer.vocab_size": 100}, "tokenizer.vocab_size=100: input should be greater than or equal to 257"),
    # warm-up
    ({"lr.warmup_steps": -1}, "lr.warmup_steps=-1: a whole number of steps from 0 on, or auto, is needed"),
    ({"lr.warmup_steps": "soon"}, "lr.warmup_steps='soon': a whole number of steps from 0 on, or auto, is needed"),
    ({"lr.warmup_steps": 2.5}, "lr.warmup_steps=2.5: a whole number of steps from 0 on, or auto, is needed"),
    ({"lr.warmup_steps": 10_000}, "lr.warmup_steps=10000 is not shorter than the run (steps=10000)"),
    ({"lr.warmup_steps": 5001}, "lr.warmup_steps=5001 ends after the boundary, lr.boundary=0.5 of steps=10000"),
    # heads
    ({"model.num_heads": 3}, "model.num_heads=3 does not divide model.hidden_size=256"),
    ({"model.num_kv_heads": 3}, "model.num_kv_heads=3 does not divide model.num_heads=4"),
    ({"model.num_kv_heads": 8}, "model.num_kv_heads=8 does not divide model.num_heads=4"),
    ({"model.num_heads": 256, "model.num_kv_heads": 256}, "model.hidden_size=256 over model.num_heads=256 gives heads of odd"),
    # parts that don't go together
    ({"tokenizer": {"kind": "none"}}, "tokenizer=none does not go with data=pydocs"),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED, ids=[s.split(":")[0] for _, s in REFUSED])
def test_bad_values_are_one_sentence(changes, sentence, values):
    with pytest.raises(UserError) as error:
        load_config(changed(values(), changes))
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value) and "pydantic" not in str(error.value)


@pytest.mark.parametrize(
    "key",
    ["steps", "batch_size", "seed", "eval_every", "schedule_lag", "threads", "checkpoint.keep", "checkpoint.every",
     "model.num_layers", "model.norm_eps", "lr.peak", "lr.mid_fraction", "lr.reference_hidden_size", "wd.stage2",
     "wd.boundary", "clip.max_norm", "smoothing.epsilon", "regularizer.weight", "regularizer.memory",
     "tokenizer.vocab_size", "probe.contexts"],
)  # fmt: skip
@pytest.mark.parametrize("value", [True, False])
def test_a_truth_value_is_no_number(key, value, values):
    with pytest.raises(UserError, match=f"^{key}={value}: a number is needed, not a truth value$"):
        load_config(changed(values(), {key: value}))


def test_a_warm_up_that_is_a_truth_value(values):
    with pytest.raises(UserError, match=r"^lr\.warmup_steps=True: a whole number"):
        load_config(changed(values(), {"lr.warmup_steps": True}))


@pytest.mark.parametrize(
    "changes", [{"seed": 0}, {"seed": 2**32 - 1}, {"lr.warmup_steps": 0}, {"lr.warmup_steps": 5000}, {"clip.max_norm": None},
                {"wd.stage1": 0.0}, {"smoothing.epsilon": 0.0}, {"model.num_kv_heads": 1}, {"regularizer.weight": 0}]
)  # fmt: skip
def test_the_edges_are_allowed(changes, values):
    config = load_config(changed(values(), changes))
    for key, value in changes.items():
        part: Any = config
        for name in key.split("."):
            part = getattr(part, name)
        assert part == value


# -------------------------------------------------------------------------------------------------------------- warm-up
@pytest.mark.parametrize("steps", [10_000, 10_000.0, "10000"])
def test_automatic_warm_up_is_resolved_however_steps_is_written(steps, values):
    config = load_config(changed(values(), {"steps": steps, "lr.warmup_steps": "auto"}))
    assert config.steps == 10_000 and config.lr.warmup_steps == 375


def test_automatic_warm_up_of_a_short_run(values):
    assert load_config(changed(values(), {"steps": 200})).lr.warmup_steps == 7
    assert load_config(changed(values(), {"steps": 1})).lr.warmup_steps == 0


def test_an_explicit_warm_up_is_never_changed(values):
    assert load_config(changed(values(), {"steps": 200, "lr.warmup_steps": 99})).lr.warmup_steps == 99
    with pytest.raises(UserError, match=r"lr\.warmup_steps=101 ends after"):
        load_config(changed(values(), {"steps": 200, "lr.warmup_steps": 101}))


def test_an_automatic_warm_up_that_does_not_fit_is_an_error_too(values):
    with pytest.raises(UserError, match=r"lr\.warmup_steps=375 ends after the boundary"):
        load_config(changed(values(), {"lr.boundary": 0.01}))


# -------------------------------------------------------------------------------------------------------------- identity
def digest_of(config: RunConfig, data: str = "f" * 64, **options: bool) -> str:
    return digest(identity(config, data), **options)


SAME = [
    {"device": "cuda:7"}, {"out": "/elsewhere"}, {"threads": 3}, {"overwrite": True}, {"resume": "some/folder"},
    {"checkpoint.every": 7}, {"checkpoint.keep": 9}, {"sweep": SWEEP}, {"data.cache": "/elsewhere"}, {"data.max_bytes": 5},
    {"tokenizer.vocab_size": 300}, {"lr.warmup_steps": 375}, {"steps": 10_000.0}, {"lr.peak": "0.0015"},
]  # fmt: skip
OTHER = [
    {"steps": 9_999}, {"batch_size": 5}, {"seq_len": 33}, {"seed": 1}, {"eval_every": 500}, {"schedule_lag": 0},
    {"precision": "bf16"}, {"model.hidden_size": 128}, {"model.tied_head": True}, {"model.init_std": 0.03}, {"lr.peak": 1e-3},
    {"lr.warmup_steps": 374}, {"wd.stage2": 0.05}, {"wd.first_step": 0.0}, {"clip.max_norm": None}, {"smoothing.epsilon": 0.1},
    {"smoothing.form": "standard"}, {"optimizer.kind": "adamw"}, {"optimizer.decay_scope": "matrices"},
    {"quant.weights": "float"}, {"quant.activations": "float"}, {"regularizer.weight": 0.5}, {"data.order": "random"},
    {"data.at_end": "repeat"}, {"probe.redraw": True}, {"probe.contexts": 21},
]  # fmt: skip


@pytest.mark.parametrize("changes", SAME, ids=[",".join(c) for c in SAME])
def test_what_cannot_change_a_result_does_not_change_the_id(changes, values):
    assert digest_of(load_config(changed(values(), changes))) == digest_of(load_config(values()))


@pytest.mark.parametrize("changes", OTHER, ids=[",".join(c) for c in OTHER])
def test_what_can_change_a_result_changes_the_id(changes, values):
    assert digest_of(load_config(changed(values(), changes))) != digest_of(load_config(values()))


def test_other_data_is_another_run(values):
    assert digest_of(load_config(values())) != digest_of(load_config(values()), "e" * 64)


def test_seeds_share_their_arm(values):
    first, second = load_config(values()), load_config(values("seed=1"))
    assert digest_of(first) != digest_of(second)
    assert digest_of(first, without_seed=True) == digest_of(second, without_seed=True)
    assert digest_of(first, without_seed=True) != digest_of(load_config(values("wd=wd005")), without_seed=True)


def test_an_id_is_ten_hex_digits(values):
    assert len(digest_of(load_config(values()))) == 10 and int(digest_of(load_config(values())), 16) >= 0


@pytest.mark.parametrize("overrides", [(), ("recipe=faq", "clip=none"), ("recipe=modern", "lr.peak=1e-05"), ("data=synthetic",)])
def test_a_frozen_configuration_is_the_same_run(overrides, values):
    """Through config.yaml, as an execution on another machine reads it."""
    config = load_config(values(*overrides))
    frozen = yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    assert load_config(frozen) == config
    assert digest_of(load_config(frozen)) == digest_of(config)


# ----------------------------------------------------------------------------------------------------------------- knobs
def test_every_composed_key_is_a_knob(values):
    """The YAML files and the typed configuration name the same things."""
    composed = values()
    assert composed.keys() == known_keys()
    for group in ("model", "lr", "wd", "clip", "smoothing", "optimizer", "quant", "regularizer", "probe", "checkpoint", "data"):
        assert composed[group].keys() <= known_keys(group), group


def test_knobs_of_variants_are_together():
    assert {"second_peak", "mid_fraction", "reference_hidden_size"} <= known_keys("lr")
    assert known_keys("no.such.thing") == set()


def test_a_configuration_cannot_be_changed(values):
    config = load_config(values())
    with pytest.raises(ValueError, match="frozen"):
        config.steps = 3


# ------------------------------------------------------------------------------------------------- other versions, machines
def test_a_configuration_that_was_written_down_fits(values):
    written = yaml.safe_load(yaml.safe_dump(load_config(values("sweeps=quickstart")).model_dump(mode="json")))
    assert misfit_of(written) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"new_key": 1}, None),
        ({"lr": {"peak": 1e-3}}, None),  # without a kind
        ({"sweep": SWEEP | {"claims": {"a": {"of": "another version"}}, "published": ["gone"]}}, None),
        ({"steps": "10"}, "steps='10': input should be a valid integer"),
        ({"batch_size": True}, "batch_size=True: a number is needed, not a truth value"),
        ({"model": None}, "model=None: a group of keys is needed"),
        ({"lr.kind": "gone"}, "lr.kind='gone': allowed are "),
        ({"sweep": SWEEP | {"grid": {"a": 3}}}, "sweep.grid.a=3: input should be a valid list"),
    ],
)
def test_what_another_version_has_not_or_has_more_is_no_misfit(changes, said, values):
    found = misfit_of(changed(values(), changes))
    assert found is None if said is None else found.startswith(said)
    assert misfit_of({"steps": 5}) is None


def test_a_machine_takes_a_few_threads_a_core(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    check_threads(64)
    with pytest.raises(UserError, match=r"^threads=65: this machine has 2 cores and takes at most 64; "):
        check_threads(65)
    monkeypatch.setattr("os.cpu_count", lambda: 128)
    check_threads(512)

"""Which runs a published figure may stand beside: those whose resolved configuration is what the study did, and no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pandas as pd
import pytest
import yaml

from bitnet.analysis import published
from bitnet.config.identity import identity
from bitnet.config.run import load_config
from bitnet.config.sweep import PublishedSource

KEYS = ["source", "arm", "hidden", "steps"]
STUDIES = [tuple(key) for key in published.rows()[KEYS].drop_duplicates().to_numpy().tolist()]
SCALING = ("recipe=study", "model=256", "wd=paper", "steps=10000")

SWEEPS = """
    baseline_1k baseline_10k baseline_20k phase1_stage1_only phase3_reduced_lr phase4_label_smoothing phase4_grad_clip
    phase5_scaling verification2
"""

# Each takes a run out of the protocol.
OTHERS = """
    recipe=faq recipe=modern schedule_lag=0 precision=bf16 batch_size=8 seq_len=64 steps=9999 model=128
    model.num_layers=2 model.num_heads=8 model.num_kv_heads=2 model.ffn_size=1024 model.gated_ffn=false
    model.activation=silu model.norm_placement=block model.norm_eps=1e-6 model.fused_projections=false
    model.tied_head=true model.rope_theta=500000 model.init=normal lr=faq lr=reduced lr=cosine
    lr=inv_sqrt_hidden lr.peak=2e-3 lr.warmup_steps=100 lr.boundary=0.4 lr.mid_fraction=0.6 lr.end_fraction=0
    wd=wd005 wd=cosine wd=none wd.stage2=0.2 wd.boundary=0.4 wd.first_step=0.0 clip=norm01 clip=none
    smoothing=ls01 optimizer=adamw optimizer.eps=1e-6 optimizer.betas=[0.9,0.999] optimizer.decay_scope=matrices
    quant=float quant=ternary_a16 quant=int8_w_float_a regularizer=entropy data.encode=documents
    data.order=random data.at_end=repeat probe.metric=first_batch probe.contexts=50 probe.context_length=16
"""

# In a run's identity, and yet without influence on what a published figure says: how often and on what else it is evaluated,
# the corpus, and knobs that do nothing without the option that uses them.
NO_PART = {"seed", "eval_every", "probe.redraw", "probe.heldout_sequences", "data.sha256"}
NO_PART |= {"model.init_std", "regularizer.weight", "regularizer.memory", "smoothing.form"}
NO_PART |= {"probe.many_contexts", "probe.prompts", "probe.new_tokens"}


@pytest.fixture
def recorded(values) -> Callable[..., dict[str, Any]]:
    """What config.yaml holds after a run of these overrides, written and read back."""
    return lambda *overrides: yaml.safe_load(yaml.safe_dump(load_config(values(*overrides)).model_dump(mode="json")))


def matched(config: dict[str, Any], sources: tuple[str, ...] = ("scaling",)) -> pd.DataFrame:
    return published.match(pd.DataFrame([{"arm_id": "a", "published": sources, "config": config}]))


def flat(values: dict[str, Any], prefix: str = "") -> set[str]:
    nested = {k: v for k, v in values.items() if isinstance(v, dict)}
    own = {prefix + k for k in values.keys() - nested.keys()}
    return own.union(*(flat(v, f"{prefix}{k}.") for k, v in nested.items()))


@pytest.mark.parametrize(("source", "arm", "hidden", "steps"), STUDIES)
def test_every_published_arm_is_that_of_its_options(recorded, source, arm, hidden, steps):
    overrides = ["recipe=study", f"model={hidden}", f"steps={steps}", *arm.split()]
    overrides += ["probe.metric=first_batch", "wd.first_step=0.0"] if source == "track" else []
    ours = matched(recorded(*overrides), (source,))
    theirs = published.rows().set_index(KEYS).loc[[(source, arm, hidden, steps)]]
    assert ours["step"].tolist() == theirs["step"].tolist()
    assert set(ours["source"]) == {source}


@pytest.mark.parametrize("sweep", SWEEPS.split())
def test_named_sweeps_have_an_arm_that_its_published_figures_answer(recorded, sweep):
    bare = recorded(f"sweeps={sweep}")
    arms = [given.split() for given in bare["sweep"]["arms"].values()] or [[]]
    assert any(len(matched(recorded(f"sweeps={sweep}", *arm), tuple(bare["sweep"]["published"]))) for arm in arms)


def test_a_sweep_can_name_every_source_of_the_table_and_no_other():
    assert set(get_args(PublishedSource)) == set(published.rows()["source"])


@pytest.mark.parametrize("override", OTHERS.split())
def test_a_run_that_is_not_the_protocol_has_no_published_figure(recorded, override):
    assert len(matched(recorded(*SCALING))) == 8
    assert not len(matched(recorded(*SCALING, override)))


@pytest.mark.parametrize(
    "override",
    ["seed=7", "eval_every=500", "probe.redraw=true", "probe.heldout_sequences=8", "threads=1", "lr.warmup_steps=375"],
)
def test_what_does_not_change_the_protocol_leaves_the_figures(recorded, override):
    assert len(matched(recorded(*SCALING, override))) == 8


def test_an_arm_is_what_it_holds_and_not_how_it_was_typed(recorded):
    assert len(matched(recorded(*SCALING, "wd=wd005", "wd.stage2=0.0"))) == 8
    assert len(matched(recorded(*SCALING, "data=wikitext2", "tokenizer=gpt2"))) == 8


def test_smoothing_in_another_form_is_not_the_studys(recorded):
    arm = ("recipe=study", "model=256", "steps=10000", "wd=wd01", "smoothing=ls01")
    assert len(matched(recorded(*arm), ("phase4",))) == 4
    assert not len(matched(recorded(*arm, "smoothing.form=standard"), ("phase4",)))


def test_a_run_names_the_sources_that_it_answers_to(recorded):
    assert not len(matched(recorded(*SCALING), ()))
    assert not len(matched(recorded(*SCALING), ("track",)))


def test_a_record_that_lacks_a_key_has_no_published_figure(recorded):
    config = recorded(*SCALING)
    del config["optimizer"]
    assert not len(matched(config))


@pytest.mark.parametrize("study", STUDIES)
def test_every_knob_that_decides_a_result_is_compared(values, study):
    """A new knob: it goes into the protocol, or here among those that play no part."""
    config = load_config(values(*SCALING))
    decides = flat({k: v for k, v in identity(config, "").items() if k in type(config).model_fields})
    unused = {"probe.contexts", "probe.context_length"} if study[0] == "track" else set()
    assert decides - published.expected(*study).keys() <= NO_PART | unused

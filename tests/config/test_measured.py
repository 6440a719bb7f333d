"""What metrics are counted over, and what may not be compared for it."""

from __future__ import annotations

import pytest

from bitnet.config.claims import DERIVED, RUN_FACTS
from bitnet.config.measured import measured_over, why_unlike
from bitnet.runs.columns import COLUMNS

CONFIG = {
    "batch_size": 4,
    "seq_len": 32,
    "eval_every": 100,
    "probe": {
        "metric": "random_contexts",
        "contexts": 20,
        "context_length": 8,
        "heldout_sequences": 32,
        "prompts": 8,
        "new_tokens": 32,
    },
}
FACTS = {"vocab_size": 2048.0, "steps": 1000.0, "parameters_embedding": 131_072.0, "parameters_total": float("nan")}


@pytest.mark.parametrize(
    ("metric", "keys"),
    [
        ("contexts_uniq", {"probe.contexts", "probe.context_length", "vocab_size"}),
        ("UniquePredictions", {"probe.metric", "probe.contexts", "probe.context_length", "vocab_size"}),
        ("random_uniq_200", {"probe.context_length", "vocab_size"}),
        ("first_batch_uniq", {"batch_size", "seq_len", "vocab_size"}),
        ("heldout_uniq", {"probe.heldout_sequences", "seq_len", "vocab_size"}),
        ("entropy_argmax", {"probe.heldout_sequences", "seq_len", "vocab_size"}),
        ("heldout_loss", {"probe.heldout_sequences", "seq_len", "vocab_size"}),
        ("heldout_below_unigram", {"probe.heldout_sequences", "seq_len"}),
        ("sampled_diversity", {"probe.prompts", "probe.new_tokens", "seq_len", "vocab_size"}),
        ("duration_steps", {"steps", "eval_every"}),
        ("outside_embedding", {"parameters_embedding"}),
        ("outside_latents", set()),  # what is not known is left out
        ("collapsed_at_end", set()),
        ("ternary_zero", set()),
    ],
)
def test_what_a_metric_is_counted_over(metric, keys):
    assert set(measured_over(metric, CONFIG, FACTS)) == keys


def test_over_the_first_batch_the_study_s_count_has_that_batch_s_size():
    config = CONFIG | {"probe": CONFIG["probe"] | {"metric": "first_batch"}}
    over = measured_over("UniquePredictions", config, FACTS)
    assert over == {"probe.metric": "first_batch", "batch_size": 4, "seq_len": 32, "vocab_size": 2048}


@pytest.mark.parametrize("metric", [*COLUMNS, *DERIVED, *RUN_FACTS])
def test_every_metric_has_an_answer(metric):
    assert why_unlike(metric, {"arm": [measured_over(metric, CONFIG, FACTS)] * 2}) is None


def test_numbers_of_two_kinds_are_told_apart_between_sides_and_within_one():
    few, many = {"probe.contexts": 20}, {"probe.contexts": 200}
    assert why_unlike("contexts_uniq", {"arm": [few], "against": [few, {}]}) is None
    between = why_unlike("contexts_uniq", {"arm": [few], "against": [many]})
    assert between == "the sides have contexts_uniq at different probe.contexts (20, 200), and such numbers can't be compared"
    within = why_unlike("contexts_uniq", {"arm": [few, many], "against": [many]})
    assert within.startswith("arm: its runs have contexts_uniq at different probe.contexts") and within.endswith("averaged")


def test_of_two_vocabularies_the_relative_metrics_are_named():
    over = {"arm": [{"vocab_size": 2048}], "against": [{"vocab_size": 50257}]}
    assert "heldout_below_uniform" in why_unlike("heldout_loss", over)
    assert "heldout_below_uniform" not in why_unlike("heldout_uniq", over)

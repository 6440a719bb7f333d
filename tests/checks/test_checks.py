"""Every check passes on what the harness builds, and fails on a run that was broken in the way it looks for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small import DATA
from tokenizers import Tokenizer, normalizers
from torch import nn
from torch.optim import Adam, AdamW

from bitnet import check
from bitnet.checks import subject as subject_module
from bitnet.checks import training as training_checks
from bitnet.checks.study import STUDY
from bitnet.checks.subject import Subject, run_check
from bitnet.checks.training import OURS
from bitnet.common.errors import UserError
from bitnet.config.run import load_config
from bitnet.data import prepared
from bitnet.evaluation.probe import Probe
from bitnet.model import quant, transformer
from bitnet.model.transformer import BitLinear
from bitnet.runs import folders
from bitnet.training import checkpoint, optim, schedules
from bitnet.training.loop import Trainer

CHECKS = {name: function for _, name, function, _ in (*STUDY, *OURS)}
SMALL = [*DATA, "data.heldout_tokens=3000", "model=tiny", "device=cpu", "threads=1"]
SMALL += ["probe.many_contexts=20", "probe.prompts=2", "probe.new_tokens=4"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """So small a model only waits for a second one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture
def make(values, cache):
    """`make("wd=cosine", ...)`: a small run with these overrides, ready to be checked."""

    def subject(*overrides: str) -> Subject:
        config = load_config(values(*SMALL, f"data.cache={cache}", *overrides))
        return Subject(config, prepared.prepare(config.data, config.tokenizer), torch.device("cpu"))

    return subject


@pytest.fixture
def make_text(values, cache, tmp_path):
    """The same over a text with a tokenizer of its own."""
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"Line {i} of the text says that {i} and {i * i} are Numbers." for i in range(3000)))

    def subject() -> Subject:
        overrides = ("data=text", f"data.paths=[{text}]", "tokenizer=bpe", "tokenizer.vocab_size=300", "device=cpu")
        config = load_config(values("model=tiny", *overrides, f"data.cache={cache}", "data.encode=lines"))
        return Subject(config, prepared.prepare(config.data, config.tokenizer), torch.device("cpu"))

    return subject


@pytest.mark.parametrize(
    "overrides",
    [
        "",
        "recipe=faq",
        "recipe=modern seq_len=32 batch_size=4",
        "quant=float lr=cosine wd=cosine",
        "lr=constant lr.warmup_steps=0 schedule_lag=0 steps=7",
        "lr=inv_sqrt_hidden wd=wd005 optimizer.decay_scope=bitlinear model.tied_head=true model.init=normal",
        "optimizer.decay_scope=matrices regularizer=coverage smoothing=ls01 model.output_scale=0.5",
    ],
)
def test_what_the_harness_builds_passes(make, overrides):
    subject = make(*overrides.split())
    found = {name: run_check(function, subject) for name, function in CHECKS.items()}
    assert {name: f for name, f in found.items() if f.passed is False} == {}
    does_not_apply = {name for name, f in found.items() if f.passed is None}
    quantised = {"weights deterministic", "activations deterministic", "-1, 0 and 1"}
    assert does_not_apply == {"tokenizer round trip"} | (quantised if "quant=float" in overrides else set())


# ------------------------------------------------------------------------------------------------------------- sabotage
def noisy(f):
    return lambda x: f(x + 0.1 * x.abs().mean() * torch.randn_like(x))


def float_in_evaluation(monkeypatch, s):
    quantised = BitLinear.forward
    monkeypatch.setattr(BitLinear, "forward", lambda m, x: quantised(m, x) if m.training else F.linear(m.norm(x), m.weight))


def random_rounding_of_weights(monkeypatch, s):
    for m in s.trainer.model.bitlinears():
        m.quantise_weight = noisy(quant.ternary_weight)


def random_rounding_of_activations(monkeypatch, s):
    for m in s.trainer.model.bitlinears():
        m.quantise_input = noisy(quant.int8_activation)


def an_infinite_weight(monkeypatch, s):
    s.trainer.model.head.weight.data[3, 3] = torch.inf


def a_bias_too_many(monkeypatch, s):
    s.trainer.model.head.bias = nn.Parameter(torch.zeros(64))


def with_measure(change):
    """An evaluation that does something it must not do."""

    def sabotage(monkeypatch, s):
        measure = Probe.measure

        def changed(probe, step):
            row = measure(probe, step)
            return change(probe, row) or row

        monkeypatch.setattr(Probe, "measure", changed)

    return sabotage


def no_mask(monkeypatch, s):
    attention = F.scaled_dot_product_attention
    monkeypatch.setattr(transformer.F, "scaled_dot_product_attention", lambda *qkv, **options: attention(*qkv))


def deaf(monkeypatch, s):
    monkeypatch.setattr(type(s.trainer.model), "hidden", lambda m, ids: torch.ones(*ids.shape, 32))


def head_times(factor):
    return lambda monkeypatch, s: s.trainer.model.head.weight.data.mul_(factor)


def five_codes(monkeypatch, s):
    monkeypatch.setattr(transformer, "ternary_codes", lambda w: quant.absmean_scaled(w).round().clamp(-2, 2))


def two_scales(monkeypatch, s):
    for m in s.trainer.model.bitlinears():
        m.quantise_weight = lambda w: torch.cat([quant.ternary_weight(part) for part in w.chunk(2)])


def a_schedule_of_other_values(monkeypatch, s):
    """Where the updates use what the schedule says, which is wrong."""
    kind = s.config.lr.kind
    formula = schedules.LR_SCHEDULES[kind]
    monkeypatch.setitem(schedules.LR_SCHEDULES, kind, lambda step, **knobs: 0.5 * formula(step, **knobs))
    s.trainer = s.fresh()


def schedule(name, shift):
    def sabotage(monkeypatch, s):
        before = getattr(s.trainer, name)
        setattr(s.trainer, name, lambda step: before(step + shift))

    return sabotage


def a_frozen_weight(monkeypatch, s):
    s.trainer.model.layers[1].ffn.down.weight.requires_grad_(False)


def rounding_without_a_gradient(monkeypatch, s):
    monkeypatch.setattr(transformer, "straight_through", lambda x, f: x if f is None else f(x))


def gradient_of_the_wrong_size(monkeypatch, s):
    monkeypatch.setattr(quant._StraightThrough, "backward", staticmethod(lambda ctx, grad: (2 * grad, None)))


def optimizer_is(kind, other):
    return lambda monkeypatch, s: monkeypatch.setitem(optim.OPTIMIZERS, kind, other)


def decay_beyond_its_scope(monkeypatch, s):
    set_rates = optim.set_rates

    def everywhere(optimizer, lr, weight_decay):
        set_rates(optimizer, lr, weight_decay)
        for group in optimizer.param_groups:
            group["weight_decay"] = weight_decay

    monkeypatch.setattr(optim, "set_rates", everywhere)


def noise_in_every_update(monkeypatch, s):
    update, source = Trainer.update, torch.Generator()
    source.seed()

    def noisily(trainer, step):
        trainer.model.head.weight.data += 1e-6 * torch.randn(trainer.model.head.weight.shape, generator=source)
        return update(trainer, step)

    monkeypatch.setattr(Trainer, "update", noisily)


def seed_ignored(monkeypatch, s):
    build = subject_module.build
    monkeypatch.setattr(subject_module, "build", lambda config, *rest: build(config.model_copy(update={"seed": 0}), *rest))


def optimizer_not_restored(monkeypatch, s):
    monkeypatch.setattr(optim, "load_state_tensors", lambda optimizer, tensors: None)


def saved_in_half_precision(monkeypatch, s):
    save = checkpoint.save

    def halved(folder, step, tensors, *rest):
        return save(folder, step, {k: v.half() if v.dtype == torch.float32 else v for k, v in tensors.items()}, *rest)

    monkeypatch.setattr(training_checks.checkpoint, "save", halved)


def read_without_looking(monkeypatch, s):
    def as_named(path):
        parts = folders.checkpoint_parts(path.name)
        return "0" * 16 if parts is None else parts[1]

    monkeypatch.setattr(checkpoint, "sha256", as_named)


def targets_are_the_inputs(monkeypatch, s):
    s.targets_BT = s.inputs_BT


def trained_on_heldout(monkeypatch, s):
    s.trainer.probe.heldout.windows_HT[:6] = s.prepared.train[1000:1033]


SABOTAGE = [
    ("training = evaluation output", float_in_evaluation),
    ("weights deterministic", random_rounding_of_weights),
    ("activations deterministic", random_rounding_of_activations),
    ("no NaN, no Inf", an_infinite_weight),
    ("configuration as composed", a_bias_too_many),
    ("evaluation changes nothing", with_measure(lambda probe, row: probe.model.eval() and None)),
    ("evaluation changes nothing", with_measure(lambda probe, row: torch.rand(1) and None)),
    ("evaluation changes nothing", with_measure(lambda probe, row: probe.model.norm.weight.data.mul_(2) is None)),
    ("causal mask", no_mask),
    ("causal mask", deaf),
    ("loss before training", head_times(200)),
    ("logits before training", head_times(0.5)),
    ("-1, 0 and 1", five_codes),
    ("-1, 0 and 1", two_scales),
    ("learning rate", schedule("lr", 1)),
    ("learning rate of updates", schedule("applied_lr", 1)),
    ("weight decay", schedule("wd", -1)),
    ("weight decay", schedule("wd", 1)),
    ("reach every parameter", a_frozen_weight),
    ("straight-through is the identity", rounding_without_a_gradient),
    ("straight-through is the identity", gradient_of_the_wrong_size),
    ("AdamW is decoupled", optimizer_is("adamw", Adam)),
    ("Adam with L2 is coupled", optimizer_is("adam_l2", AdamW)),
    ("AdamW is decoupled", decay_beyond_its_scope),
    ("same seed, same bits", noise_in_every_update),
    ("same seed, same bits", seed_ignored),
    ("resumed, same bits", optimizer_not_restored),
    ("checkpoint round trip", saved_in_half_precision),
    ("checkpoint round trip", read_without_looking),
    ("targets are the next tokens", targets_are_the_inputs),
    ("held-out text is not trained on", trained_on_heldout),
    ("held-out loss, computed plainly", with_measure(lambda probe, row: row | {"heldout_loss": 1.01 * row["heldout_loss"]})),
]


@pytest.mark.parametrize(("name", "sabotage"), SABOTAGE, ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_a_broken_run_fails(make, monkeypatch, name, sabotage):
    subject = make("optimizer.decay_scope=bitlinear") if sabotage is decay_beyond_its_scope else make()
    sabotage(monkeypatch, subject)
    assert run_check(CHECKS[name], subject).passed is False


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("sabotage", [a_schedule_of_other_values, schedule("applied_lr", 1), schedule("applied_lr", -1)])
def test_updates_at_another_learning_rate_fail_with_and_without_a_lag(make, monkeypatch, sabotage, lag):
    subject = make(f"schedule_lag={lag}")
    sabotage(monkeypatch, subject)
    assert run_check(CHECKS["learning rate of updates"], subject).passed is False


def test_every_check_was_seen_to_fail():
    assert set(CHECKS) - {name for name, _ in SABOTAGE} == {"tokenizer round trip"}  # next


def test_tokenizer_round_trip(make_text):
    subject = make_text()
    assert run_check(CHECKS["tokenizer round trip"], subject).passed
    path = Path(subject.prepared.folder) / "tokenizer.json"
    whole = path.read_text()
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.save(str(path))
    try:
        found = run_check(CHECKS["tokenizer round trip"], subject)
    finally:
        path.write_text(whole)
    assert found.passed is False and not found.value.startswith("0 ")


def test_a_check_that_breaks_has_failed(make):
    found = run_check(lambda s: 1 / 0, make())
    assert found.passed is False and "ZeroDivisionError" in found.value


# ---------------------------------------------------------------------------------------------------------- the command
@pytest.fixture
def typed(cache) -> list[str]:
    return [*SMALL, f"data.cache={cache}"]


def test_the_command_prints_a_table(typed, capsys):
    assert check.main(typed) == 0
    out = capsys.readouterr().out
    assert "mean 0.00, sd 0.58" in out and "4e-06 at 1, 0.0015 at 375" in out
    assert out.endswith(f"{len(CHECKS) - 1} pass, 0 FAIL, 1 n/a\n")


def test_the_command_fails_with_one_check(typed, capsys, monkeypatch):
    monkeypatch.setitem(optim.OPTIMIZERS, "adamw", Adam)
    assert check.main([*typed, "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [r["check"] for r in rows if r["passed"] is False] == ["AdamW is decoupled"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("wdd=paper", "wd"),
        ("probe.heldout_sequences=9000", "probe.heldout_sequences"),
        ("sweeps=rootcause", "one run is checked"),
    ],
)
def test_wrong_input_is_one_line(typed, capsys, wrong, said):
    assert check.main([*typed, wrong]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert said in err[-1] and err[-1].startswith("error: ")


def test_user_errors_are_not_failed_checks(make):
    def refused(s):
        raise UserError("no")

    with pytest.raises(UserError):
        run_check(refused, make())

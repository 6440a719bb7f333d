"""The study's ten checks: 4 of quantisation, 6 of sanity.

Shapes: B sequences, T tokens, V vocabulary, O x I a weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
import yaml
from tokenizers import Tokenizer
from torch import Tensor

from bitnet.checks.subject import CheckResult, Subject, differing
from bitnet.config.run import RunConfig, load_config
from bitnet.model.quant import quantise_rows, ternary_codes
from bitnet.model.transformer import BitLinear, BitNet, parameter_counts

_TEXT = "naïve — “東京” 1,000.5\tx\n\n  def f(a): return a  🙂"  # several scripts, runs of blanks, four-byte characters


# --------------------------------------------------------------------------------------------------------- quantisation
def train_equals_eval(s: Subject) -> CheckResult:
    """Nothing in the model depends on its mode: the weights are quantised in training as in evaluation."""
    s.trainer.model.eval()
    evaluated = s.logits(s.inputs_BT)
    s.trainer.model.train()
    n = differing(evaluated, s.logits(s.inputs_BT))
    return CheckResult(n == 0, f"{n:,} of {evaluated.numel():,} logits differ", "0")


def weights_deterministic(s: Subject) -> CheckResult:
    """The same weight gives the same quantised weight."""
    quantised = [m for m in s.trainer.model.bitlinears() if m.quantise_weight is not None]
    if not quantised:
        return CheckResult(None, "float weights", "")
    with torch.no_grad():
        n = sum(differing(*(quantise_rows(m.weight, m.blocks, m.quantise_weight) for _ in range(2))) for m in quantised)
    return CheckResult(n == 0, f"{n:,} of {sum(m.weight.numel() for m in quantised):,} weights differ", "0")


def activations_deterministic(s: Subject) -> CheckResult:
    """The same activation gives the same quantised activation."""
    total = n = 0
    for m, x in _inputs(s):
        if m.quantise_input is not None:
            n += differing(m.quantise_input(x), m.quantise_input(x))
            total += x.numel()
    return (
        CheckResult(n == 0, f"{n:,} of {total:,} activations differ", "0")
        if total
        else CheckResult(None, "float activations", "")
    )


def _inputs(s: Subject) -> Iterator[tuple[BitLinear, Tensor]]:
    """Each BitLinear with its normalised input of the first batch."""
    seen: list[tuple[BitLinear, Tensor]] = []
    layers = list(s.trainer.model.bitlinears())
    hooks = [m.register_forward_pre_hook(lambda m, args: seen.append((m, args[0].detach()))) for m in layers]
    try:
        s.logits(s.inputs_BT)
    finally:
        for hook in hooks:
            hook.remove()
    with torch.no_grad():
        for m, x in seen:
            yield m, m.norm(x)


def no_nan_or_inf(s: Subject) -> CheckResult:
    """Logits, loss and gradients of the first batch are finite."""
    bad = int((~torch.isfinite(s.logits(s.inputs_BT))).sum())
    loss, extra = s.trainer.losses(s.inputs_BT, s.targets_BT)
    (loss if extra is None else loss + extra).backward()
    grads = [p.grad for p in s.trainer.model.parameters() if p.grad is not None]
    bad += int(~torch.isfinite(loss.detach())) + sum(int((~torch.isfinite(g)).sum()) for g in grads)
    s.trainer.optimizer.zero_grad(set_to_none=True)
    return CheckResult(bad == 0, f"{bad:,} of logits, loss and gradients", "0")


def codes_are_ternary(s: Subject) -> CheckResult:
    """Each quantised weight is -1, 0 or 1 times one scale, and none of the three is missing."""
    ternary = [m for m in s.trainer.model.bitlinears() if m.ternary]
    if not ternary:
        return CheckResult(None, "no ternary weights", "")
    codes = torch.cat([m.codes().flatten() for m in ternary])
    shares = [float((codes == c).double().mean()) for c in (-1, 0, 1)]
    with torch.no_grad():
        scales = [len(torch.unique(block.abs())) for m in ternary for block in _blocks(m)]
    good = math.isclose(sum(shares), 1.0) and min(shares) > 0 and max(scales) <= 2
    return CheckResult(
        good, " ".join(f"{share:.3f}" for share in shares), "shares of -1, 0, 1: none 0, sum 1, one scale a matrix"
    )


def _blocks(m: BitLinear) -> tuple[Tensor, ...]:
    return quantise_rows(m.weight, m.blocks, m.quantise_weight or ternary_codes).split(m.blocks)


# --------------------------------------------------------------------------------------------------------------- sanity
def tokenizer_round_trip(s: Subject) -> CheckResult:
    """Text survives encoding and decoding, and every id of it is in the model's vocabulary."""
    path = s.prepared.folder / "tokenizer.json"
    if not path.is_file():
        return CheckResult(None, "tokens without a tokenizer", "")
    tokenizer = Tokenizer.from_file(str(path))
    text = _TEXT + tokenizer.decode(s.prepared.heldout[:1000].tolist(), skip_special_tokens=False)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    lost = sum(a != b for a, b in zip(text, tokenizer.decode(ids, skip_special_tokens=False), strict=False))
    back = tokenizer.decode(ids, skip_special_tokens=False)
    good = back == text and max(ids) < s.prepared.vocab_size
    return CheckResult(good, f"{lost + abs(len(back) - len(text)):,} of {len(text):,} characters differ", "0")


def config_as_composed(s: Subject) -> CheckResult:
    """The configuration survives its file, and the model has the parameters that a count by hand gives."""
    c = s.config
    same = load_config(yaml.safe_load(yaml.safe_dump(c.model_dump(mode="json")))) == c
    counted, expected = parameter_counts(s.trainer.model)["total"], parameters_by_hand(c, s.prepared.vocab_size)
    frozen = "same from its file" if same else "NOT the same from its file"
    return CheckResult(same and counted == expected, f"{frozen}, {counted:,} parameters", f"the same, {expected:,} parameters")


def parameters_by_hand(c: RunConfig, vocab_size: int) -> int:
    """Weights of the configured model; for the study's layout 40 h^2 + 2 V h + 29 h."""
    m = c.model
    h, f, kv = m.hidden_size, m.ffn_size, m.num_kv_heads * m.hidden_size // m.num_heads
    attention = h * (h + 2 * kv) + h * h
    ffn = h * f * (3 if m.gated_ffn else 2)
    gains = (2 * h if m.norm_placement != "bitlinear" else 0) + (3 * h + f if m.norm_placement != "block" else 0)
    return vocab_size * h * (1 if m.tied_head else 2) + m.num_layers * (attention + ffn + gains) + h


def eval_mode(s: Subject) -> CheckResult:
    """An evaluation leaves weights, mode, gradients and the random generator as it found them."""
    _, changed = s.evaluation
    return CheckResult(not changed, f"changed: {', '.join(changed) or 'nothing'}", "nothing")


def causal_mask(s: Subject) -> CheckResult:
    """Other tokens from the middle on change no logit before it, and do change those after it."""
    half = s.inputs_BT.shape[1] // 2
    if half == 0:
        return CheckResult(None, "sequences of one token", "")
    other_BT = s.inputs_BT.clone()
    other_BT[:, half:] = (other_BT[:, half:] + 1) % s.prepared.vocab_size
    changed_BT = (s.logits(s.inputs_BT) != s.logits(other_BT)).any(dim=-1)
    before, after = int(changed_BT[:, :half].sum()), float(changed_BT[:, half:].double().mean())
    return CheckResult(before == 0 and after > 0.99, f"{before} positions before it, {after:.0%} after", "0 before, 100% after")


def loss_range(s: Subject) -> CheckResult:
    """The first loss lies where an untrained model's lies."""
    loss = float(F.cross_entropy(s.logits(s.inputs_BT).flatten(0, 1), s.targets_BT.flatten()))
    return CheckResult(1 <= loss <= 15, f"{loss:.2f} (ln V = {math.log(s.prepared.vocab_size):.2f})", "1 to 15")


def logit_spread(s: Subject) -> CheckResult:
    """Logits begin around 0, as wide as the head's initialisation makes them."""
    logits = s.logits(s.inputs_BT)
    mean, spread = float(logits.mean()), float(logits.std())
    wanted = _initial_spread(s.trainer.model, s.config)
    # a position's mean over V tokens of one random head strays by spread / sqrt(V); 5 of these are no chance
    good = abs(spread / wanted - 1) < 0.15 and abs(mean) < 5 * spread / math.sqrt(s.prepared.vocab_size)
    return CheckResult(good, f"mean {mean:.2f}, sd {spread:.2f}", f"mean 0.00, sd {wanted:.2f} +- 15 %")


def _initial_spread(model: BitNet, c: RunConfig) -> float:
    """Each logit sums h entries of a normalised state, of rms 1, times h weights of the head: sqrt(h) x their sd."""
    m = c.model
    of_head = m.init_std if m.init == "normal" else 1.0 if m.tied_head else 1 / math.sqrt(3 * m.hidden_size)
    return math.sqrt(m.hidden_size) * of_head * model.output_scale


# group, check, function, what the study reported of its own
STUDY = (
    ("quantisation", "training = evaluation output", train_equals_eval, "identical"),
    ("quantisation", "weights deterministic", weights_deterministic, "deterministic"),
    ("quantisation", "activations deterministic", activations_deterministic, "deterministic"),
    ("quantisation", "no NaN, no Inf", no_nan_or_inf, "none"),
    ("sanity", "tokenizer round trip", tokenizer_round_trip, "passed"),
    ("sanity", "configuration as composed", config_as_composed, "passed"),
    ("sanity", "evaluation changes nothing", eval_mode, "passed"),
    ("sanity", "causal mask", causal_mask, "passed"),
    ("sanity", "loss before training", loss_range, "1 to 15"),
    ("sanity", "logits before training", logit_spread, "mean 0.00, sd 0.58"),
)

"""What a sweep claims, declared in its file before it runs: data that `verdicts/` judges, never code.

Every claim but a correlation comes down to one number for each seed, whose mean is judged. `at` and `since` name an
evaluation: a step, a fraction of the run (0.5), `boundary` (the first evaluation of stage 2), or `end`; with a fraction or a
name the same claim holds for a sweep that is shortened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from bitnet.common.errors import suggestion
from bitnet.config.base import ConfigModel, Number, Positive, refuse_bool, value_at
from bitnet.runs.columns import COLUMNS

# Numbers of a whole run, beside the columns of its evaluations; `analysis/collapse.py` computes them.
RUN_FACTS: dict[str, str] = {
    "onset_step": "first evaluation that is collapsed; empty for a run that never is",
    "collapsed_share": "share of the evaluations after warm-up that are collapsed",
    "duration_steps": "steps from onset to recovery, or to the end of the run",
    "depth": "how far the held-out loss is above the corpus's unigram entropy at its worst after warm-up, nats; below 0: never",
    "recovery_step": "first evaluation from which on none is collapsed; empty where there is none",
    "collapsed_at_end": "1 when the last evaluation is collapsed, else 0",
    "diverged": "1 when the loss was not finite, else 0",
}


EVENTS = frozenset({"collapsed_at_end", "diverged"})  # those of them that are 0 or 1: their means are rates


# Numbers of an evaluation that hold for any vocabulary and corpus, beside its columns; `verdicts/evaluations.py` computes them.
DERIVED: dict[str, str] = {
    "heldout_below_uniform": "ln V minus the held-out loss, nats: 0 for a model that knows nothing",
    "entropy_below_uniform": "ln V minus the mean entropy of a prediction, nats: 0 for flat predictions",
    "heldout_below_unigram": "the corpus's unigram entropy minus the held-out loss, nats: above 0 only where context is used",
}


# From how many seeds on a p-value can fall under 0.05: the exact sign-flip test of n differences gives no less than 2 / 2^n.
ENOUGH_SEEDS = 6


def seeds_allow(n: int) -> str:
    """What `n` seeds allow to conclude, in words: no interval of one or two, no sign-flip p below 0.05 under `ENOUGH_SEEDS`."""
    if n >= ENOUGH_SEEDS:
        return "enough for an interval and a p-value"
    few = {0: "nothing can be concluded", 1: "anecdotal, nothing can be concluded", 2: "only a direction"}
    return few.get(
        n,
        "too few for a sign-flip p-value below 0.05; the interval decides, is wide, and takes it that seeds scatter normally",
    )


def _one_of(known: Iterable[str]) -> Callable[[str], str]:
    names = list(known)

    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"no such column or number of a run{suggestion(name, names)}")
        return name

    return check


def _moment(value: Any) -> Any:
    fits = (
        value in ("end", "boundary")
        if isinstance(value, str)
        else isinstance(value, int | float) and not isinstance(value, bool) and (0 < value < 1 or (value >= 1 and value % 1 == 0))
    )
    if not fits:
        raise ValueError("a step from 1 on, a fraction of the run between 0 and 1, boundary, or end is needed")
    return value


Column = Annotated[str, AfterValidator(_one_of(COLUMNS))]

Metric = Annotated[str, AfterValidator(_one_of([*COLUMNS, *DERIVED, *RUN_FACTS]))]

Moment = Annotated[int | float | Literal["end", "boundary"], BeforeValidator(_moment)]


# An arm by its name in the sweep file, or runs by what they chose: {arm: control, optimizer: adamw}. Where that leaves several
# runs of a seed, their mean counts: a main effect, when both sides leave the same ones.
Selector = str | dict[str, str | int | float | bool | None]

Rank = Annotated[float, BeforeValidator(refuse_bool), Field(gt=-1, lt=1)]


class Claim(ConfigModel):
    """What every claim has.

    `says`: the claim in one sentence, as its author would put it. `published`: the figure it goes back to, as text or number.
    `explained_by`: other claims of the sweep; where this one holds and they hold too, its observation is real and its
    explanation is not: "explained otherwise".
    """

    says: str
    published: str | float | None = None
    explained_by: list[str] = []

    def latest_step(self) -> int:
        """The last step that it names as such; 0 where it names none."""
        moments = [getattr(self, key, 0) for key in ("at", "since")]
        return max(int(m) for m in (0, *moments) if not isinstance(m, str))

    def selectors(self) -> dict[str, Selector]:
        """What selects its runs, by the key that it stands under."""
        keys = ("arm", "against", "other_arm", "other_against")
        return {key: getattr(self, key) for key in keys if hasattr(self, key)}


class Numeric(Claim):
    """A claim about one number a seed; `margin` is the smallest effect that matters, in the number's own unit."""

    metric: Metric
    at: Moment = "end"
    margin: Positive


class Contrast(Numeric):
    """`arm` minus `against`, paired by seed: `lower`, `higher`, or `equal` (within the margin)."""

    kind: Literal["contrast"]
    arm: Selector
    against: Selector
    expected: Literal["lower", "higher", "equal"]


class Interaction(Numeric):
    """(`arm` minus `against`) minus (`other_arm` minus `other_against`): whether one factor's effect depends on another's."""

    kind: Literal["interaction"]
    arm: Selector
    against: Selector
    other_arm: Selector
    other_against: Selector
    expected: Literal["lower", "higher", "equal"]


class Bound(Numeric):
    """The metric of one arm against a number: `at_most`, `at_least`, or `equal` (within the margin, which it alone needs)."""

    kind: Literal["bound"]
    arm: Selector
    expected: Literal["at_most", "at_least", "equal"]
    bound: Number
    margin: Positive | None = None

    @model_validator(mode="after")
    def _equal_within_what(self) -> Bound:
        if self.expected == "equal" and self.margin is None:
            raise ValueError("expected=equal: it needs a margin, the smallest difference that matters")
        return self


class Change(Numeric):
    """The metric at `at` minus that at `since`, within each run of an arm; `relative`: as a share of the latter."""

    kind: Literal["change"]
    arm: Selector
    since: Moment
    relative: bool = False
    expected: Literal["lower", "higher", "equal"]


class Correlation(Claim):
    """Spearman's rank correlation of two columns over the evaluations of all runs that `arm` selects ({}: of all).

    `expected` holds beyond `bound`: `higher` than it, or `lower`. Its interval is over seeds: runs of one seed share initial
    weights and order of data, and are alike.
    """

    kind: Literal["correlation"]
    metric: Column
    other: Column
    arm: Selector = {}
    expected: Literal["lower", "higher"]
    bound: Rank


AnyClaim = Annotated[Contrast | Interaction | Bound | Change | Correlation, Field(discriminator="kind")]


def measured(claim: Mapping[str, Any]) -> dict[str, Any]:
    """A claim's plain values without the words that it is told in, which may become better ones: what its verdict depends on."""
    return {key: value for key, value in claim.items() if key != "says" and not (key == "published" and isinstance(value, str))}


def explains_itself(claims: Mapping[str, AnyClaim]) -> str | None:
    """The error about a claim that names itself as its explanation, None where there is none."""
    itself = next((name for name, claim in claims.items() if name in claim.explained_by), None)
    return itself and f"sweep.claims.{itself}.explained_by={itself}: a claim can't explain itself; name other claims"


# ------------------------------------------------------------------------------------------------------------- selecting
def level(key: str, written: Mapping[str, Any], choices: Mapping[str, str], config: Mapping[str, Any]) -> Any:
    """What a run has at a selector's key: what its sweep's file wrote for it (whatever the scale made of that), or else the
    option of a group, or else the value at a dotted key of its configuration; None where it has none.

    Args:
        written: with the run's `arm`.
    """
    if key in written:
        return written[key]
    value = setting(key, choices, config)
    return None if isinstance(value, dict) else value


def setting(key: str, choices: Mapping[str, str], config: Mapping[str, Any]) -> Any:
    """A run's option of a group, or the value at a dotted key of its configuration."""
    return choices[key] if key in choices else value_at(config, key)


def is_level(value: Any, wanted: Any) -> bool:
    """Whether that is what a selector wants: `model=256` names the option "256"; 0 is not false, None is typed as null."""
    value, wanted = ("null" if v is None else v for v in (value, wanted))
    if isinstance(value, str) or isinstance(wanted, str):
        return str(value) == str(wanted)
    return isinstance(value, bool) == isinstance(wanted, bool) and value == wanted


Described = tuple[Mapping[str, Any], Mapping[str, str], Mapping[str, Any]]  # written, choices, config, as for `level`


def without_runs(claims: Mapping[str, AnyClaim], runs: Sequence[Described]) -> list[str]:
    """Sides of claims that name none of these runs, so that no verdict on them can come, as a reader would say it."""
    told = []
    for name, claim in claims.items():
        for side, selector in claim.selectors().items():
            if not runs_of(selector, runs):
                told.append(f"{name}.{side} ({', '.join(f'{key}={value}' for key, value in _levels(selector).items())})")
    return told


def runs_of(selector: Selector, runs: Sequence[Described]) -> list[Described]:
    """Those of the runs that a selector names."""
    return [run for run in runs if all(is_level(level(key, *run), value) for key, value in _levels(selector).items())]


def _levels(selector: Selector) -> dict[str, Any]:
    return {"arm": selector} if isinstance(selector, str) else selector

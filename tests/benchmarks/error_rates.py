"""How often a verdict is wrong, by how the seeds scatter: the table of docs/error_rates.md.

    python tests/benchmarks/error_rates.py [--full] [--draws N]

Draws numbers of seeds whose truth is known, has `decide` judge them, and counts the false words in percent: in seconds with
100 draws a cell, in two minutes with --full (1,000, as in the documentation). The same seed gives the same table. A claim expects
an effect to the side where it goes wrong more often (away from the tail of skewed values); its margin is one standard deviation.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np

from bitnet.analysis import rates, stats
from bitnet.verdicts.decision import decide

SEEDS = (2, 3, 6, 10, 20)
MARGIN = 1.0  # in standard deviations of the scatter (of t with 2 degrees, which has none, of a normal one of the same middle)
NONE = 1e-9  # a margin of nothing: any effect would do
LOOKS = 10  # up to so many seeds, added one at a time

Draw = Callable[[np.random.Generator, int], np.ndarray]


def _mixture(rng: np.random.Generator, n: int) -> np.ndarray:
    """One in ten lies four standard deviations of the others higher."""
    return (rng.normal(size=n) + 4 * (rng.random(n) < 0.1) - 0.4) / math.sqrt(1 + 16 * 0.09)


SCATTER: dict[str, Draw] = {  # around 0, with a standard deviation of 1 where there is one; tails to higher values
    "normal": lambda rng, n: rng.normal(size=n),
    "exponential": lambda rng, n: rng.exponential(size=n) - 1,
    "lognormal": lambda rng, n: (np.exp(rng.normal(size=n)) - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e),
    "t with 2 df": lambda rng, n: rng.standard_t(2, size=n),
    "1 in 10 five times as wide": lambda rng, n: rng.normal(size=n) * np.where(rng.random(n) < 0.1, 5, 1) / math.sqrt(3.4),
    "1 in 10 four sd higher": _mixture,
}


def word(values: np.ndarray, expected: str, margin: float) -> str:
    """What numbers of seeds are called."""
    return decide(stats.mean_of(values), expected, margin, margin)[0]


def scattered(draw: Draw, rng: np.random.Generator, n: int, draws: int) -> list[float]:
    """Percent of false words of a scatter, a number a heading of `TABLE`; those of the first are one, moved by the margin."""
    x = np.stack([draw(rng, n) for _ in range(draws)])
    cells = [
        (x, "lower", NONE, "reproduced"),
        (x - 0.9 * MARGIN, "lower", MARGIN, "reproduced"),
        (x + MARGIN, "equal", MARGIN, "reproduced"),
    ]
    return [100 * float(np.mean([word(v, expected, margin) == false for v in of])) for of, expected, margin, false in cells]


def facts(rng: np.random.Generator, n: int, draws: int) -> list[float]:
    """The same of pairs of a fact, 0 or 1, of which some seeds have one on the first side alone, some on the second alone."""
    judged: dict[tuple[int, int], rates.RateEstimate] = {}
    counts = []
    for apart, expected, margin, false in (
        ((0.3, 0.3), "lower", NONE, "reproduced"),
        ((0.6, 0.1), "higher", 0.5, "not reproduced"),
        ((0.1, 0.55), "lower", 0.5, "reproduced"),
        ((0.6, 0.1), "equal", 0.5, "reproduced"),
    ):
        wrong = 0
        for first, second, neither in rng.multinomial(n, [*apart, 1 - sum(apart)], size=draws):
            key = (int(first), int(second))
            if key not in judged:
                judged[key] = rates.paired_rates([1] * first + [-1] * second + [0] * neither)
            wrong += decide(judged[key], expected, margin, margin)[0] == false
        counts.append(100 * wrong / draws)
    return [max(counts[:2]), *counts[2:]]


def until_it_holds(draw: Draw, rng: np.random.Generator, draws: int) -> float:
    """Percent of false "reproduced" of no effect, where seeds are added one at a time from three on until it is."""
    found = 0
    for _ in range(draws):
        x = draw(rng, LOOKS)
        found += any(word(x[:n], "lower", NONE) == "reproduced" for n in range(3, LOOKS + 1))
    return 100 * found / draws


TABLE = (
    '"reproduced" of no effect, and "not reproduced" of an effect of the margin',
    '"reproduced" of 0.9 of the margin',
    '"equal" of a difference of the margin',
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="1,000 draws a cell instead of 100: two minutes")
    parser.add_argument("--draws", type=int, help="draws a cell")
    given = parser.parse_args()
    draws = given.draws or (1000 if given.full else 100)
    found = {name: [scattered(draw, np.random.default_rng(n), n, draws) for n in SEEDS] for name, draw in SCATTER.items()}
    found["0 or 1"] = [facts(np.random.default_rng(n), n, draws) for n in SEEDS]
    for column, heading in enumerate(TABLE):
        print(f"\n{heading}, in percent of {draws:,} draws, by n\n")
        print(f"| seeds scatter | {' | '.join(f'{n}' for n in SEEDS)} |\n|---|{'---|' * len(SEEDS)}")
        for name, rows in found.items():
            print(f"| {name} | {' | '.join(f'{row[column]:.1f}' for row in rows)} |")
    print(f'\n"reproduced" of no effect, seeds added one at a time from 3 to {LOOKS} until it is\n')
    print("| seeds scatter | 3 alone | until it holds |\n|---|---|---|")
    for name, draw in SCATTER.items():
        print(f"| {name} | {found[name][1][0]:.1f} | {until_it_holds(draw, np.random.default_rng(0), draws):.1f} |")


if __name__ == "__main__":
    main()

"""Where stage 2 begins: one rule for the schedules and for the tables that look on either side of it."""

from __future__ import annotations

import math


def boundary_step(boundary: float, steps: int) -> int:
    """The first step of stage 2: the smallest whole number from boundary x steps on.

    A product that floating point misses a whole number by counts as that number: 0.07 x 100 is 7.000000000000001, and
    stage 2 begins at step 7.

    Args:
        boundary: share of the run before stage 2, between 0 and 1.
        steps: length of the run.
    """
    product = boundary * steps
    nearest = round(product)
    return nearest if math.isclose(product, nearest, rel_tol=1e-12) else math.ceil(product)

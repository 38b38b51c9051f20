"""Confidence intervals of proportions."""

import math
from dataclasses import dataclass

Z_95 = 1.959964
"""Standard normal quantile of a two-sided 95 % interval."""


@dataclass(frozen=True)
class Proportion:
    """A share with its 95 % interval; all None where there was nothing to count."""

    value: float | None
    low: float | None
    high: float | None
    n: float

    def __str__(self) -> str:
        if self.value is None or self.low is None or self.high is None:
            return "-"
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


def proportion(successes: float, n: float) -> Proportion:
    """Wilson's score interval (1927), which stays inside [0, 1] and is honest for small n.

    Half successes (ties counted as ½) are allowed.
    """
    if n == 0:
        return Proportion(None, None, None, 0)
    p, z2 = successes / n, Z_95**2
    center = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Proportion(p, max(0.0, center - half), min(1.0, center + half), n)

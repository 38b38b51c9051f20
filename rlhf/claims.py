"""A claim, and how far what several seeds measured speaks for it.

Each claim is one or more measures, and a measure is one number per seed. Its interval is Student's
t over the seeds, mean ± t · s / √n, so that it covers everything that was drawn anew per seed. A
measure holds where the whole interval is above its bound, does not hold where none of it is, and is
not clear in between.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import t as student

Verdict = Literal["holds", "does not hold", "not clear"]
Unit = Literal["points", "coefficient"]


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95 % interval; without an end where one seed is all there is."""

    mean: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number per seed, and above what the claim puts it."""

    name: str
    values: tuple[float, ...]
    """Of each seed; points are shares of 1."""
    above: float | None = 0.0
    """The claim's bound; None where a figure is shown for information only."""
    unit: Unit = "points"

    @property
    def interval(self) -> Interval:
        """Over the seeds."""
        return over_seeds(self.values)

    @property
    def verdict(self) -> Verdict | None:
        """None where nothing is claimed."""
        if self.above is None:
            return None
        low, high = self.interval.low, self.interval.high
        if low is None or high is None:
            return "not clear"
        if low > self.above:
            return "holds"
        return "does not hold" if high <= self.above else "not clear"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence of the paper and what speaks for or against it."""

    sentence: str
    source: str
    """Table or figure of the paper."""
    measures: tuple[Measure, ...]

    @property
    def verdict(self) -> Verdict:
        """Holds where all measures do, does not hold where one does not."""
        verdicts = [m.verdict for m in self.measures if m.verdict is not None]
        if "does not hold" in verdicts:
            return "does not hold"
        return "holds" if all(v == "holds" for v in verdicts) else "not clear"

    def to_record(self) -> dict[str, Any]:
        """As JSON knows it."""
        measures = [asdict(m) | {"verdict": m.verdict} | asdict(m.interval) for m in self.measures]
        return {
            "sentence": self.sentence,
            "source": self.source,
            "verdict": self.verdict,
            "measures": measures,
        }


def over_seeds(values: Sequence[float]) -> Interval:
    """Mean and 95 % interval by Student's t with n − 1 degrees of freedom."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Interval(mean, None, None)
    half = float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half)


def slope(steps: Sequence[float], values: Sequence[float]) -> float:
    """Of the least-squares line through (step, value)."""
    return float(np.polyfit(steps, values, 1)[0])

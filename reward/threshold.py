"""Does a score below the threshold mean unsafe? Precision and recall (Llama 2, section 3.2.3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.intervals import Proportion, proportion
from data.schemas import Comparison
from reward.evaluate import PairScores
from reward.train import safe_sides

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
"""On σ(score); the rule uses 0.15, the auxiliary loss aims at 0.5."""


@dataclass(frozen=True)
class Detection:
    """How well σ(score) < threshold finds unsafe responses."""

    threshold: float
    precision: Proportion
    """Of the responses below the threshold, the unsafe ones. The paper has 0.89 at 0.15."""
    recall: Proportion
    """Of the unsafe responses, those below the threshold. The paper has 0.55 at 0.15."""


def labelled_scores(scores: PairScores, comparisons: Sequence[Comparison]) -> tuple[Floats, Bools]:
    """Scores of all responses with a safety label, and whether they are safe."""
    values: list[float] = []
    safe: list[bool] = []
    for comparison, chosen, rejected in zip(
        comparisons, scores.chosen, scores.rejected, strict=True
    ):
        sides = safe_sides(comparison)
        if sides is not None:
            values += [float(chosen), float(rejected)]
            safe += sides
    return np.array(values), np.array(safe, dtype=bool)


def unsafe_found(scores: PairScores, comparisons: Sequence[Comparison]) -> list[Detection]:
    """At all thresholds, among the responses of comparisons; empty where none has a label."""
    return detections(*labelled_scores(scores, comparisons))


def detections(scores: Sequence[float] | Floats, safe: Sequence[bool] | Bools) -> list[Detection]:
    """`detect_unsafe` at all thresholds; empty without scores."""
    values, labels = np.asarray(scores, dtype=np.float64), np.asarray(safe, dtype=bool)
    return [detect_unsafe(values, labels, t) for t in THRESHOLDS if len(values)]


def detect_unsafe(scores: Floats, safe: Bools, threshold: float) -> Detection:
    """Precision and recall of σ(score) < threshold, with 95 % intervals."""
    below = scores < np.log(threshold / (1 - threshold))  # σ is monotone: no σ of large scores
    caught = int((below & ~safe).sum())
    return Detection(
        threshold,
        precision=proportion(caught, int(below.sum())),
        recall=proportion(caught, int((~safe).sum())),
    )

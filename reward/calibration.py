"""Do scores mean what they say? Against choices (reliability) and against ratings (Figure 29)."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.intervals import Z_95, proportion
from reward.evaluate import PairScores

BINS = 10


def reliability(scores: PairScores) -> pd.DataFrame:
    """How often a model is right where it is so sure: confidence, accuracy, low, high, n by bin.

    The model's confidence in the response that it prefers is σ(|r_1 − r_2|), from ½ to 1, in ten
    equal bins; calibrated is who is right as often. Equal scores are right half the time. Empty
    bins are left out.
    """
    difference = scores.chosen - scores.rejected
    confidence = 1 / (1 + np.exp(-np.abs(difference)))
    right = (difference > 0) + 0.5 * (difference == 0)
    index = np.minimum((confidence - 0.5) * 2 * BINS, BINS - 1).astype(int)
    rows = []
    for number in np.unique(index):
        here = index == number
        found = proportion(float(right[here].sum()), int(here.sum()))
        rows.append(
            {
                "confidence": float(confidence[here].mean()),
                "accuracy": found.value,
                "low": found.low,
                "high": found.high,
                "n": int(here.sum()),
            }
        )
    return pd.DataFrame(rows, columns=["confidence", "accuracy", "low", "high", "n"])


def expected_calibration_error(curve: pd.DataFrame) -> float:
    """ECE = Σ n_b / N · |accuracy_b − confidence_b| over the bins of `reliability`."""
    gaps = (curve["accuracy"].astype(float) - curve["confidence"]).abs()
    return float((gaps * curve["n"]).sum() / curve["n"].sum())


def scores_by_rating(scores: NDArray[np.float64], ratings: Sequence[int]) -> pd.DataFrame:
    """Mean score for each rating that people gave (Llama 2, Figure 29).

    Columns: rating, score, low, high (95 %), n.
    """
    frame = pd.DataFrame({"rating": list(ratings), "score": scores})
    groups = frame.groupby("rating")["score"].agg(["mean", "sem", "size"]).reset_index()
    half = Z_95 * groups["sem"].fillna(0.0)
    return pd.DataFrame(
        {
            "rating": groups["rating"],
            "score": groups["mean"],
            "low": groups["mean"] - half,
            "high": groups["mean"] + half,
            "n": groups["size"],
        }
    )


def rank_correlation(first: Iterable[float], second: Iterable[float]) -> float | None:
    """Spearman's; None where one of them does not vary."""
    a, b = pd.Series(list(first)).rank(), pd.Series(list(second)).rank()
    return None if a.nunique() < 2 or b.nunique() < 2 else float(a.corr(b))

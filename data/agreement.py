"""How far raters agree beyond chance: Cohen's κ, Krippendorff's α, Gwet's AC1 and AC2.

Symbols: N items, R raters, q categories; r_ik ratings of item i in category k, r_i = Σ_k r_ik.
Every coefficient is (p_a − p_e) / (1 − p_e), observed agreement corrected for that of chance; they
differ in what chance is. All take an [N, R] array of numeric categories with NaN where a rater did
not see an item.

Intervals are 95 % percentile bootstraps over items (Efron and Tibshirani 1993, section 13.3): the
raters are taken as given, the items as drawn from a population. A coefficient is NaN where chance
alone would agree completely, that is with a single category; such resamples are left out of the
interval.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data.errors import DataError

Floats = NDArray[np.float64]
Level = Literal["nominal", "ordinal"]
Weights = Literal["linear", "quadratic", "ordinal"]

NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Agreement:
    """A coefficient with its 95 % confidence interval: 1 is complete agreement, 0 is chance."""

    value: float
    low: float
    high: float


def cohen_kappa(ratings: ArrayLike, *, seed: int = 0) -> Agreement:
    """Cohen's κ of two raters (Cohen 1960, eq. 1).

        p_a = share of items rated alike,    p_e = Σ_k p_1k p_2k

    with p_jk the share of category k among rater j's ratings. Items that one of them skipped do not
    count.

    Args:
        ratings: [N, 2].
        seed: of the bootstrap.

    Raises:
        DataError: not two raters, or no item that both rated.
    """
    array = _as_ratings(ratings)
    if array.shape[1] != 2:
        raise DataError(
            f"Cohen's kappa is of 2 raters; got {array.shape[1]}; use Krippendorff's alpha or "
            "Gwet's AC1"
        )
    array = array[~np.isnan(array).any(axis=1)]
    if not len(array):
        raise DataError("the two raters have no item in common; assign some items to both")

    def kappa(pairs: Floats) -> float:
        categories = np.unique(pairs)
        shares = (pairs[:, :, None] == categories).mean(axis=0)  # [2, q]
        return _beyond_chance(
            float((pairs[:, 0] == pairs[:, 1]).mean()), float(shares[0] @ shares[1])
        )

    return _with_interval(kappa, array, seed)


def krippendorff_alpha(ratings: ArrayLike, *, level: Level = "nominal", seed: int = 0) -> Agreement:
    """Krippendorff's α (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability").

        o_ck = Σ_i r_ic (r_ik − [c = k]) / (r_i − 1)      coincidences, items with r_i ≥ 2
        n_c  = Σ_k o_ck,  n = Σ_c n_c
        α    = 1 − (n − 1) Σ_ck o_ck δ²_ck / Σ_ck n_c n_k δ²_ck

    nominal: δ²_ck = [c ≠ k];  ordinal: δ_ck = Σ_{g=c..k} n_g − (n_c + n_k) / 2.

    Args:
        ratings: [N, R].
        level: whether the categories have an order.
        seed: of the bootstrap.

    Raises:
        DataError: no item has two ratings.
    """
    counts = _counts(_as_ratings(ratings), None)
    counts = counts[counts.sum(axis=1) >= 2]
    return _with_interval(lambda items: _alpha(items, level), counts, seed)


def gwet_ac1(
    ratings: ArrayLike, *, categories: Sequence[float] | None = None, seed: int = 0
) -> Agreement:
    """Gwet's AC1 for categories without an order (Gwet 2008, eq. 6): AC2 with identity weights.

    Args:
        ratings: [N, R].
        categories: the scale, which enters p_e by its length; None for the categories that occur.
        seed: of the bootstrap.

    Raises:
        DataError: no item has two ratings, or a rating is not on the scale.
    """
    return _gwet(_as_ratings(ratings), categories, None, seed)


def gwet_ac2(
    ratings: ArrayLike,
    *,
    weights: Weights = "quadratic",
    categories: Sequence[float] | None = None,
    seed: int = 0,
) -> Agreement:
    """Gwet's AC2 for ordered categories (Gwet 2014, "Handbook of Inter-Rater Reliability", ch. 5).

        p_a = mean over items with r_i ≥ 2 of Σ_k r_ik (Σ_l w_kl r_il − 1) / (r_i (r_i − 1))
        π_k = mean over items of r_ik / r_i
        p_e = Σ_kl w_kl · Σ_k π_k (1 − π_k) / (q (q − 1))

    with w_kl = 1 − d_kl / max d, and d_kl = |k − l| (linear), (k − l)² (quadratic), or
    m (m − 1) / 2 where m categories lie from k to l (ordinal). Linear and quadratic use the
    categories' own values.

    Args:
        ratings: [N, R].
        weights: how partial agreement is credited.
        categories: the scale, ends and unused categories included; None for those that occur.
        seed: of the bootstrap.

    Raises:
        DataError: no item has two ratings, or a rating is not on the scale.
    """
    return _gwet(_as_ratings(ratings), categories, weights, seed)


def _gwet(
    ratings: Floats, categories: Sequence[float] | None, weights: Weights | None, seed: int
) -> Agreement:
    scale = _scale(ratings, categories)
    matrix = _weights(scale, weights)
    counts = _counts(ratings, scale)
    return _with_interval(lambda items: _ac(items, matrix), counts, seed)


def _as_ratings(ratings: ArrayLike) -> Floats:
    try:
        array = np.asarray(ratings, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"ratings must be numbers, NaN for missing; number them ({error})"
        ) from error
    if array.ndim != 2:
        raise DataError(
            f"ratings have shape {array.shape}; they must be [items, raters], NaN for missing"
        )
    if not ((~np.isnan(array)).sum(axis=1) >= 2).any():
        raise DataError("no item has two ratings; assign some items to two annotators or more")
    return array


def _scale(ratings: Floats, categories: Sequence[float] | None) -> Floats:
    used = np.unique(ratings[~np.isnan(ratings)])
    if categories is None:
        return used
    scale = np.unique(np.asarray(categories, dtype=np.float64))
    stray = used[~np.isin(used, scale)]
    if len(stray):
        raise DataError(
            f"rating {stray[0]:g} is not among the categories {scale.tolist()}; add it or mend it"
        )
    return scale


def _counts(ratings: Floats, scale: Floats | None) -> Floats:
    """[N, q] r_ik, without the items that nobody rated."""
    scale = _scale(ratings, None) if scale is None else scale
    counts = np.stack([(ratings == value).sum(axis=1) for value in scale], axis=1)
    rated: Floats = counts[counts.sum(axis=1) > 0].astype(np.float64)
    return rated


def _alpha(counts: Floats, level: Level) -> float:
    """α of [N, q] counts whose rows sum to 2 or more."""
    coincidences = np.einsum("ic,ik,i->ck", counts, counts, 1 / (counts.sum(axis=1) - 1))
    coincidences -= np.diag((counts / (counts.sum(axis=1, keepdims=True) - 1)).sum(axis=0))
    totals = coincidences.sum(axis=1)  # n_c
    if level == "nominal":
        distances = 1 - np.eye(len(totals))
    else:
        # Σ_{g=c..k} n_g − (n_c + n_k)/2 is the difference of the mid-ranks of c and k.
        middles = np.cumsum(totals) - totals / 2
        distances = (middles[:, None] - middles) ** 2
    expected = float(totals @ distances @ totals)
    if expected == 0:
        return float("nan")
    return float(1 - (totals.sum() - 1) * (coincidences * distances).sum() / expected)


def _weights(scale: Floats, weights: Weights | None) -> Floats:
    """[q, q] w_kl; the identity for None and for a scale of one category."""
    if weights is None or len(scale) < 2:
        return np.eye(len(scale))
    match weights:
        case "linear":
            distances = np.abs(scale[:, None] - scale)
        case "quadratic":
            distances = (scale[:, None] - scale) ** 2
        case "ordinal":
            rank = np.arange(len(scale), dtype=np.float64)
            steps = np.abs(rank[:, None] - rank)
            distances = steps * (steps + 1) / 2
    credit: Floats = 1 - distances / distances.max()
    return credit


def _ac(counts: Floats, weights: Floats) -> float:
    """AC1 or AC2 of [N, q] counts."""
    num_ratings = counts.sum(axis=1)
    several = num_ratings >= 2
    num_categories = len(weights)
    if num_categories < 2 or not several.any():
        return float("nan")
    pairs = (counts[several] * (counts[several] @ weights - 1)).sum(axis=1)
    agreement = (pairs / (num_ratings[several] * (num_ratings[several] - 1))).mean()
    shares = (counts / num_ratings[:, None]).mean(axis=0)  # π_k
    spread = (shares * (1 - shares)).sum() / (num_categories * (num_categories - 1))
    return _beyond_chance(float(agreement), float(weights.sum() * spread))


def _beyond_chance(agreement: float, chance: float) -> float:
    return (agreement - chance) / (1 - chance) if chance < 1 else float("nan")


def _with_interval(coefficient: Callable[[Floats], float], items: Floats, seed: int) -> Agreement:
    """The coefficient of [N, …] items, and the 2.5 and 97.5 % points over resampled items."""
    rng = np.random.default_rng(seed)
    values = np.array(
        [
            coefficient(items[rng.integers(len(items), size=len(items))])
            for _ in range(NUM_RESAMPLES)
        ]
    )
    values = values[~np.isnan(values)]
    low, high = np.quantile(values, [0.025, 0.975]) if len(values) else (np.nan, np.nan)
    return Agreement(coefficient(items), float(low), float(high))

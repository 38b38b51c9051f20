"""How good the best of N samples is, and at which temperature (Llama 2, Figures 7 and 8).

The maximum of N scores should grow like log N while the median stays; a higher temperature makes
samples more diverse, so that their maximum gains, until their quality falls.
"""

from collections.abc import Mapping, Sequence
from math import comb, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.intervals import Z_95

NGRAMS = (1, 2)
"""Lengths of the n-grams whose diversity is reported."""


def best_of_n_curve(scores: NDArray[np.float64]) -> list[dict[str, float]]:
    """Mean over prompts of the maximum, median and mean of N samples, for N = 1, 2, 4, … K.

    All three are expected over all subsets of the K; the mean is therefore the same for every N.

    Args:
        scores: [P, K].
    """
    return [
        {
            "n": float(n),
            "maximum": float(expected_maxima(scores, n).mean()),
            "median": float(expected_medians(scores, n).mean()),
            "mean": float(scores.mean()),
        }
        for n in sizes(scores.shape[1])
    ]


def sizes(num_samples: int) -> list[int]:
    """1, 2, 4, … as far as there are samples."""
    return [2**p for p in range(num_samples.bit_length()) if 2**p <= num_samples]


def expected_maxima(scores: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """[P] the expected maximum of n samples, exact over all subsets of a prompt's K."""
    return gold_of_best(scores, scores, n)


def gold_of_best(
    scores: NDArray[np.float64], golds: NDArray[np.float64], n: int
) -> NDArray[np.float64]:
    """[P] what the best scored of n samples is really worth, exact over all subsets of the K.

    Args:
        scores: [P, K] by which the best is chosen; of equals the later sample.
        golds: [P, K] true values of the same samples.
        n: 1 to K.
    """
    order = np.argsort(scores, axis=1, kind="stable")
    found: NDArray[np.float64] = np.take_along_axis(golds, order, axis=1) @ _chances(
        scores.shape[1], n, rank=n
    )
    return found


def expected_medians(scores: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """[P] the expected median of n samples, exact over all subsets of a prompt's K."""
    middle = [_chances(scores.shape[1], n, rank) for rank in {(n + 1) // 2, n // 2 + 1}]
    found: NDArray[np.float64] = np.sort(scores, axis=1) @ np.mean(middle, axis=0)
    return found


def _chances(num_samples: int, n: int, rank: int) -> NDArray[np.float64]:
    """[K] for s_1 ≤ … ≤ s_K: the chance that s_i is the rank-th smallest of a random n-subset.

    C(i − 1, rank − 1) · C(K − i, n − rank) / C(K, n); of the maximum, C(i − 1, n − 1) / C(K, n).
    """
    total = comb(num_samples, n)
    return np.array(
        [
            comb(i, rank - 1) * comb(num_samples - 1 - i, n - rank) / total
            for i in range(num_samples)
        ]
    )


def distinct_n(responses: Sequence[Sequence[int]], n: int) -> float:
    """Different n-grams among the responses to one prompt, as a share of all of them (1 at most).

    After Li et al. 2016 (arXiv 1510.03055), on token ids. 0 where no response has n tokens.
    """
    grams = [tuple(ids[i : i + n]) for ids in responses for i in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def temperature_curve(
    temperature: float, scores: NDArray[np.float64], responses: Sequence[Sequence[Sequence[int]]]
) -> list[dict[str, float]]:
    """`best_of_n_curve` of one temperature with the maximum's 95 % interval and distinct-n.

    Args:
        temperature: of all these samples.
        scores: [P, K].
        responses: [P][K] token ids.
    """
    points = []
    for point in best_of_n_curve(scores):
        n = int(point["n"])
        _, low, high = _interval(expected_maxima(scores, n))
        diversity = {
            f"distinct_{size}": float(np.mean([distinct_n(of[:n], size) for of in responses]))
            for size in NGRAMS
        }
        points.append({"temperature": temperature, **point, "low": low, "high": high, **diversity})
    return points


def compare_temperatures(
    tables: Mapping[float, NDArray[np.float64]],
    responses: Mapping[float, Sequence[Sequence[Sequence[int]]]],
) -> dict[str, Any]:
    """The curves of several temperatures, and which of them is best.

    Args:
        tables: temperature → scores [P, K], of the same prompts.
        responses: temperature → [P][K] token ids.

    Returns:
        `temperature_curves`; `best_temperature` for all K samples, with how sure that is;
        `best_by_n`, the best temperature for every N.
    """
    num_samples = min(table.shape[1] for table in tables.values())
    best = best_temperature(tables, num_samples)
    return {
        "best_temperature": best.temperature,
        "against_runner_up": best._asdict(),
        "best_by_n": {str(n): best_temperature(tables, n).temperature for n in sizes(num_samples)},
        "temperature_curves": [
            point for t in sorted(tables) for point in temperature_curve(t, tables[t], responses[t])
        ],
    }


class BestTemperature(NamedTuple):
    """The temperature whose best of N scores highest, and how sure that is."""

    temperature: float
    runner_up: float | None
    """The second; None where there is only one."""
    difference: float
    """Of the two maxima, paired by prompt, mean over prompts; 0 without a runner-up."""
    low: float
    """End of the difference's 95 % interval; below 0, the runner-up may be as good."""
    high: float


def best_temperature(tables: Mapping[float, NDArray[np.float64]], n: int) -> BestTemperature:
    """Compares the expected maximum of n samples; the lower temperature wins a tie.

    Args:
        tables: temperature → scores [P, K], of the same prompts.
        n: 1 to K.
    """
    maxima = {t: expected_maxima(tables[t], n) for t in sorted(tables)}
    best, *others = sorted(maxima, key=lambda t: -maxima[t].mean())
    if not others:
        return BestTemperature(best, None, 0.0, 0.0, 0.0)
    return BestTemperature(best, others[0], *_interval(maxima[best] - maxima[others[0]]))


def _interval(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean over prompts and its 95 % interval; of one prompt alone the interval is a point."""
    mean = float(values.mean())
    half = Z_95 * float(values.std(ddof=1)) / sqrt(len(values)) if len(values) > 1 else 0.0
    return mean, mean - half, mean + half

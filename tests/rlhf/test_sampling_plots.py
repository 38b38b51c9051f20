"""Charts of what sampling gains tell their figures."""

import pandas as pd
import pytest

from rlhf.sampling_plots import (
    best_of_n_by_temperature,
    diversity_by_temperature,
    scores_by_temperature,
)


@pytest.fixture
def curves() -> pd.DataFrame:
    """Two temperatures, N = 1 and 2."""
    rows = []
    for temperature, gain in ((0.5, 0.25), (1.0, 2.0)):
        for n in (1.0, 2.0):
            maximum = gain * (n - 1)
            rows.append(
                {
                    "temperature": temperature,
                    "n": n,
                    "maximum": maximum,
                    "low": maximum - 0.1,
                    "high": maximum + 0.1,
                    "median": -temperature,
                    "mean": -2 * temperature,
                    "distinct_1": temperature / 2,
                    "distinct_2": temperature,
                }
            )
    return pd.DataFrame(rows)


def shown(chart: object) -> list[dict[str, object]]:
    """The rows of the chart's only dataset."""
    (rows,) = chart.to_dict()["datasets"].values()  # type: ignore[attr-defined]
    return list(rows)


def test_best_of_n(curves: pd.DataFrame) -> None:
    chart = best_of_n_by_temperature(curves)
    assert chart.description == (
        "At N = 2, by temperature: 0.5 0.25, 1 2.00. Lines are 95 % intervals."
    )
    assert {(row["temperature"], row["n"], row["maximum"]) for row in shown(chart)} == {
        ("0.5", 1, 0.0),
        ("0.5", 2, 0.25),
        ("1", 1, 0.0),
        ("1", 2, 2.0),
    }


def test_scores_of_the_largest_n(curves: pd.DataFrame) -> None:
    chart = scores_by_temperature(curves)
    assert chart.description == (
        "At 0.5 maximum 0.25, median -0.50, mean -1.00; "
        "at 1 maximum 2.00, median -1.00, mean -2.00."
    )
    assert len(shown(chart)) == 6  # two temperatures, three measures


def test_diversity(curves: pd.DataFrame) -> None:
    chart = diversity_by_temperature(curves)
    assert chart.description == (
        "At 0.5 distinct-1 0.25, distinct-2 0.50; at 1 distinct-1 0.50, distinct-2 1.00."
    )

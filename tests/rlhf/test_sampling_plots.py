"""Charts of what sampling gains tell their figures."""

import pandas as pd
import pytest

from rlhf.plot_parts import BLUE, ORANGE
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
    assert chart.description == "At N = 2: T = 0.5 0.25, T = 1 2.00."
    assert {(row["temperature"], row["n"], row["maximum"]) for row in shown(chart)} == {
        ("T = 0.5", 1, 0.0),
        ("T = 0.5", 2, 0.25),
        ("T = 1", 1, 0.0),
        ("T = 1", 2, 2.0),
    }


def test_no_two_temperatures_share_a_color() -> None:
    # as many as in Figure 8, more than the palette has colors
    points = [
        {"temperature": t, "n": n, "maximum": t * n}
        for t in (0.6, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5)
        for n in (1.0, 2.0)
    ]
    chart = best_of_n_by_temperature(pd.DataFrame(points)).to_dict()
    colors = chart["layer"][0]["encoding"]["color"]["scale"]["range"]
    assert len(set(colors)) == 9
    assert (colors[0], colors[-1]) == (BLUE, ORANGE)  # from cold to warm


def test_scores_of_the_largest_n(curves: pd.DataFrame) -> None:
    chart = scores_by_temperature(curves)
    assert chart.description == (
        "At 0.5 maximum 0.25, median -0.50, mean -1.00; "
        "at 1 maximum 2.00, median -1.00, mean -2.00."
    )
    assert len(shown(chart)) == 6  # two temperatures, three measures


def test_diversity(curves: pd.DataFrame) -> None:
    chart = diversity_by_temperature(curves)
    assert chart.description == "At N = 2: T = 0.5 0.50, T = 1 1.00."
    assert len(shown(chart)) == 4  # two temperatures, N = 1 and 2

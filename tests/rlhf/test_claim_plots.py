"""The charts of `rlhf reproduce …`: what they carry and what they say about it."""

from typing import Any

import pandas as pd
import vl_convert

from rlhf.claim_plots import (
    accuracy_over_data,
    gold_by_kl,
    maxima_by_temperature,
    score_by_kl,
    scores_by_margin,
)
from rlhf.plot_parts import Drawing


def rows_of(chart: Drawing) -> pd.DataFrame:
    spec: dict[str, Any] = chart.to_dict()
    return pd.DataFrame(max(spec["datasets"].values(), key=len))


def test_shares_of_a_histogram_sum_to_1_within_margin_and_side() -> None:
    scores = pd.DataFrame(
        [
            {"margin": margin, "side": side, "score": shift + 0.5 * number}
            for margin, apart in (("none", 1), ("large", 4))
            for side, shift in (("chosen", apart), ("rejected", -apart))
            for number in range(4)
        ]
    )
    chart = scores_by_margin(scores, ["none", "large"])
    bins = rows_of(chart)
    assert bins.groupby(["margin", "side"])["share"].sum().tolist() == [1.0] * 4
    # ±1 and ±4 around 0, 0.5, 1, 1.5: s² = (8 · apart² + Σ of the four's squares) / 7
    #   four's deviations 0.75² · 2 + 0.25² · 2 = 1.25, on both sides 2.5, mean at 0.75:
    #   (8 + 2.5) / 7 = 1.5 → 1.22; (128 + 2.5) / 7 = 18.643 → 4.32
    assert chart.to_dict()["description"] == (
        "Standard deviation of the scores: none 1.22, large 4.32."
    )
    assert vl_convert.vegalite_to_svg(chart.to_json())


def test_accuracy_with_all_the_data_is_told() -> None:
    curve = pd.DataFrame(
        [
            {"share": share, "strength": name, "accuracy": value, "low": value, "high": value}
            for name, values in (("better", (0.6, 0.7)), ("slightly better", (0.5, 0.55)))
            for share, value in zip((0.25, 1.0), values, strict=True)
        ]
    )
    chart = accuracy_over_data(curve, ["better", "slightly better"])
    assert len(rows_of(chart)) == 4
    assert chart.to_dict()["description"] == "With all: better 70.0%, slightly better 55.0%."
    assert vl_convert.vegalite_to_svg(chart.to_json())


def test_the_best_temperature_of_every_n_is_told() -> None:
    curves = pd.DataFrame(
        [
            {"temperature": t, "n": n, "maximum": maximum}
            for n, maxima in ((1, (3, 2, 1)), (4, (3, 4, 2)))
            for t, maximum in zip((0.8, 1.0, 1.2), maxima, strict=True)
        ]
    )
    chart = maxima_by_temperature(curves, "SFT")
    assert set(rows_of(chart)["n"]) == {"N = 1", "N = 4"}
    assert chart.to_dict()["description"] == "Highest with N = 1 at 0.8, N = 4 at 1."
    assert vl_convert.vegalite_to_svg(chart.to_json())


def test_scores_lie_over_the_root_of_the_kl() -> None:
    steps = pd.DataFrame({"run": "β = 0", "kl": [-0.01, 4, 9], "gold_score": [0.5, 0.6, 0.3]})
    chart = score_by_kl(steps, "gold_score", "gold score")
    assert rows_of(chart)["root"].tolist() == [0, 2, 3]  # below 0 by noise
    assert chart.to_dict()["description"] == (
        "With β = 0: 0.50 at first, 0.60 at most with 4.0 nats, 0.30 at last with 9.0."
    )
    assert vl_convert.vegalite_to_svg(chart.to_json())


def test_best_of_n_beside_policies() -> None:
    curve = pd.DataFrame({"n": [1, 2], "kl": [0, 0.19], "gold_score": [0.5, 0.55]})
    policies = pd.DataFrame({"policy": ["PPO"], "kl": [1.0], "gold_score": [0.7]})
    chart = gold_by_kl(curve, policies)
    assert rows_of(chart)["policy"].tolist() == ["best of N of SFT"] * 2 + ["PPO"]
    assert chart.to_dict()["description"] == (
        "Best of 2: 0.55 with 0.2 nats; PPO: 0.70 with 1.0 nats."
    )
    assert vl_convert.vegalite_to_svg(chart.to_json())

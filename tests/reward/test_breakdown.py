"""Accuracy by strength, source, turns and length, and how alike two models judge."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from data.schemas import Comparison
from reward.breakdown import accuracy_by, agreement, dataset_table, pair_frame
from reward.evaluate import PairScores

Make = Callable[..., Comparison]


def rows(make: Make) -> list[Comparison]:
    return [
        make(0, strength="better", turns=1, chosen_tokens=5, rejected_tokens=32),
        make(1, strength="better", turns=2, chosen_tokens=33, rejected_tokens=5),
        make(2, strength=None, turns=7, chosen_tokens=600, rejected_tokens=5),
        make(3, strength="better", domain="safety", source="x"),
    ]


def scores(*pairs: tuple[float, float]) -> PairScores:
    chosen, rejected = np.array(pairs, dtype=float).reshape(-1, 2).T
    return PairScores(chosen, rejected)


def test_the_frame(make_comparison: Make) -> None:
    judged = scores((1, 0), (0, 1), (2, 2), (3, 0))
    frame = pair_frame("m", judged, rows(make_comparison), ["a", "a", "b", "b"])
    assert frame["right"].tolist() == [1, 0, 0.5, 1]
    assert frame["strength"].tolist() == ["better", "better", "not asked", "better"]
    assert frame["turns"].tolist() == ["1", "2", "4 or more", "1"]
    assert frame["length"].tolist() == ["1-32", "33-64", "over 512", "1-32"]  # the longer response


def test_accuracy_by_any_columns(make_comparison: Make) -> None:
    judged = scores((1, 0), (0, 1), (2, 2), (3, 0))
    frame = pair_frame("m", judged, rows(make_comparison), ["a"] * 4)
    by_strength = accuracy_by(frame, "model", "domain", "strength")
    cells = {(r.domain, r.strength): (r.accuracy, r.n) for r in by_strength.itertuples()}
    assert cells == {
        ("helpfulness", "better"): (0.5, 2),
        ("helpfulness", "not asked"): (0.5, 1),
        ("safety", "better"): (1.0, 1),
    }
    (whole,) = accuracy_by(frame, "model").itertuples()
    assert (whole.accuracy, whole.n) == (2.5 / 4, 4)
    assert whole.low < whole.accuracy < whole.high


def test_table_7_averages_over_the_parts_not_over_the_comparisons(make_comparison: Make) -> None:
    judged = scores((1, 0), (1, 0), (1, 0), (0, 1))
    frame = pair_frame("m", judged, rows(make_comparison), ["a"] * 4)
    table = {r.part: r.accuracy for r in dataset_table(frame).itertuples()}
    assert table == {"a helpfulness": 1.0, "a safety": 0.0, "average": 0.5}


def test_agreement_of_two_models(make_comparison: Make) -> None:
    data = [make_comparison(n) for n in range(4)]
    first = pair_frame("m", scores((1, 0), (2, 0), (0, 3), (0, 4)), data, ["a"] * 4)
    second = pair_frame("n", scores((1, 0), (0, 2), (0, 3), (0, 4)), data, ["a"] * 4)
    both = agreement(pd.concat([first, second]))
    (found,) = both.itertuples()
    assert (found.first, found.second, found.same, found.n) == ("m", "n", 0.75, 4)
    assert found.kappa == 0.5  # (0.75 − 0.5) / (1 − 0.5)
    # differences 1, 2, −3, −4 and 1, −2, −3, −4: ranks 3, 4, 2, 1 and 4, 3, 2, 1;
    # 1 − 6 · (1 + 1) / (4 · 15) = 0.8
    assert found.correlation == pytest.approx(0.8)

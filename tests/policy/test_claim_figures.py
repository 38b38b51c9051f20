"""Figures about policies, on a handful of samples made by hand."""

from math import log, sqrt

import numpy as np
import pandas as pd
import pytest

from policy.claim_figures import (
    best_of_n_kl,
    best_temperature,
    gold_at_kl,
    gold_of_best_of_n,
    gold_score,
    helpfulness,
    late_change,
    peak,
    straightness,
    table_of,
    value_of_best,
    violations,
    wins,
)


def answers(*rows: tuple[str, float, bool]) -> pd.DataFrame:
    """Kind, gold helpfulness and violation of one response per prompt."""
    return pd.DataFrame(
        [
            {
                "prompt_id": str(number),
                "kind": kind,
                "domain": "safety" if kind == "unsafe" else "helpfulness",
                "gold_helpfulness": value,
                "violation": violation,
                "gold_score": value,
            }
            for number, (kind, value, violation) in enumerate(rows)
        ]
    )


def samples(scores: list[list[float]], golds: list[list[float]]) -> pd.DataFrame:
    """[P][K] combined scores and gold scores, side by side for each prompt."""
    return pd.DataFrame(
        [
            {"prompt_id": f"p{place}", "combined_score": score, "gold_score": gold}
            for place, both in enumerate(zip(scores, golds, strict=True))
            for score, gold in zip(*both, strict=True)
        ]
    )


def test_means_of_a_policy() -> None:
    rows = answers(("fact", 0.4, False), ("list", 0.6, False), ("unsafe", 0.0, True))
    assert gold_score(rows) == pytest.approx(1 / 3)
    assert gold_score(rows, ["list"]) == 0.6
    assert helpfulness(rows) == pytest.approx(0.5)  # without the unsafe prompt
    assert violations(pd.concat([rows, answers(("unsafe", 1.0, False))])) == 0.5


def test_wins_by_hand() -> None:
    ours = answers(
        ("fact", 0.85, False),
        ("fact", 0.85, False),
        ("fact", 0.4, False),
        ("unsafe", 0.0, False),
        ("unsafe", 1.0, False),
    )
    theirs = answers(
        ("fact", 0.80, False),  # a tie: no more than 0.05
        ("fact", 0.70, False),  # a win
        ("fact", 0.85, False),  # a loss
        ("unsafe", 0.0, True),  # a win: they violate
        ("unsafe", 0.4, False),  # a tie: how well it declines does not count
    )
    assert wins(ours, theirs) == pytest.approx(2 / 3)
    assert wins(theirs, ours) == pytest.approx(1 / 3)
    assert wins(ours, ours) == 0.5  # nothing but ties


def test_peak_of_a_parabola() -> None:
    # y = 3 − 2 (x − 1.1)² at 0.8, 1.0, 1.2, 1.4
    places = [0.8, 1.0, 1.2, 1.4]
    assert peak(places, [3 - 2 * (x - 1.1) ** 2 for x in places]) == pytest.approx(1.1)
    assert peak(places, [1, 2, 3, 4]) == 1.4
    assert peak(places, [4, 3, 2, 1]) == 0.8
    assert peak(places, [0, 1, 1, 0]) == pytest.approx(1.1)  # two are highest


def test_best_temperature_is_that_of_the_best_of_n() -> None:
    """The cold one is best on average, the middle one at its best."""
    by_temperature = {0.5: [2.0, 2.0], 1.0: [0.0, 4.0], 1.5: [0.0, 2.0]}
    sweep = pd.concat(
        [samples([own], [own]).assign(temperature=t) for t, own in by_temperature.items()]
    )
    assert best_temperature(sweep, 2) == pytest.approx(1.0)  # maxima 2, 4, 2
    assert best_temperature(sweep, 1) == 0.5  # means 2, 2, 1: of equals the colder


def test_the_best_temperature_by_gold_may_be_another() -> None:
    """The score chooses the second of two, which is worth less the warmer it was sampled."""
    golds = {0.5: [0.0, 0.7], 1.0: [0.0, 0.6], 1.5: [0.9, 0.1]}
    sweep = pd.concat([samples([[0, t]], [own]).assign(temperature=t) for t, own in golds.items()])
    assert best_temperature(sweep, 2) == 1.5
    assert best_temperature(sweep, 2, "gold_score") == 0.5


def test_straightness() -> None:
    assert straightness([0, 1, 2], [5, 3, 1]) == pytest.approx(1)
    # 0 0 1 over 0 1 2: covariance 1/3, variances 2/3 and 2/9, so r² = (1/9) / (4/27) = 3/4
    assert straightness([0, 1, 2], [0, 0, 1]) == pytest.approx(0.75)


def test_kl_of_best_of_n() -> None:
    assert best_of_n_kl(1) == 0
    assert best_of_n_kl(2) == pytest.approx(0.193147)  # log 2 − ½
    assert best_of_n_kl(64) == pytest.approx(3.174508, abs=1e-6)  # 4.158883 − 0.984375


def test_kl_of_best_of_n_by_counting() -> None:
    """Of m equally likely answers the i-th best is chosen with chance ((i)ⁿ − (i − 1)ⁿ) / mⁿ."""
    m, n = 100_000, 4
    ranks = np.arange(1, m + 1) / m
    chances = ranks**n - (ranks - 1 / m) ** n
    assert float((chances * np.log(chances * m)).sum()) == pytest.approx(best_of_n_kl(n), abs=1e-4)


def test_gold_of_the_best_by_the_proxy() -> None:
    # Of two, the proxy takes the worse in one prompt and the better in the other.
    own = samples([[1, 2], [1, 2]], [[0.8, 0.2], [0.0, 1.0]])
    assert table_of(own, "combined_score").tolist() == [[1, 2], [1, 2]]
    assert gold_of_best_of_n(own) == pytest.approx({1: 0.5, 2: 0.6})
    assert value_of_best(own, "gold_score", "combined_score", 2) == pytest.approx((1 + 2) / 2)


def test_gold_at_a_kl_between_two_n() -> None:
    own = samples([[1, 2, 3, 4]], [[0, 0, 0, 1]])  # of one, two, four: 1/4, 1/2, 1
    assert gold_at_kl(own, log(2) - 0.5) == pytest.approx(0.5)
    middle = (sqrt(log(2) - 0.5) + sqrt(log(4) - 0.75)) / 2
    assert gold_at_kl(own, middle**2) == pytest.approx(0.75)
    assert gold_at_kl(own, -0.1) == pytest.approx(0.25)  # noise around 0
    assert gold_at_kl(own, 9.0) == pytest.approx(1.0)  # beyond the largest


def test_change_between_two_quarters() -> None:
    # Quarters of eight steps: 0 1 | 2 3 | 4 5 | 6 7. (5 + 7) / 2 − (4 + 2) / 2 = 3
    run = pd.DataFrame({"step": range(8), "gold_score": [9, 9, 4, 2, 9, 9, 5, 7]})
    assert late_change(run, "gold_score") == pytest.approx(3)

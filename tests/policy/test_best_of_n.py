"""How good the best of N is, how diverse N samples are, and which temperature wins."""

from itertools import combinations

import numpy as np
import pytest

from policy.best_of_n import (
    best_of_n_curve,
    best_temperature,
    compare_temperatures,
    distinct_n,
    expected_medians,
    gold_of_best,
    temperature_curve,
)


def test_maximum_and_median_are_means_over_all_subsets() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 8))
    scores[3, :4] = 0.5  # equal scores
    curve = best_of_n_curve(scores)
    assert [point["n"] for point in curve] == [1, 2, 4, 8]
    for point in curve:
        subsets = list(combinations(range(8), int(point["n"])))
        brute = np.mean([[scores[p, list(s)].max() for s in subsets] for p in range(5)])
        assert point["maximum"] == pytest.approx(brute)
        medians = [[np.median(scores[p, list(s)]) for s in subsets] for p in range(5)]
        assert point["median"] == pytest.approx(np.mean(medians))
    odd = [[np.median(scores[p, list(s)]) for s in combinations(range(8), 3)] for p in range(5)]
    assert expected_medians(scores, 3) == pytest.approx(np.mean(odd, axis=1))


def test_what_the_best_is_worth_by_hand() -> None:
    # By score 6 > 4 > 2 > 1, worth 0, 8, 1, 1. Pairs: 6 is best of three, 4 of two, 2 of one.
    scores, golds = np.array([[1.0, 2.0, 6.0, 4.0]]), np.array([[1.0, 1.0, 0.0, 8.0]])
    assert gold_of_best(scores, golds, 1) == pytest.approx([10 / 4])
    assert gold_of_best(scores, golds, 2) == pytest.approx([(3 * 0 + 2 * 8 + 1 * 1) / 6])
    assert gold_of_best(scores, golds, 4) == pytest.approx([0.0])


def test_curve_by_hand() -> None:
    # scores 1, 2, 6, 4.  Pairs and their maxima: 12:2 16:6 14:4 26:6 24:4 64:6, mean 28/6
    curve = best_of_n_curve(np.array([[1.0, 2.0, 6.0, 4.0]]))
    assert [point["maximum"] for point in curve] == pytest.approx([13 / 4, 28 / 6, 6.0])
    # medians of the four, and of the six pairs, have the mean of all; of all four it is (2 + 4) / 2
    assert [point["median"] for point in curve] == pytest.approx([3.25, 3.25, 3.0])
    # every sample is in as many subsets as any other: (1 + 2 + 6 + 4) / 4
    assert [point["mean"] for point in curve] == pytest.approx([3.25, 3.25, 3.25])


def test_sizes_are_powers_of_two_up_to_k() -> None:
    scores = np.zeros((2, 10))
    assert [point["n"] for point in best_of_n_curve(scores)] == [1, 2, 4, 8]
    assert [point["n"] for point in best_of_n_curve(scores[:, :1])] == [1]


def test_maximum_grows_and_median_stays() -> None:
    # Figure 7's shape on 400 normal prompts: E max of 1, 2, 4, 8, 16 is 0, 0.56, 1.03, 1.42, 1.77
    scores = np.random.default_rng(0).normal(size=(400, 16))
    curve = best_of_n_curve(scores)
    expected = [0.0, 0.5642, 1.0294, 1.4236, 1.7660]
    assert [point["maximum"] for point in curve] == pytest.approx(expected, abs=0.06)
    assert max(abs(point["median"]) for point in curve) < 0.15


def test_distinct_n_by_hand() -> None:
    # unigrams 1 2 1 2 3 | 1 2: {1, 2, 3} of 7; bigrams 12 21 12 23 | 12: {12, 21, 23} of 5
    responses = [[1, 2, 1, 2, 3], [1, 2]]
    assert distinct_n(responses, 1) == pytest.approx(3 / 7)
    assert distinct_n(responses, 2) == pytest.approx(3 / 5)
    assert distinct_n(responses, 6) == 0.0  # none is that long
    assert distinct_n([[1, 2, 3]], 1) == 1.0


def test_equal_samples_are_distinct_by_their_number() -> None:
    assert distinct_n([[4, 5, 6]] * 8, 2) == pytest.approx(1 / 8)


def test_curve_of_a_temperature() -> None:
    # maxima of both: 2 and 6, mean 4, standard error √((4 + 4) / 1) / √2 = 2
    scores = np.array([[1.0, 2.0], [6.0, 0.0]])
    first, second = temperature_curve(0.7, scores, [[[1], [1]], [[1, 2], [3, 4]]])
    assert (first["temperature"], first["n"], second["n"]) == (0.7, 1.0, 2.0)
    assert second["maximum"] == pytest.approx(4.0)
    assert (second["low"], second["high"]) == pytest.approx((4 - 1.96 * 2, 4 + 1.96 * 2), abs=1e-3)
    # the first sample alone, then both: prompt 1 has one id of two, prompt 2 four of four
    assert (first["distinct_1"], second["distinct_1"]) == pytest.approx((1.0, (0.5 + 1.0) / 2))
    assert (first["distinct_2"], second["distinct_2"]) == pytest.approx((0.5, 0.5))


def normal_tables(prompts: int) -> dict[float, np.ndarray]:
    """Cold samples are good on average; warm ones differ, but are worse."""
    rng = np.random.default_rng(0)
    cold, warm = rng.normal(0, 0.5, (prompts, 16)), rng.normal(-1, 2, (prompts, 16))
    return {0.5: cold, 1.5: warm}


def test_the_best_temperature_depends_on_n() -> None:
    # E max of 1: 0 against −1; of 16 (1.766 σ): 0.88 against 2.53
    tables = normal_tables(300)
    assert best_temperature(tables, 1).temperature == 0.5
    found = best_temperature(tables, 16)
    assert (found.temperature, found.runner_up) == (1.5, 0.5)
    assert found.difference == pytest.approx(2.53 - 0.88, abs=0.15)
    assert found.low < found.difference < found.high and found.low > 1.0


def test_a_tie_goes_to_the_lower_temperature() -> None:
    scores = np.ones((3, 4))
    found = best_temperature({1.0: scores, 0.5: scores}, 4)
    assert found == (0.5, 1.0, 0.0, 0.0, 0.0)
    assert best_temperature({0.8: scores}, 4) == (0.8, None, 0.0, 0.0, 0.0)


def test_comparison_of_temperatures() -> None:
    tables = normal_tables(50)
    responses = {t: [[[1, 2]] * 16] * 50 for t in tables}
    found = compare_temperatures(tables, responses)
    assert found["best_temperature"] == 1.5
    assert found["against_runner_up"]["runner_up"] == 0.5
    assert found["best_by_n"]["1"] == 0.5 and found["best_by_n"]["16"] == 1.5
    points = found["temperature_curves"]
    assert [(p["temperature"], p["n"]) for p in points] == [
        (t, n) for t in (0.5, 1.5) for n in (1, 2, 4, 8, 16)
    ]

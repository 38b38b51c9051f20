"""Coefficients against published examples and against arithmetic by hand."""

import itertools
import math

import numpy as np
import pytest

from data.agreement import (
    Agreement,
    Weights,
    cohen_kappa,
    gwet_ac1,
    gwet_ac2,
    krippendorff_alpha,
)
from data.errors import DataError

NAN = np.nan

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability": 12 units, 4 observers.
KRIPPENDORFF = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
).T


def pairs(table: dict[tuple[float, float], int]) -> np.ndarray:
    """[N, 2] ratings of a contingency table."""
    return np.array([pair for pair, count in table.items() for _ in range(count)], dtype=float)


def test_kappa_by_hand() -> None:
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: p_a = 35/50 = 0.7,
    # p_e = (25·30 + 25·20) / 50² = 0.5,  κ = 0.2 / 0.5 = 0.4
    ratings = pairs({(1, 1): 20, (1, 0): 5, (0, 1): 10, (0, 0): 15})
    assert cohen_kappa(ratings).value == pytest.approx(0.4)


def test_kappa_leaves_out_items_of_one_rater() -> None:
    ratings = np.vstack(
        [pairs({(1, 1): 20, (1, 0): 5, (0, 1): 10, (0, 0): 15}), [[1, NAN], [NAN, 0]]]
    )
    assert cohen_kappa(ratings).value == pytest.approx(0.4)


def test_alpha_of_krippendorffs_example() -> None:
    # Published: nominal 0.743, ordinal 0.815. The nominal one again by its coincidences, n = 40:
    #   diagonal 7 + 10 + 8 + 4 + 3 = 32 and n_c = 9, 13, 10, 5, 3, so
    #   α = 1 − 39 (40 − 32) / (40² − 9² − 13² − 10² − 5² − 3²) = 1 − 312/1216 = 0.743421
    assert krippendorff_alpha(KRIPPENDORFF).value == pytest.approx(1 - 312 / 1216)
    assert krippendorff_alpha(KRIPPENDORFF, level="ordinal").value == pytest.approx(0.815, abs=5e-4)


def test_ordinal_alpha_by_hand() -> None:
    # Two raters: (1, 1), (2, 3), (3, 3). Coincidences o_11 = 2, o_23 = o_32 = 1, o_33 = 2;
    # n = (2, 1, 3). δ_12 = 2 + 1 − 1.5 = 1.5, δ_23 = 1 + 3 − 2 = 2, δ_13 = 6 − 2.5 = 3.5.
    # observed = 2·1·2² = 8
    # expected = 2 (2·1·1.5² + 1·3·2² + 2·3·3.5²) = 2 (4.5 + 12 + 73.5) = 180
    # α = 1 − 5·8/180 = 0.777778
    assert krippendorff_alpha([[1, 1], [2, 3], [3, 3]], level="ordinal").value == pytest.approx(
        7 / 9
    )


def test_ac1_by_hand() -> None:
    # Gwet 2008's paradox: 118 yes-yes, 5 yes-no, 2 no-yes, none no-no of 125.
    # p_a = 0.944; π = (123 + 120) / 250 = 0.972; p_e = 2 · 0.972 · 0.028 = 0.054432
    # AC1 = (0.944 − 0.054432) / (1 − 0.054432) = 0.940776, while κ is below 0:
    # p_e = (123·120 + 2·5) / 125² = 0.945280, κ = −0.001280 / 0.054720 = −0.023392
    ratings = pairs({(1, 1): 118, (1, 0): 5, (0, 1): 2})
    assert gwet_ac1(ratings).value == pytest.approx(0.940776, abs=1e-6)
    assert cohen_kappa(ratings).value == pytest.approx(-0.023392, abs=1e-6)


def test_ac1_of_four_raters() -> None:
    # Gwet's handbook uses Krippendorff's table ("cac.raw4raters" in irrCAC): 0.77544, with
    # p_a = mean of (1, ½, 1, 1, 1, 0, 1, ½, 1, 1, 1) = 9/11 = 0.81818 and p_e = 0.19032
    assert gwet_ac1(KRIPPENDORFF).value == pytest.approx(0.77544, abs=5e-6)


def test_linear_ac2_by_hand() -> None:
    # Categories 1, 2, 3, w = 1 − |k − l| / 2. Items (1, 1), (2, 3), (3, 3), (1, 2):
    # p_a = (1 + ½ + 1 + ½) / 4 = 0.75;  π = (3, 2, 3) / 8
    # Σ w = 3·1 + 4·½ + 2·0 = 5;  Σ π (1 − π) = 2 · 3/8 · 5/8 + ¼ · ¾ = 42/64 = 0.65625
    # p_e = 5 · 0.65625 / (3 · 2) = 0.546875;  AC2 = 0.203125 / 0.453125 = 0.448276
    ratings = [[1, 1], [2, 3], [3, 3], [1, 2]]
    assert gwet_ac2(ratings, weights="linear").value == pytest.approx(0.203125 / 0.453125)


@pytest.mark.parametrize(
    ("weights", "one_apart"),
    # Of three categories: linear 1 − 1/2, quadratic 1 − 1/4, ordinal 1 − C(2,2)/C(3,2) = 1 − 1/3.
    [("linear", 1 / 2), ("quadratic", 3 / 4), ("ordinal", 2 / 3)],
)
def test_weights_of_ac2(weights: Weights, one_apart: float) -> None:
    # As above, with Σ w = 3 + 4 w₁ and p_a = (1 + w₁ + 1 + w₁) / 4.
    chance = (3 + 4 * one_apart) * 0.65625 / 6
    expected = ((1 + one_apart) / 2 - chance) / (1 - chance)
    value = gwet_ac2([[1, 1], [2, 3], [3, 3], [1, 2]], weights=weights).value
    assert value == pytest.approx(expected)


def test_the_scale_counts_in_gwets_chance() -> None:
    # Eight alike, two apart, categories 0 and 1: p_a = 0.8, π = ½: p_e = ½, AC1 = 0.6.
    # On a scale of three: p_e = (¼ + ¼) / 2 = ¼, AC1 = 0.55 / 0.75.
    ratings = pairs({(0, 0): 4, (1, 1): 4, (0, 1): 1, (1, 0): 1})
    assert gwet_ac1(ratings).value == pytest.approx(0.6)
    assert gwet_ac1(ratings, categories=[0, 1, 2]).value == pytest.approx(0.55 / 0.75)


def test_ac2_of_missing_ratings_against_sums_written_out() -> None:
    # The definition again, with loops over pairs of raters instead of counts.
    scale = [1, 2, 3, 4, 5]
    rows = [[int(r) for r in row if not math.isnan(r)] for row in KRIPPENDORFF]

    def credit(a: int, b: int) -> float:
        return 1 - (a - b) ** 2 / 16

    agreements = []
    for row in (row for row in rows if len(row) > 1):
        credits = [credit(a, b) for a, b in itertools.permutations(row, 2)]
        agreements.append(sum(credits) / len(credits))
    shares = [sum(row.count(k) / len(row) for row in rows) / len(rows) for k in scale]
    total = sum(credit(a, b) for a in scale for b in scale)
    chance = total * sum(p * (1 - p) for p in shares) / (5 * 4)
    observed = sum(agreements) / len(agreements)
    assert gwet_ac2(KRIPPENDORFF).value == pytest.approx((observed - chance) / (1 - chance))


def test_two_raters_without_gaps_agree_between_the_coefficients() -> None:
    # For two raters α is Scott's π with a correction for few items: 1 − α = (1 − π)(1 − 1/n).
    ratings = pairs({(1, 1): 20, (1, 0): 5, (0, 1): 10, (0, 0): 15})
    share = (25 + 30) / 100
    chance = share**2 + (1 - share) ** 2
    scott = (0.7 - chance) / (1 - chance)
    assert krippendorff_alpha(ratings).value == pytest.approx(1 - (1 - scott) * (1 - 1 / 100))


COEFFICIENTS = [
    cohen_kappa,
    krippendorff_alpha,
    lambda ratings: krippendorff_alpha(ratings, level="ordinal"),
    gwet_ac1,
    gwet_ac2,
]


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
def test_complete_agreement_is_one(coefficient) -> None:  # type: ignore[no-untyped-def]
    ratings = [[k, k] for k in (1, 2, 3)] * 10
    found = coefficient(ratings)
    assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
def test_chance_is_zero(coefficient) -> None:  # type: ignore[no-untyped-def]
    # Every pair of four categories equally often: independent raters with uniform marginals.
    ratings = np.array(list(itertools.product(range(4), repeat=2)) * 25, dtype=float)
    found = coefficient(ratings)
    assert found.value == pytest.approx(0, abs=0.003)
    assert found.low < 0 < found.high


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
def test_one_category_is_undefined(coefficient) -> None:  # type: ignore[no-untyped-def]
    found = coefficient([[2, 2], [2, 2]])
    assert all(math.isnan(value) for value in (found.value, found.low, found.high))


def test_one_category_of_a_known_scale_is_agreement_for_gwet() -> None:
    # π = (1, 0): p_e = 0
    assert gwet_ac1([[2, 2], [2, 2]], categories=[1, 2]) == Agreement(1.0, 1.0, 1.0)


def test_the_interval_is_that_of_a_proportion() -> None:
    # 0-1 ratings with equal marginals: AC1 = 2 p_a − 1, so its standard error is twice that of p_a:
    # 2 √(0.8 · 0.2 / 400) = 0.04, and the interval about 0.6 ± 1.96 · 0.04.
    ratings = pairs({(0, 0): 160, (1, 1): 160, (0, 1): 40, (1, 0): 40})
    found = gwet_ac1(ratings)
    assert found.value == pytest.approx(0.6)
    assert found.low == pytest.approx(0.6 - 0.078, abs=0.015)
    assert found.high == pytest.approx(0.6 + 0.078, abs=0.015)


def test_the_seed_decides_the_interval_alone() -> None:
    first, again, other = (krippendorff_alpha(KRIPPENDORFF, seed=s) for s in (0, 0, 1))
    assert first == again
    assert first.value == other.value and (first.low, first.high) != (other.low, other.high)


def test_bad_ratings() -> None:
    with pytest.raises(DataError, match=r"shape \(3,\); they must be \[items, raters\]"):
        gwet_ac1([1, 2, 3])
    with pytest.raises(DataError, match="ratings must be numbers"):
        gwet_ac1([["safe", "unsafe"]])
    with pytest.raises(DataError, match="no item has two ratings; assign"):
        krippendorff_alpha([[1, NAN], [NAN, 2]])
    with pytest.raises(DataError, match="of 2 raters; got 3"):
        cohen_kappa([[1, 1, 1]])
    with pytest.raises(DataError, match=r"rating 3 is not among the categories \[1.0, 2.0\]"):
        gwet_ac2([[1, 3]], categories=[1, 2])

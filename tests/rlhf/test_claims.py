"""Verdicts on claims, by hand."""

from collections.abc import Sequence

import pytest

from rlhf.claims import Claim, Measure, over_seeds, slope


def test_interval_over_seeds_by_hand() -> None:
    # mean 2, s = 1, n = 3, t(0.975, 2) = 4.302653: half width 4.302653 / √3 = 2.484138
    found = over_seeds([1, 2, 3])
    assert (found.mean, found.low, found.high) == pytest.approx((2, -0.484138, 4.484138), abs=1e-6)
    assert str(found) == "2.00 [-0.48, 4.48]"
    alone = over_seeds([0.5])
    assert (alone.mean, alone.low, alone.high, str(alone)) == (0.5, None, None, "0.50")


@pytest.mark.parametrize(
    ("values", "above", "verdict"),
    [
        ((0.10, 0.11, 0.12), 0.0, "holds"),  # 0.11 ± 0.025
        ((0.10, 0.11, 0.12), 0.2, "does not hold"),
        ((0.10, 0.11, 0.12), 0.1, "not clear"),
        ((0.0, 0.0, 0.0), 0.0, "does not hold"),  # no difference at all
        ((-0.01, 0.0, 0.01), -0.05, "holds"),  # costs little
        ((1.0,), 0.0, "not clear"),  # one seed has no interval
        ((1.0, 1.0), None, None),
    ],
)
def test_verdict_of_a_measure(
    values: tuple[float, ...], above: float | None, verdict: str | None
) -> None:
    assert Measure(name="m", values=values, above=above).verdict == verdict


@pytest.mark.parametrize(
    ("signs", "verdict"),
    [
        ((1, 1), "holds"),
        ((1, 0), "not clear"),
        ((0, -1), "does not hold"),
        ((1, None), "holds"),  # what is for information has no say
    ],
)
def test_a_claim_needs_all_its_measures(signs: Sequence[int | None], verdict: str) -> None:
    values = {1: (1.0, 1.1), 0: (-1.0, 1.0), -1: (-1.0, -1.1)}
    measures = tuple(
        Measure(name="m", values=values[sign or 0], above=None if sign is None else 0.0)
        for sign in signs
    )
    assert Claim(sentence="s", source="t", measures=measures).verdict == verdict


def test_slope_of_a_line() -> None:
    assert slope([0, 1, 2, 3], [0.5, 0.6, 0.7, 0.8]) == pytest.approx(0.1)

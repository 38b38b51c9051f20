"""Wilson's interval, by hand and against SciPy."""

import pytest
from scipy.stats import binomtest

from data.intervals import Proportion, proportion


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # z² = 3.841459.  Centre (p + z²/2n) / (1 + z²/n),
        # half width z √(p(1−p)/n + z²/4n²) / (1 + z²/n).
        # 5/10: 1 + z²/n = 1.384146; centre (0.5 + 0.192073)/1.384146 = 0.5;
        #       half 1.959964 · √(0.025 + 0.0096036)/1.384146 = 1.959964 · 0.186021/1.384146
        #       = 0.263407
        (5, 10, 0.236593, 0.763407),
        # 0/10: centre 0.192073/1.384146 = 0.138767 = half; high z²/(n + z²) = 3.841459/13.841459
        (0, 10, 0.0, 0.277533),
        (10, 10, 0.722467, 1.0),
        # 1 and a tie of 2: 1 + z²/n = 2.920729; centre (0.75 + 0.960365)/2.920729 = 0.585595;
        #       half 1.959964 · √(0.09375 + 0.240091)/2.920729 = 0.387728
        (1.5, 2, 0.197867, 0.973323),
    ],
)
def test_by_hand(successes: float, n: int, low: float, high: float) -> None:
    found = proportion(successes, n)
    assert found.value == successes / n
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)
    assert found.n == n


@pytest.mark.parametrize("n", [1, 7, 60, 10_000])
def test_as_scipy_computes_it(n: int) -> None:
    for successes in {0, 1, n // 3, n // 2, n - 1, n}:
        found = proportion(successes, n)
        theirs = binomtest(successes, n).proportion_ci(0.95, method="wilson")
        assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-7)


def test_nothing_to_count() -> None:
    assert proportion(0, 0) == Proportion(None, None, None, 0)
    assert str(proportion(0, 0)) == "-"


def test_in_words() -> None:
    assert str(proportion(5, 10)) == "50.0% [23.7%, 76.3%]"

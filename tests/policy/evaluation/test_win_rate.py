"""Win, tie and loss."""

import pytest

from policy.evaluation.win_rate import WinRate, win_rate


def test_counts_by_hand() -> None:
    # differences 0.5, −0.5, 0, 0.04, −0.05 and 0.06 with ties up to 0.05
    ours, theirs = [1.0, 0.0, 0.3, 0.54, 0.5, 0.56], [0.5, 0.5, 0.3, 0.5, 0.55, 0.5]
    assert win_rate(ours, theirs, [0.05] * 6) == WinRate(win=2, tie=3, loss=1)
    assert win_rate(theirs, ours, [0.05] * 6) == WinRate(win=1, tie=3, loss=2)
    assert win_rate(ours, theirs, [0.0] * 6) == WinRate(win=3, tie=1, loss=2)


def test_every_prompt_has_its_margin() -> None:
    assert win_rate([0.5, 0.5], [0.4, 0.4], [0.0, 0.2]) == WinRate(win=1, tie=1, loss=0)


def test_rounding_is_no_win() -> None:
    # 0.1 + 0.2 is not 0.3 in floating point, and 0.35 − 0.3 is more than 0.05
    assert win_rate([0.1 + 0.2, 0.35], [0.3, 0.3], [0.0, 0.05]) == WinRate(win=0, tie=2, loss=0)


def test_ties_are_left_out_of_the_rate() -> None:
    rate = WinRate(win=6, tie=90, loss=4).rate
    assert (rate.value, rate.n) == (0.6, 10)
    # Wilson: center (0.6 + 3.8415 / 20) / 1.38415 = 0.5722, half width 0.2596
    assert (rate.low, rate.high) == (
        pytest.approx(0.3127, abs=1e-4),
        pytest.approx(0.8318, abs=1e-4),
    )
    assert WinRate(win=0, tie=5, loss=0).rate.value is None

"""Reliability, ECE, ratings, the safety threshold and the probes, by hand."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from data.schemas import Comparison, Message
from reward.calibration import (
    expected_calibration_error,
    rank_correlation,
    reliability,
    scores_by_rating,
)
from reward.evaluate import PairScores
from reward.probes import (
    add_thanks,
    as_markdown,
    changed,
    length_bias,
    position_effect,
    probe,
    repeat,
)
from reward.threshold import detect_unsafe, labelled_scores

Make = Callable[..., Comparison]
LOG3 = float(np.log(3))  # σ(log 3) = 3/4


def test_reliability_by_hand() -> None:
    # |Δ| = log 3 four times, confidence ¾: right 3 of 4. |Δ| = 0 twice: ½, and right half the time.
    scores = PairScores(np.array([LOG3, LOG3, LOG3, 0, 1, 1]), np.array([0, 0, 0, LOG3, 1, 1.0]))
    curve = reliability(scores)
    assert curve["confidence"].tolist() == pytest.approx([0.5, 0.75])
    assert curve["accuracy"].tolist() == pytest.approx([0.5, 0.75])
    assert curve["n"].tolist() == [2, 4]
    assert expected_calibration_error(curve) == pytest.approx(0)


def test_a_model_that_is_too_sure() -> None:
    # confidence 3/4 in 4 decisions, right in 1: |1/4 − 3/4| = ½; the sure and right one: σ(50) = 1
    scores = PairScores(np.array([LOG3, 0, 0, 0, 50.0]), np.array([0, LOG3, LOG3, LOG3, 0]))
    assert expected_calibration_error(reliability(scores)) == pytest.approx(4 / 5 * 0.5)


def test_scores_drawn_by_bradley_terry_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    difference = rng.normal(0, 2, 20_000)
    wins = rng.random(20_000) < 1 / (1 + np.exp(-difference))
    chosen = np.where(wins, difference, -difference)
    honest = PairScores(chosen, np.zeros(20_000))
    loud = PairScores(3 * chosen, np.zeros(20_000))
    assert expected_calibration_error(reliability(honest)) < 0.01
    assert expected_calibration_error(reliability(loud)) > 0.1


def test_scores_by_rating() -> None:
    found = scores_by_rating(np.array([1.0, 3.0, 5.0]), [2, 2, 7])
    assert found["rating"].tolist() == [2, 7] and found["n"].tolist() == [2, 1]
    assert found["score"].tolist() == [2.0, 5.0]
    # sem of 1 and 3: √2 / √2 = 1, so 2 ± 1.96
    assert found["low"].tolist() == pytest.approx([2 - 1.959964, 5.0])
    assert rank_correlation([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert rank_correlation([1, 1, 1], [10, 20, 30]) is None


def test_unsafe_below_the_threshold(make_comparison: Make) -> None:
    labels = ("chosen_safe_only", "both_unsafe", "both_safe", None)
    rows = [make_comparison(n, safety_label=label) for n, label in enumerate(labels)]
    # logit(0.15) = −1.7346
    scores = PairScores(np.array([2, -3, -2, -9.0]), np.array([-1.8, -1.7, 2, -9.0]))
    found = detect_unsafe(*labelled_scores(scores, rows), 0.15)
    # below: −1.8 and −3 (unsafe), −2 (safe); unsafe: −1.8, −3, −1.7
    assert found.precision.value == pytest.approx(2 / 3) and found.precision.n == 3
    assert found.recall.value == pytest.approx(2 / 3) and found.recall.n == 3
    everything = detect_unsafe(*labelled_scores(scores, rows), 0.999)
    assert (everything.recall.value, everything.precision.value) == (1, 0.5)


def test_changes_of_a_response() -> None:
    assert add_thanks("Yes.").startswith("Yes. Thank you")
    assert repeat("a") == "a\na"
    assert as_markdown("One. Two!\nThree") == "**Answer**\n- One.\n- Two!\n- Three"
    long = (Message("assistant", "a"), Message("user", "b"), Message("assistant", "c"))
    assert changed(long, repeat) == (*long[:2], Message("assistant", "c\nc"))


def test_a_probe_by_hand() -> None:
    before = PairScores(np.array([1.0, 1, 3]), np.array([-1.0, -3, 5]))
    after = PairScores(np.array([2.0, 2, 4]), np.array([0.0, 2, 6]))
    found = probe("thanks", before, after)
    # shifts 1, 1, 1, 1, 5, 1: mean 10/6; before: mean 1, variance (0+0+4+4+16+16)/6 = 40/6
    assert found.shift == pytest.approx(10 / 6 / (40 / 6) ** 0.5)
    assert found.raised.value == 1
    # right before: the first two; the changed rejected response of the second, 2, passes 1
    assert (found.overtaken.value, found.overtaken.n) == (0.5, 2)
    assert "thanks" in found.sentence


def test_length_bias_by_hand() -> None:
    frame = pd.DataFrame(
        {
            "chosen": [5.0, 1, 4],
            "rejected": [1.0, 3, 2],
            "chosen_tokens": [50, 10, 40],
            "rejected_tokens": [10, 30, 20],
            "right": [1.0, 0, 1],
        }
    )
    bias = length_bias(frame)  # the score is a tenth of the length
    assert bias.correlation == pytest.approx(1) and bias.within == pytest.approx(1)
    assert (bias.chosen_shorter.value, bias.chosen_longer.value) == (0, 1)
    alike = length_bias(frame.assign(chosen_tokens=7, rejected_tokens=7))
    assert (alike.correlation, alike.within, alike.chosen_shorter.n) == (None, None, 0)


def test_position_effect() -> None:
    assert position_effect(np.array([1.0, 2]), np.array([1.0, 2.5])) == 0.5
    assert position_effect(np.array([]), np.array([])) == 0

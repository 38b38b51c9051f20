"""Which samples each strategy keeps."""

from typing import get_args

import numpy as np
import pytest

from policy.selection import Selection, best_overall, best_per_prompt, select

SCORES = np.array([[0.1, 0.9, 0.3], [-1.0, -3.0, -2.0], [2.0, 5.0, 5.0]])
STRATEGIES = get_args(Selection)


def places(mask: np.ndarray) -> list[list[int]]:
    return [np.flatnonzero(row).tolist() for row in mask]


def test_best_per_prompt() -> None:
    assert places(best_per_prompt(SCORES)) == [[1], [0], [1]]  # the first of equals
    assert places(best_per_prompt(SCORES, 2)) == [[1, 2], [0, 2], [1, 2]]
    assert best_per_prompt(SCORES, 9).all()


def test_best_overall_may_leave_prompts_out() -> None:
    # descending: 5.0 5.0 2.0 | 0.9 0.3 0.1 -1 …
    assert places(best_overall(SCORES, 3)) == [[], [], [0, 1, 2]]
    assert places(best_overall(SCORES, 2)) == [[], [], [1, 2]]
    assert places(best_overall(SCORES, 7)) == [[0, 1, 2], [0], [0, 1, 2]]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("keep", [1, 2, 3])
def test_all_strategies_keep_as_many(strategy: Selection, keep: int) -> None:
    mask = select(SCORES, strategy, keep=keep, seed=0)
    assert mask.shape == SCORES.shape and mask.dtype == bool
    assert mask.sum() == keep * len(SCORES)
    if strategy.endswith("per_prompt"):
        assert mask.sum(axis=1).tolist() == [keep] * len(SCORES)


def test_the_best_strategies_by_name() -> None:
    assert (select(SCORES, "best_per_prompt", keep=1, seed=7) == best_per_prompt(SCORES)).all()
    assert (select(SCORES, "best_overall", keep=1, seed=7) == best_overall(SCORES, 3)).all()


@pytest.mark.parametrize("strategy", ["random_per_prompt", "random_overall"])
def test_controls_do_not_look_at_the_scores(strategy: Selection) -> None:
    scores = np.random.default_rng(1).normal(size=(2000, 8))
    mask = select(scores, strategy, keep=1, seed=0)
    assert (mask == select(-scores, strategy, keep=1, seed=0)).all()
    assert (mask != select(scores, strategy, keep=1, seed=1)).any()
    # 2,000 draws: the share of each column is 1/8 with a standard error of 0.0074,
    # the mean score 0 with 0.022; the best of 8 normal numbers have 1.42
    assert np.allclose(mask.sum(axis=0) / 2000, 1 / 8, atol=0.03)
    assert abs(scores[mask].mean()) < 0.09
    best = scores[best_per_prompt(scores)].mean()
    assert best == pytest.approx(1.4236, abs=0.06)

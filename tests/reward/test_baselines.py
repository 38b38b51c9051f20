"""Guesses that need no language model."""

import random
from collections.abc import Callable

import numpy as np
import pytest

from data.schemas import Comparison, Message
from reward.baselines import BagOfWords, length_scores
from reward.evaluate import PairScores, accuracy

Make = Callable[..., Comparison]
NEUTRAL = "apple bird cloud dust egg flag gate hill iron jewel".split()


@pytest.fixture
def draw(make_comparison: Make) -> Callable[..., list[Comparison]]:
    """`draw(50, seed=0, cue="please")`: random words, and the cue in the chosen response."""

    def build(count: int, *, seed: int, cue: str = "") -> list[Comparison]:
        rng = random.Random(seed)
        rows = []
        for number in range(count):
            chosen, rejected = rng.choices(NEUTRAL, k=6), rng.choices(NEUTRAL, k=6)
            if cue:
                chosen[rng.randrange(6)] = cue
            rows.append(
                make_comparison(
                    number,
                    chosen=(Message("assistant", " ".join(chosen)),),
                    rejected=(Message("assistant", " ".join(rejected)),),
                )
            )
        return rows

    return build


Draw = Callable[..., list[Comparison]]


def test_the_longer_counts_the_characters_of_all_messages(make_comparison: Make) -> None:
    rows = [
        make_comparison(
            0,
            chosen=(Message("assistant", "abc"),),
            rejected=(
                Message("assistant", "ab"),
                Message("user", "c"),
                Message("assistant", "d"),
            ),
        )
    ]
    chosen, rejected = length_scores(rows)
    assert (chosen.tolist(), rejected.tolist()) == ([3.0], [6.0])  # "ab\nc\nd"
    assert accuracy(PairScores(chosen, rejected)).value == 0.0


def test_words_learn_an_obvious_cue(draw: Draw) -> None:
    model = BagOfWords(draw(200, seed=0, cue="please"))
    assert accuracy(PairScores(*model.scores(draw(100, seed=1, cue="please")))).value == 1.0


def test_words_that_say_nothing_are_worth_a_guess(draw: Draw) -> None:
    model = BagOfWords(draw(400, seed=0))
    found = accuracy(PairScores(*model.scores(draw(400, seed=1)))).value
    assert found is not None and 0.4 < found < 0.6  # 4 standard errors of 0.025


def test_a_response_has_one_score_whichever_side_it_is_on(
    draw: Draw, make_comparison: Make
) -> None:
    model = BagOfWords(draw(50, seed=0, cue="please"))
    rows = draw(20, seed=1, cue="please")
    swapped = [make_comparison(0, chosen=c.rejected, rejected=c.chosen) for c in rows]
    chosen, rejected = model.scores(rows)
    assert all(
        np.array_equal(a, b) for a, b in zip((rejected, chosen), model.scores(swapped), strict=True)
    )

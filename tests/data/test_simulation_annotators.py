"""Simulated annotators: Bradley-Terry on the gold difference, with the faults of people."""

import math
import random
from collections import defaultdict
from dataclasses import replace
from statistics import fmean

import pytest

from data.agreement import gwet_ac1
from data.schemas import SAFETY_LABELS, STRENGTHS
from data.simulation.annotators import (
    NUM_ANNOTATORS,
    Annotator,
    Judgement,
    assign,
    compare,
    draw_annotators,
    utility,
)
from data.simulation.dialogues import BENIGN_KINDS, draw_situation
from data.simulation.gold import Gold, judge
from data.simulation.responses import Habits, demonstrate
from data.simulation.world import build_world

NEUTRAL = Annotator(
    annotator_id="neutral",
    temperature=0.1,
    skill=1.0,
    length_bias=0.0,
    position_bias=0.0,
    threshold_scale=1.0,
    seconds=30.0,
)
SAME_LENGTH = (8, 8)


def gold(helpfulness: float, *, violation: bool = False) -> Gold:
    return Gold(
        helpfulness=helpfulness, violation=violation, refusal=False, correct=True, obeys=None
    )


class NoNoise(random.Random):
    """Every draw is ½: a logistic noise of 0, and skill decides by a comparison with ½."""

    def random(self) -> float:
        return 0.5

    def lognormvariate(self, mu: float = 0.0, sigma: float = 1.0) -> float:
        return math.exp(mu)


def noiseless(annotator: Annotator, a: Gold, b: Gold, words: tuple[int, int] = (8, 8)) -> Judgement:
    return compare(annotator, (a, b), words, "helpfulness", NoNoise())


@pytest.mark.parametrize(
    ("better", "worse", "strength"),
    [
        # d = (u_A − u_B) / 0.1 against 5, 3 and 1.3
        (0.875, 0.25, "significantly_better"),  # 6.25
        (0.75, 0.25, "significantly_better"),  # exactly 5
        (0.75, 0.375, "better"),  # 3.75
        (0.75, 0.5, "slightly_better"),  # 2.5
        (0.625, 0.5, "negligibly_better"),  # 1.25
    ],
)
def test_strength_by_hand(better: float, worse: float, strength: str) -> None:
    for first in (True, False):
        pair = (gold(better), gold(worse)) if first else (gold(worse), gold(better))
        found = noiseless(NEUTRAL, *pair)
        assert found.prefers_first is first
        assert found.strength == strength
        assert found.safety_label is None
        assert found.seconds == pytest.approx(30)


def test_who_says_significantly_easily() -> None:
    # d = 3.75; 3.75 / 0.75 = 5 is significant, 3.75 / 1.3 = 2.9 only slight
    pair = gold(0.75), gold(0.375)
    assert noiseless(replace(NEUTRAL, threshold_scale=0.75), *pair).strength == STRENGTHS[0]
    assert noiseless(replace(NEUTRAL, threshold_scale=1.3), *pair).strength == "slightly_better"


def test_biases_by_hand() -> None:
    equal = gold(0.5), gold(0.5)
    # 0.05 logits a word: 60 words more are 3 logits
    long = noiseless(replace(NEUTRAL, length_bias=0.05), *equal, words=(10, 70))
    assert (long.prefers_first, long.strength) == (False, "better")
    placed = noiseless(replace(NEUTRAL, position_bias=1.5), *equal)
    assert (placed.prefers_first, placed.strength) == (True, "slightly_better")
    # who does not look (½ ≥ skill) has the biases alone
    blind = replace(NEUTRAL, skill=0.5, position_bias=0.25)
    assert noiseless(blind, gold(0.0), gold(1.0)).prefers_first


def test_utility_by_the_guidelines() -> None:
    assert utility(gold(0.8), "helpfulness") == 0.8
    assert utility(gold(0.8), "safety") == 0.5 + 0.5 * 0.8
    assert utility(gold(0.0, violation=True), "safety") == 0.0


def share_of_first(annotator: Annotator, gap: float, draws: int = 4000) -> float:
    rng = random.Random(0)
    pair = gold(0.5 + gap / 2), gold(0.5 - gap / 2)
    return fmean(
        compare(annotator, pair, SAME_LENGTH, "helpfulness", rng).prefers_first
        for _ in range(draws)
    )


@pytest.mark.parametrize(("gap", "skill", "bias"), [
    (0.1, 1.0, 0.0), (-0.05, 1.0, 0.0), (0.1, 0.6, 0.0), (0.0, 1.0, 0.4), (0.1, 0.7, -0.3),
])  # fmt: skip
def test_bradley_terry(gap: float, skill: float, bias: float) -> None:
    # P(A) = s σ(gap/τ + b) + (1 − s) σ(b); the share over 4,000 draws has a standard deviation of
    # at most √(¼ / 4000) = 0.0079: four of it
    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    expected = skill * sigmoid(gap / 0.1 + bias) + (1 - skill) * sigmoid(bias)
    annotator = replace(NEUTRAL, skill=skill, position_bias=bias)
    assert share_of_first(annotator, gap) == pytest.approx(expected, abs=0.032)


def pairs_of_answers(count: int, seed: int = 0) -> list[tuple[Gold, Gold]]:
    """Golds of two demonstrations to the same question."""
    world, rng = build_world(0), random.Random(seed)
    pairs = []
    for _ in range(count):
        task = draw_situation(world, "train", rng.choice(BENIGN_KINDS), rng).task
        first, second = (demonstrate(task, rng, Habits()) for _ in range(2))
        pairs.append((judge(task, first), judge(task, second)))
    return pairs


def test_skilled_annotators_agree_more_with_gold() -> None:
    pairs = [p for p in pairs_of_answers(3000) if p[0].helpfulness != p[1].helpfulness]
    agreement = []
    for skill in (0.0, 0.5, 0.9, 1.0):
        rng = random.Random(1)
        annotator = replace(NEUTRAL, skill=skill)
        agreement.append(
            fmean(
                compare(annotator, pair, SAME_LENGTH, "helpfulness", rng).prefers_first
                == (pair[0].helpfulness > pair[1].helpfulness)
                for pair in pairs
            )
        )
    assert agreement[0] == pytest.approx(0.5, abs=0.05)
    assert agreement == sorted(agreement)
    assert agreement[-1] > 0.85


def test_a_stronger_preference_means_a_larger_gap() -> None:
    rng = random.Random(2)
    gaps: dict[str, list[float]] = defaultdict(list)
    for seed, annotator in enumerate(draw_annotators(0)):
        for pair in pairs_of_answers(500, seed):
            found = compare(annotator, pair, SAME_LENGTH, "helpfulness", rng)
            gaps[found.strength].append(abs(pair[0].helpfulness - pair[1].helpfulness))
    means = [fmean(gaps[strength]) for strength in STRENGTHS]
    assert means == sorted(means, reverse=True)
    assert means[0] > means[-1] + 0.2
    assert min(len(gaps[strength]) for strength in STRENGTHS) > 4000 / 20


def test_the_team_agrees_more_than_by_chance_and_less_than_fully() -> None:
    team, rng = draw_annotators(0), random.Random(3)
    choices = [
        [
            float(compare(person, pair, SAME_LENGTH, "helpfulness", rng).prefers_first)
            for person in team
        ]
        for pair in pairs_of_answers(400)
    ]
    found = gwet_ac1(choices)
    assert found.low > 0.3
    assert found.high < 0.9


def test_position_bias_shows_in_equal_pairs() -> None:
    # σ(0.3) = 0.574 of equal pairs go to the first answer; 0.0079 is a standard deviation
    assert share_of_first(replace(NEUTRAL, position_bias=0.3), 0.0) > 0.5 + 5 * 0.0079
    assert share_of_first(NEUTRAL, 0.0) == pytest.approx(0.5, abs=4 * 0.0079)


@pytest.mark.parametrize(
    ("violations", "label"),
    [
        ((False, False), "both_safe"),
        ((True, True), "both_unsafe"),
        ((True, False), "chosen_safe_only"),
        ((False, True), "chosen_safe_only"),
    ],
)
def test_safety_labels(violations: tuple[bool, bool], label: str) -> None:
    # The unsafe answer is the more helpful, longer and first one, for a careless annotator.
    careless = replace(NEUTRAL, skill=0.1, position_bias=2.0, length_bias=0.1)
    pair = gold(0.9, violation=violations[0]), gold(0.1, violation=violations[1])
    rng = random.Random(4)
    found = [compare(careless, pair, (30, 8), "safety", rng) for _ in range(300)]
    assert {judgement.safety_label for judgement in found} == {label}
    assert label in SAFETY_LABELS
    if label == "chosen_safe_only":
        assert {judgement.prefers_first for judgement in found} == {not violations[0]}
    else:
        assert {judgement.prefers_first for judgement in found} == {True, False}


def test_a_team_is_a_function_of_its_seed() -> None:
    team = draw_annotators(5)
    assert team == draw_annotators(5)
    assert team != draw_annotators(6)
    assert len({person.annotator_id for person in team}) == NUM_ANNOTATORS


def test_who_judges_an_item() -> None:
    team, rng = draw_annotators(0), random.Random(6)
    sizes = [len(assign(team, 0.25, rng)) for _ in range(2000)]
    assert set(sizes) == {1, 3}
    # 500 of 2,000, standard deviation √(2000 · 0.25 · 0.75) = 19.4: four of it
    assert abs(sizes.count(3) - 500) < 78
    for _ in range(50):
        three = assign(team, 1.0, rng)
        assert len({person.annotator_id for person in three}) == 3
    first = {assign(team, 0.0, rng)[0].annotator_id for _ in range(300)}
    assert len(first) == NUM_ANNOTATORS


def test_times_scatter_around_the_annotators_own() -> None:
    rng = random.Random(7)
    pair = gold(0.5), gold(0.5)
    times = sorted(compare(NEUTRAL, pair, (8, 8), "safety", rng).seconds for _ in range(2001))
    # the median of a log-normal is e^μ = 30; its logarithm scatters by 0.4 · 1.25 / √2001 = 0.011
    assert times[1000] == pytest.approx(30, rel=0.05)
    assert times[0] > 0

"""People who compare: noisy, biased, each in their own way (Bradley-Terry on the gold difference).

What an annotator perceives is

    d = (u_A − u_B) / τ + length_bias · (words_A − words_B) + position_bias + ε,  ε ~ Logistic(0, 1)

with u the gold utility of the domain; they prefer A where d > 0, so P(A) = σ(d without ε), which is
Bradley-Terry. |d| against their own thresholds gives the strength.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from data.schemas import STRENGTHS, Domain, SafetyLabel, Strength
from data.simulation.gold import Gold

NUM_ANNOTATORS = 8
THRESHOLDS = (5.0, 3.0, 1.3)
"""|d| from which a preference is significant, clear, slight; below the last it is negligible."""
SAFE_UTILITY = 0.5
"""On an unsafe request: what not violating is worth before the answer's manner counts."""


@dataclass(frozen=True, kw_only=True)
class Annotator:
    """One person's way of judging."""

    annotator_id: str
    temperature: float
    """τ in units of utility: how large a difference is one logit."""
    skill: float
    """Probability of looking at the answers at all; otherwise the choice is noise and bias."""
    length_bias: float
    """Logits per word more."""
    position_bias: float
    """Logits in favour of the first answer."""
    threshold_scale: float
    """Multiplies `THRESHOLDS`: who says "significantly" easily has less than 1."""
    seconds: float
    """Mean time per comparison."""


@dataclass(frozen=True)
class Judgement:
    """One annotator's choice between A and B."""

    prefers_first: bool
    strength: Strength
    safety_label: SafetyLabel | None
    seconds: float


def draw_annotators(seed: int) -> list[Annotator]:
    """The team of a world."""
    rng = random.Random(f"annotators-{seed}")
    return [
        Annotator(
            annotator_id=f"annotator-{number}",
            temperature=rng.uniform(0.1, 0.17),
            skill=rng.uniform(0.92, 1.0),
            length_bias=rng.uniform(0.0, 0.05),
            position_bias=rng.uniform(-0.1, 0.3),
            threshold_scale=rng.uniform(0.85, 1.15),
            seconds=rng.uniform(20, 60),
        )
        for number in range(1, NUM_ANNOTATORS + 1)
    ]


def utility(gold: Gold, domain: Domain) -> float:
    """What the guidelines of a domain ask the annotator to prefer, in [0, 1].

    Safety guidelines: a violation is worth nothing; otherwise the manner of answering counts.
    """
    if domain == "helpfulness":
        return gold.helpfulness
    return 0.0 if gold.violation else SAFE_UTILITY + (1 - SAFE_UTILITY) * gold.helpfulness


def compare(
    annotator: Annotator,
    golds: tuple[Gold, Gold],
    num_words: tuple[int, int],
    domain: Domain,
    rng: random.Random,
) -> Judgement:
    """One comparison of two answers A and B to the same dialogue.

    For safety, an unsafe answer is never preferred over a safe one: the form has no such label.
    """
    difference = annotator.length_bias * (num_words[0] - num_words[1]) + annotator.position_bias
    if rng.random() < annotator.skill:
        gap = utility(golds[0], domain) - utility(golds[1], domain)
        difference += gap / annotator.temperature
    difference += _logistic(rng)
    label: SafetyLabel | None = None
    if domain == "safety":
        safe = (not golds[0].violation, not golds[1].violation)
        if safe[0] != safe[1]:
            difference = abs(difference) if safe[0] else -abs(difference)
        label = "both_safe" if all(safe) else "chosen_safe_only" if any(safe) else "both_unsafe"
    return Judgement(
        prefers_first=difference > 0,
        strength=_strength(abs(difference) / annotator.threshold_scale),
        safety_label=label,
        seconds=rng.lognormvariate(math.log(annotator.seconds), 0.4),
    )


def assign(annotators: Sequence[Annotator], overlap: float, rng: random.Random) -> list[Annotator]:
    """Who judges an item: one person, or three with probability `overlap`."""
    return rng.sample(list(annotators), 3 if rng.random() < overlap else 1)


def _strength(size: float) -> Strength:
    for strength, threshold in zip(STRENGTHS, THRESHOLDS, strict=False):
        if size >= threshold:
            return strength
    return STRENGTHS[-1]


def _logistic(rng: random.Random) -> float:
    uniform = min(max(rng.random(), 1e-12), 1 - 1e-12)
    return math.log(uniform / (1 - uniform))

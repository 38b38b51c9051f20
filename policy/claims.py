"""What Llama 2 says about optimising a policy against its rewards, judged on the built-in world.

The paper shows it by figures and by what people preferred. Here every response has a known gold
score, so that the view of the reward models and the truth can be told apart. What it could not show
is from Gao et al. 2023 (arXiv 2210.10760): gold against proxy score, and best of N at equal KL.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from policy.best_of_n import expected_maxima, expected_medians, sizes
from policy.claim_figures import (
    best_of_n_kl,
    best_temperature,
    gold_at_kl,
    gold_score,
    helpfulness,
    late_change,
    straightness,
    table_of,
    violations,
    wins,
)
from rlhf.claims import Claim, Measure, Unit, slope

SFT, RS, PPO = "sft", "rejection_sampling", "ppo"
"""The fine-tuned model, its first round of rejection sampling, and PPO after that."""
LAST_ROUND, ALL_ROUNDS = "last_round", "all_rounds"
"""The second round, which learned its own samples alone, or those of the first as well."""
NO_PENALTY, PENALTY, NO_SAFETY = "no_penalty", "penalty", "no_safety_model"
"""PPO from the fine-tuned model: with β = 0, with 0.01, and so with the helpfulness model alone."""
MISSING_KINDS = ("list", "format")
"""Kinds of prompts that the second round lacks: answers of a fixed form, as rhymed poems are."""
BEST_OF = 16
"""N of Figure 8; the paper's best temperatures are those for 10 to 100 samples."""
FLAT = 0.9
"""The median is flat where it keeps away from at least so much of the maximum's rise."""
LITTLE = 0.02
"""Equal helpfulness, and a gold score that does not fall: at most two points less."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the policies of one seed said; the frames are those of policy/claim_figures.py."""

    best_of: pd.DataFrame
    """Of the fine-tuned model at temperature 1: K per prompt."""
    sweeps: Mapping[str, pd.DataFrame]
    """SFT and PPO → K per prompt at every `temperature`, of the same prompts."""
    held_out: Mapping[str, pd.DataFrame]
    """Policy → one per held-out prompt, in the same order, with `kl` to the fine-tuned model."""
    runs: Mapping[str, pd.DataFrame]
    """NO_PENALTY and PENALTY → what PPO learned from, with `step`."""


Figure = Callable[[Answers], float]


def judge_claims(seeds: Sequence[Answers]) -> list[Claim]:
    """The seven claims, on the answers of every seed."""
    return [
        _best_of_n(seeds),
        _temperature(seeds),
        _ppo_after_rejection_sampling(seeds),
        _earlier_rounds(seeds),
        _safety_model(seeds),
        _over_optimisation(seeds),
        _equal_kl(seeds),
    ]


def _measure(
    seeds: Sequence[Answers],
    name: str,
    figure: Figure,
    above: float | None = 0.0,
    unit: Unit = "points",
) -> Measure:
    return Measure(name=name, values=tuple(map(figure, seeds)), above=above, unit=unit)


def _best_of_n(seeds: Sequence[Answers]) -> Claim:
    def curve(seed: Answers) -> tuple[list[int], list[float], list[float]]:
        scores = table_of(seed.best_of, "combined_score")
        numbers = sizes(scores.shape[1])
        both = [(expected_maxima(scores, n), expected_medians(scores, n)) for n in numbers]
        return numbers, [float(m.mean()) for m, _ in both], [float(m.mean()) for _, m in both]

    def rise(seed: Answers) -> float:
        numbers, maxima, _ = curve(seed)
        return slope(np.log2(numbers).tolist(), maxima)

    def straighter(seed: Answers) -> float:
        numbers, maxima, _ = curve(seed)
        return straightness(np.log2(numbers).tolist(), maxima) - straightness(numbers, maxima)

    def flat(seed: Answers) -> float:
        numbers, _, medians = curve(seed)
        return 1 - abs(slope(np.log2(numbers).tolist(), medians)) / rise(seed)

    def last_gain(seed: Answers) -> float:
        gains = np.diff(curve(seed)[1])
        return float(gains[-1] / gains[0])

    return Claim(
        sentence="The maximum of N scores grows like log N, the median stays flat.",
        source="Figure 7",
        measures=(
            _measure(seeds, "maximum: rise per doubling of N", rise, unit="coefficient"),
            _measure(seeds, "R² of a line in log N − in N", straighter, unit="coefficient"),
            _measure(seeds, "median: 1 − slope / the maximum's", flat, FLAT, "coefficient"),
            _measure(seeds, "gain of the last doubling / first", last_gain, None, "coefficient"),
        ),
    )


def _temperature(seeds: Sequence[Answers]) -> Claim:
    def best(seed: Answers, policy: str) -> float:
        return best_temperature(seed.sweeps[policy], BEST_OF)

    return Claim(
        sentence=f"After RLHF the best of {BEST_OF} scores highest at a higher temperature.",
        source="Figure 8",
        measures=(
            _measure(seeds, "PPO − SFT", lambda s: best(s, PPO) - best(s, SFT), 0, "coefficient"),
            _measure(seeds, "PPO", lambda s: best(s, PPO), None, "coefficient"),
            _measure(seeds, "SFT", lambda s: best(s, SFT), None, "coefficient"),
        ),
    )


def _ppo_after_rejection_sampling(seeds: Sequence[Answers]) -> Claim:
    def duel(theirs: str) -> Figure:
        return lambda s: wins(s.held_out[PPO], s.held_out[theirs])

    def gold(policy: str) -> Figure:
        return lambda s: gold_score(s.held_out[policy])

    return Claim(
        sentence="PPO after rejection sampling beats rejection sampling alone, and SFT.",
        source="Section 3.2.3",
        measures=(
            _measure(seeds, "wins against RS", duel(RS), 0.5),
            _measure(seeds, "wins against SFT", duel(SFT), 0.5),
            _measure(seeds, "gold score of SFT", gold(SFT), None),
            _measure(seeds, "gold score of RS", gold(RS), None),
            _measure(seeds, "gold score of RS, then PPO", gold(PPO), None),
        ),
    )


def _earlier_rounds(seeds: Sequence[Answers]) -> Claim:
    def lead(ours: str, kinds: Sequence[str] | None = MISSING_KINDS) -> Figure:
        """Of a policy over the round that learned its own samples alone."""
        return lambda s: (
            gold_score(s.held_out[ours], kinds) - gold_score(s.held_out[LAST_ROUND], kinds)
        )

    return Claim(
        sentence="A round that learns its own samples alone forgets; with all earlier ones, less.",
        source="Section 3.2.3",
        measures=(
            _measure(seeds, "missing kinds: round 1 − last alone", lead(RS)),
            _measure(seeds, "missing kinds: all rounds − last alone", lead(ALL_ROUNDS)),
            _measure(seeds, "all kinds: all rounds − last alone", lead(ALL_ROUNDS, None), None),
        ),
    )


def _safety_model(seeds: Sequence[Answers]) -> Claim:
    def halved(seed: Answers) -> float:
        return violations(seed.held_out[NO_SAFETY]) / 2 - violations(seed.held_out[PENALTY])

    def more_helpful(seed: Answers) -> float:
        return helpfulness(seed.held_out[PENALTY]) - helpfulness(seed.held_out[NO_SAFETY])

    def violating(policy: str) -> Figure:
        return lambda s: violations(s.held_out[policy])

    return Claim(
        sentence="A safety reward model halves violations at equal helpfulness.",
        source="Section 4.2",
        measures=(
            _measure(seeds, "half the violations without − with", halved),
            _measure(seeds, "helpfulness: with − without", more_helpful, -LITTLE),
            _measure(seeds, "violations with", violating(PENALTY), None),
            _measure(seeds, "violations without", violating(NO_SAFETY), None),
        ),
    )


def _over_optimisation(seeds: Sequence[Answers]) -> Claim:
    def change(run: str, column: str) -> Figure:
        return lambda s: late_change(s.runs[run], column)

    def proxy(run: str, above: float | None) -> Measure:
        name = f"{named[run]}: rise of the proxy"
        return _measure(seeds, name, change(run, "combined_score"), above, "coefficient")

    named = {NO_PENALTY: "β = 0", PENALTY: "β = 0.01"}
    return Claim(
        sentence="With β = 0 the proxy rises while the gold score falls; β = 0.01 avoids it.",
        source="Section 3.2.3; Gao et al.",
        measures=(
            proxy(NO_PENALTY, 0),
            _measure(seeds, "β = 0: fall of gold", lambda s: -change(NO_PENALTY, "gold_score")(s)),
            _measure(seeds, "β = 0.01: rise of gold", change(PENALTY, "gold_score"), -LITTLE),
            proxy(PENALTY, None),
        ),
    )


def _equal_kl(seeds: Sequence[Answers]) -> Claim:
    def kl(seed: Answers) -> float:
        return float(seed.held_out[PPO]["kl"].mean())

    def largest(seed: Answers) -> float:
        return best_of_n_kl(table_of(seed.best_of, "gold_score").shape[1])

    def lead(seed: Answers) -> float:
        sweep = seed.sweeps[PPO]
        trained = sweep[sweep["temperature"] == 1]
        return gold_at_kl(seed.best_of, kl(seed)) - gold_score(trained)

    return Claim(
        sentence="At equal KL the best of N has a higher gold score than RS, then PPO.",
        source="Gao et al.",
        measures=(
            _measure(seeds, "gold score: best of N − PPO", lead),
            _measure(seeds, "nats between PPO and SFT", kl, None, "coefficient"),
            _measure(seeds, "nats of the largest N", largest, None, "coefficient"),
        ),
    )

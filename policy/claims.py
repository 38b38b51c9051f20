"""What Llama 2 says about optimising a policy against its rewards, judged on the built-in world.

The paper shows it by figures and by what people preferred. Here every response has a known gold
score, so that the view of the reward models and the truth can be told apart. What it could not show
is from Gao et al. 2023 (arXiv 2210.10760): gold against proxy score, and best of N at equal KL.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from policy.best_of_n import best_of_n_curve
from policy.claim_figures import (
    best_of_n_kl,
    best_temperature,
    gold_at_kl,
    gold_score,
    helpfulness,
    late_change,
    straightness,
    table_of,
    value_of_best,
    violations,
    wins,
)
from rlhf.claims import Claim, Measure, Unit, slope

SFT, RS, PPO = "sft", "rejection_sampling", "ppo"
"""The fine-tuned model, its first round of rejection sampling, and PPO after that."""
LAST_ROUND, ALL_ROUNDS = "last_round", "all_rounds"
"""The second round, which learned its own samples alone, or those of the first as well."""
NO_PENALTY, PENALTY = "no_penalty", "penalty"
"""Long PPO runs from the fine-tuned model, with β = 0 and with β = 0.01."""
BOTH_MODELS, ONE_MODEL = "both_models", "one_model"
"""Short PPO runs from the fine-tuned model, with and without the safety model."""
MISSING_KINDS = ("unsafe",)
"""Kinds of prompts that the second round lacks: those at which the first one gains most, so that
there is something to forget."""
ONE, BOTH = "helpfulness_score", "combined_score"
"""Scores without and with the safety model."""
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
    """Of the fine-tuned model at temperature 1: K per prompt, with helpfulness_score."""
    sweeps: Mapping[str, pd.DataFrame]
    """SFT and PPO → K per prompt at every `temperature`, of the same prompts."""
    held_out: Mapping[str, pd.DataFrame]
    """Policy → one per held-out prompt, in the same order, with `kl` to the fine-tuned model."""
    runs: Mapping[str, pd.DataFrame]
    """NO_PENALTY and PENALTY → what PPO learned from, with `step`."""

    @property
    def ppo_kl(self) -> float:
        """Nats per response between PPO and the fine-tuned model, on the prompts of `best_of`."""
        own = self.held_out[PPO]
        return float(own.loc[own["prompt_id"].isin(self.best_of["prompt_id"]), "kl"].mean())

    @property
    def ppo_gold(self) -> float:
        """Gold score of PPO on the prompts of `best_of`."""
        sweep = self.sweeps[PPO]
        as_best_of = sweep[sweep["temperature"] == 1]
        assert not as_best_of.empty, "the sweep lacks temperature 1"
        return gold_score(as_best_of)


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
    def curve(seed: Answers, side: str) -> tuple[list[float], list[float]]:
        points = best_of_n_curve(table_of(seed.best_of, "combined_score"))
        return [point["n"] for point in points], [point[side] for point in points]

    def rise(seed: Answers, side: str = "maximum") -> float:
        numbers, values = curve(seed, side)
        return slope(np.log2(numbers).tolist(), values)

    def straighter(seed: Answers) -> float:
        numbers, maxima = curve(seed, "maximum")
        return straightness(np.log2(numbers).tolist(), maxima) - straightness(numbers, maxima)

    def flat(seed: Answers) -> float:
        return 1 - abs(rise(seed, "median")) / rise(seed)

    def last_gain(seed: Answers) -> float:
        gains = np.diff(curve(seed, "maximum")[1])
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
    def best(policy: str, value: str = BOTH) -> Figure:
        return lambda s: best_temperature(s.sweeps[policy], BEST_OF, value)

    def rise(s: Answers) -> float:
        return best(PPO)(s) - best(SFT)(s)

    return Claim(
        sentence=f"After RLHF the best of {BEST_OF} scores highest at a higher temperature.",
        source="Figure 8",
        measures=(
            _measure(seeds, "PPO − SFT", rise, 0, "coefficient"),
            _measure(seeds, "PPO", best(PPO), None, "coefficient"),
            _measure(seeds, "SFT", best(SFT), None, "coefficient"),
            _measure(seeds, "PPO, best by gold", best(PPO, "gold_score"), None, "coefficient"),
            _measure(seeds, "SFT, best by gold", best(SFT, "gold_score"), None, "coefficient"),
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
            _measure(seeds, "unsafe prompts: round 1 − last alone", lead(RS)),
            _measure(seeds, "unsafe prompts: all rounds − last alone", lead(ALL_ROUNDS)),
            _measure(seeds, "all prompts: all rounds − last alone", lead(ALL_ROUNDS, None), None),
        ),
    )


def _safety_model(seeds: Sequence[Answers]) -> Claim:
    def halved(seed: Answers) -> float:
        return violations(seed.held_out[ONE_MODEL]) / 2 - violations(seed.held_out[BOTH_MODELS])

    def more_helpful(seed: Answers) -> float:
        return helpfulness(seed.held_out[BOTH_MODELS]) - helpfulness(seed.held_out[ONE_MODEL])

    def violating(policy: str) -> Figure:
        return lambda s: violations(s.held_out[policy])

    def best(seed: Answers, scores: str, domain: str, value: str) -> float:
        own = seed.best_of[seed.best_of["domain"] == domain]
        return value_of_best(own, scores, value, BEST_OF)

    def halved_best(seed: Answers) -> float:
        one, both = (best(seed, scores, "safety", "violation") for scores in (ONE, BOTH))
        return one / 2 - both

    def more_helpful_best(seed: Answers) -> float:
        value = "gold_helpfulness"
        one, both = (best(seed, scores, "helpfulness", value) for scores in (ONE, BOTH))
        return both - one

    return Claim(
        sentence="A safety reward model halves violations at equal helpfulness.",
        source="Section 4.2",
        measures=(
            _measure(seeds, "PPO: half the violations without − with", halved),
            _measure(seeds, "PPO: helpfulness with − without", more_helpful, -LITTLE),
            _measure(seeds, "PPO: violations with", violating(BOTH_MODELS), None),
            _measure(seeds, "PPO: violations without", violating(ONE_MODEL), None),
            _measure(seeds, f"best of {BEST_OF}: half without − with", halved_best),
            _measure(
                seeds, f"best of {BEST_OF}: helpfulness with − without", more_helpful_best, -LITTLE
            ),
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
    def lead(seed: Answers) -> float:
        return gold_at_kl(seed.best_of, seed.ppo_kl) - seed.ppo_gold

    def largest(seed: Answers) -> float:
        return best_of_n_kl(table_of(seed.best_of, "gold_score").shape[1])

    return Claim(
        sentence="At equal KL the best of N has a higher gold score than RS, then PPO.",
        source="Gao et al.",
        measures=(
            _measure(seeds, "gold score: best of N − PPO", lead),
            _measure(seeds, "nats of PPO", lambda s: s.ppo_kl, None, "coefficient"),
            _measure(seeds, "nats of the largest N", largest, None, "coefficient"),
        ),
    )

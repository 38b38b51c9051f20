"""The verdicts on the claims about policies, on answers made by hand."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from policy.claims import (
    ALL_ROUNDS,
    BOTH_MODELS,
    LAST_ROUND,
    NO_PENALTY,
    ONE_MODEL,
    PENALTY,
    PPO,
    RS,
    SFT,
    Answers,
    judge_claims,
)

NORMAL_QUANTILES = [-1.86, -1.3, -0.98, -0.74, -0.53, -0.34, -0.17, 0.0]
NORMAL_QUANTILES += [-q for q in reversed(NORMAL_QUANTILES)]


def sampled(spread: float, golds: Sequence[float] | None = None) -> pd.DataFrame:
    """16 samples of a harmless prompt, scored as if drawn from a normal distribution."""
    scores = spread * np.array(NORMAL_QUANTILES)
    own = {"prompt_id": "p", "domain": "helpfulness", "combined_score": scores}
    worth = {"gold_score": scores if golds is None else golds, "gold_helpfulness": 0.5}
    return pd.DataFrame(own | worth | {"helpfulness_score": scores, "violation": False})


def with_unsafe(harmless: pd.DataFrame, right: str = "combined_score") -> pd.DataFrame:
    """And the same of an unsafe one: the first half violate, which one of the scorers sees."""
    unsafe = harmless.assign(prompt_id="u", domain="safety", violation=[True] * 8 + [False] * 8)
    wrong = {"combined_score", "helpfulness_score"} - {right}
    return pd.concat([harmless, unsafe.assign(**{name: -unsafe[name] for name in wrong})])


def sweep(best: float, by_gold: float) -> pd.DataFrame:
    """Scores spread most at one of three temperatures; gold scores, ½ at 1, rise up to another."""
    slope = 1 if by_gold > 1 else -1
    return pd.concat(
        [
            sampled(2 - abs(t - best), [0.5 + slope * (t - 1)] * 16).assign(temperature=t)
            for t in (0.8, 1.0, 1.2)
        ]
    )


def held_out(helpful: float, violating: int, kl: float = 1.0) -> pd.DataFrame:
    """Six harmless prompts and ten unsafe ones; the first of each is one of the samples', and at
    the others PPO is further away."""
    rows = [{"kind": "fact", "domain": "helpfulness", "gold_helpfulness": helpful}] * 6
    rows = [row | {"violation": False, "gold_score": helpful} for row in rows]
    for number in range(10):
        worth = {"violation": number < violating, "gold_score": float(number >= violating)}
        rows.append({"kind": "unsafe", "domain": "safety", "gold_helpfulness": 0.0} | worth)
    names = ["p", *"abcde", "u", *"ABCDEFGHI"]
    far = [kl + 4 * (name not in "pu") for name in names]
    return pd.DataFrame(rows).assign(prompt_id=names, kl=far)


def run(proxy: Sequence[float], gold: Sequence[float]) -> pd.DataFrame:
    return pd.DataFrame({"step": range(4), "combined_score": proxy, "gold_score": gold})


@pytest.fixture
def as_in_the_papers() -> Answers:
    """A seed in which every claim is true."""
    return Answers(
        best_of=with_unsafe(sampled(1.0, np.linspace(0.2, 0.9, 16).tolist())),
        sweeps={SFT: sweep(0.8, by_gold=1.2), PPO: sweep(1.0, by_gold=0.8)},
        held_out={
            SFT: held_out(0.4, 6),
            RS: held_out(0.5, 2),
            PPO: held_out(0.6, 1, kl=1.5),
            LAST_ROUND: held_out(0.5, 4),
            ALL_ROUNDS: held_out(0.5, 3),
            BOTH_MODELS: held_out(0.5, 2),
            ONE_MODEL: held_out(0.5, 6),
        },
        runs={
            NO_PENALTY: run([0, 1, 2, 3], [0.5, 0.6, 0.5, 0.3]),
            PENALTY: run([0, 1, 1.5, 2], [0.5, 0.6, 0.6, 0.6]),
        },
    )


def verdicts(answers: Answers) -> list[str]:
    """Of two seeds, alike."""
    return [claim.verdict for claim in judge_claims([answers, answers])]


def test_all_claims_hold_where_they_are_true(as_in_the_papers: Answers) -> None:
    claims = judge_claims([as_in_the_papers] * 2)
    assert {c.sentence: c.verdict for c in claims} == {c.sentence: "holds" for c in claims}
    best, warmer, beats, rounds, safety, over, equal = (
        [measure.interval.mean for measure in claim.measures] for claim in claims
    )
    assert warmer == pytest.approx([0.2, 1.0, 0.8, 0.8, 1.2])
    assert beats[:2] == [1.0, 1.0]  # nothing is lost, to RS or to SFT
    # (6 · 0.6 + 9) / 16 for PPO, (6 · 0.5 + 8) / 16 for RS, (6 · 0.4 + 4) / 16 for SFT
    assert beats[2:] == pytest.approx([0.4, 0.6875, 0.7875])
    # unsafe prompts: 0.8 − 0.6 and 0.7 − 0.6; of all sixteen, one is answered better
    assert rounds == pytest.approx([0.2, 0.1, 1 / 16])
    # 0.6 / 2 − 0.2; of 16 the best by the helpfulness model violates, the other does not
    assert safety == pytest.approx([0.1, 0.0, 0.2, 0.6, 0.5, 0.0])
    assert over == pytest.approx([2, 0.3, 0.0, 1])
    # Best of n is the i-th of 16, i = 17 n / (n + 1) on average: of 8 worth 0.2 + 0.7 · 14.11 / 15,
    # of 16 0.9. The root of 1.5 nats is 49.5 % of the way from that of 1.204 (8) to 1.835 (16).
    # (0.858519 + 0.494877 · 0.041481) − 0.5 for PPO
    assert equal == pytest.approx([0.379047, 1.5, 1.835089], abs=1e-5)
    assert best[2] == pytest.approx(1)  # the median of what is symmetric does not move


@pytest.mark.parametrize(
    ("place", "changed"),
    [
        (2, {PPO: held_out(0.4, 3)}),
        (3, {LAST_ROUND: held_out(0.6, 2)}),  # it forgets nothing
        (3, {ALL_ROUNDS: held_out(0.6, 4)}),  # nor do all rounds help
        (4, {BOTH_MODELS: held_out(0.5, 4)}),  # fewer, not half as many
        (4, {BOTH_MODELS: held_out(0.47, 2)}),  # at the cost of helpfulness
    ],
)
def test_a_claim_fails_where_policies_do(
    as_in_the_papers: Answers, place: int, changed: dict[str, pd.DataFrame]
) -> None:
    answers = replace(as_in_the_papers, held_out={**as_in_the_papers.held_out, **changed})
    assert verdicts(answers)[place] == "does not hold"


def test_claims_about_samples_fail(as_in_the_papers: Answers) -> None:
    cooler = {SFT: sweep(1.2, by_gold=1.2), PPO: sweep(1.0, by_gold=0.8)}
    assert verdicts(replace(as_in_the_papers, sweeps=cooler))[1] == "does not hold"
    blind = with_unsafe(sampled(1.0), right="helpfulness_score")
    assert verdicts(replace(as_in_the_papers, best_of=blind))[4] == "does not hold"
    worthless = with_unsafe(sampled(1.0, np.linspace(0.5, 0.2, 16).tolist()))
    assert verdicts(replace(as_in_the_papers, best_of=worthless))[6] == "does not hold"
    # Fifteen equal samples and one better one: a straight line in N
    rare = worthless.assign(combined_score=([0.0] * 15 + [1.0]) * 2)
    assert verdicts(replace(as_in_the_papers, best_of=rare))[0] == "does not hold"
    # The best half is far above the other: the median starts in the middle of both and stays
    skewed = worthless.assign(combined_score=([0.0] * 5 + [5.0] * 11) * 2)
    assert verdicts(replace(as_in_the_papers, best_of=skewed))[0] == "does not hold"


@pytest.mark.parametrize(
    ("name", "proxy", "gold"),
    [
        (NO_PENALTY, [0, 1, 2, 3], [0.5, 0.5, 0.5, 0.5]),  # gold stays
        (NO_PENALTY, [0, 1, 1, 1], [0.5, 0.6, 0.5, 0.3]),  # nothing learned
        (PENALTY, [0, 1, 1, 1], [0.5, 0.6, 0.6, 0.5]),  # falls in spite of it
    ],
)
def test_over_optimisation_fails(
    as_in_the_papers: Answers, name: str, proxy: list[float], gold: list[float]
) -> None:
    runs = {**as_in_the_papers.runs, name: run(proxy, gold)}
    assert verdicts(replace(as_in_the_papers, runs=runs))[5] == "does not hold"

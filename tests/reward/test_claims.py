"""The verdicts on the paper's claims, on scores made by hand."""

import numpy as np
import pandas as pd
import pytest

from data.schemas import STRENGTHS
from reward.claims import (
    FRACTIONS,
    MARGIN_MODELS,
    WITHOUT_AUXILIARY,
    Pairs,
    accuracy,
    bimodality,
    judge_claims,
    read_pairs,
    unsafe_recall,
)

DOMAINS = ("helpfulness", "safety")


def rows(*cells: tuple[str, str, str | None, float, float]) -> pd.DataFrame:
    names = ["domain", "strength", "safety_label", "chosen", "rejected"]
    return pd.DataFrame(list(cells), columns=names)


def with_accuracy(right: dict[tuple[str, str], int], split: float = 0.0) -> pd.DataFrame:
    """Ten comparisons of each domain and strength, so many of them ranked as people did.

    `split` moves half of the comparisons apart from the other half.
    """
    return rows(
        *(
            (domain, strength, "both_safe", place + lead, place - lead)
            for (domain, strength), count in right.items()
            for number in range(10)
            for place in [split * (number % 2)]
            for lead in [(1 if number < count else -1) * (number + 1) / 10]
        )
    )


def test_accuracy_counts_equal_scores_half() -> None:
    pairs = rows(
        ("helpfulness", "better", None, 1, 0),
        ("helpfulness", "better", None, 0, 0),
        ("helpfulness", "slightly_better", None, 0, 1),
        ("safety", "better", None, 0, 1),
    )
    assert accuracy(pairs, "helpfulness") == 0.5  # (1 + ½ + 0) / 3
    assert accuracy(pairs, "helpfulness", "better") == 0.75
    assert accuracy(pairs, "safety") == 0


def test_recall_of_unsafe_responses() -> None:
    pairs = rows(
        ("safety", "better", "both_unsafe", -1, -1),  # both found
        ("safety", "better", "chosen_safe_only", -1, 1),  # the rejected one missed
        ("safety", "better", "both_safe", -1, -1),  # nothing unsafe here
        ("helpfulness", "better", None, -1, -1),  # nobody looked
    )
    assert unsafe_recall(pairs) == pytest.approx(2 / 3)


def test_bimodality_of_known_distributions() -> None:
    # Two points: skewness 0, kurtosis 1. Of weights p, 1 − p the coefficient is 1 as well.
    assert bimodality([-1, 1]) == pytest.approx(1)
    assert bimodality([0, 0, 0, 1]) == pytest.approx(1)
    # Uniform: kurtosis 9/5. Normal: 3.
    assert bimodality(np.linspace(0, 1, 10_001)) == pytest.approx(5 / 9, abs=1e-3)
    normal = np.random.default_rng(0).normal(size=200_000)
    assert bimodality(normal) == pytest.approx(1 / 3, abs=5e-3)
    assert bimodality(3 * normal + 7) == pytest.approx(bimodality(normal))


def test_scores_become_pairs_by_identity() -> None:
    """Not by place: the rejected rows stand in the opposite order."""
    common = {"domain": "safety", "strength": "better", "safety_label": "both_safe"}
    scores = pd.DataFrame(
        [
            common | {"comparison_id": name, "side": side, "safety_score": score}
            for name, side, score in (
                ("a", "chosen", 1.0),
                ("b", "chosen", 2.0),
                ("b", "rejected", 20.0),
                ("a", "rejected", 10.0),
            )
        ]
    )
    pairs = read_pairs(scores, "safety")
    assert pairs.loc["a", ["chosen", "rejected"]].tolist() == [1, 10]
    assert pairs.loc["b", ["chosen", "rejected"]].tolist() == [2, 20]


@pytest.fixture
def as_in_the_paper() -> Pairs:
    """Two seeds, alike, on which every claim is true."""
    falling = dict(zip(STRENGTHS, (9, 8, 7, 6), strict=True))
    good = {(d, s): n for d in DOMAINS for s, n in falling.items()}

    def worse(domain: str, by: int = 1) -> dict[tuple[str, str], int]:
        return {(d, s): n - by * (d == domain) for (d, s), n in good.items()}

    safety = with_accuracy(worse("helpfulness"))
    unsafe = safety.assign(safety_label="both_unsafe")
    below = unsafe.assign(chosen=unsafe["chosen"] - 9, rejected=unsafe["rejected"] - 9)
    plain = good | {("helpfulness", STRENGTHS[0]): 8}
    models = {
        "helpfulness": with_accuracy(worse("safety"), split=4),
        "safety": below,
        WITHOUT_AUXILIARY: unsafe,
        MARGIN_MODELS["none"]: with_accuracy(plain),
        MARGIN_MODELS["large"]: with_accuracy(good, split=40),
        FRACTIONS[0.0625]: with_accuracy(worse("helpfulness", 4)),
        FRACTIONS[0.25]: with_accuracy(worse("helpfulness", 2)),
    }
    return {name: [pairs, pairs] for name, pairs in models.items()}


def test_all_claims_hold_where_they_are_true(as_in_the_paper: Pairs) -> None:
    claims = {claim.source: claim for claim in judge_claims(as_in_the_paper)}
    assert {source: c.verdict for source, c in claims.items()} == dict.fromkeys(claims, "holds")
    assert len(claims) == 6
    # helpfulness 9 8 7 6, the safety model one less each: 0.75 − 0.65 on both domains
    assert [m.interval.mean for m in claims["Tables 7, 8"].measures] == pytest.approx([0.1, 0.1])
    # ten percentage points from one strength to the next
    assert [m.interval.mean for m in claims["Table 8"].measures] == pytest.approx([0.1] * 4)
    # with it all scores are below 0; without it one of each comparison
    gain, with_loss, without, _ = claims["Table 29"].measures
    assert with_loss.interval.mean == 1
    assert without.interval.mean == 0.5
    assert gain.interval.mean == 0.5


@pytest.mark.parametrize(
    ("source", "first", "second"),
    [
        ("Tables 7, 8", "safety", "helpfulness"),
        ("Table 28", MARGIN_MODELS["large"], MARGIN_MODELS["none"]),
        ("Table 29", "safety", WITHOUT_AUXILIARY),
        ("Figure 6", "helpfulness", FRACTIONS[0.0625]),
        ("Figure 27", MARGIN_MODELS["large"], MARGIN_MODELS["none"]),
    ],
)
def test_a_claim_fails_where_two_models_change_places(
    as_in_the_paper: Pairs, source: str, first: str, second: str
) -> None:
    models = as_in_the_paper
    changed = {**models, first: models[second], second: models[first]}
    verdicts = {claim.source: claim.verdict for claim in judge_claims(changed)}
    assert verdicts[source] == "does not hold"


def test_a_claim_as_json(as_in_the_paper: Pairs) -> None:
    record = judge_claims(as_in_the_paper)[0].to_record()
    assert record["verdict"] == "holds"
    assert set(record["measures"][0]) == {
        "name", "values", "above", "unit", "verdict", "mean", "low", "high"
    }  # fmt: skip

"""What Llama 2 says about its reward models, judged on the scores of models trained on our data."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from data.schemas import STRENGTHS
from rlhf.claims import Claim, Measure, slope

HELPFULNESS, SAFETY = "helpfulness", "safety"
"""The two models as `rlhf reward train` makes them."""
MARGIN_MODELS = {"none": "no_margin", "small": HELPFULNESS, "large": "large_margin"}
"""Margin of Table 27 → helpfulness model trained with it."""
FRACTIONS = {0.0625: "sixteenth", 0.25: "quarter", 1.0: HELPFULNESS}
"""Share of the comparisons → helpfulness model trained on it."""
WITHOUT_AUXILIARY = "no_auxiliary"
"""The safety model without its auxiliary loss."""
CLEAREST, FAINTEST = STRENGTHS[0], STRENGTHS[-1]
LITTLE = 0.02
"""What a margin may cost on negligibly better ones: two points (the paper's large one: 0.2)."""

Pairs = Mapping[str, Sequence[pd.DataFrame]]
"""Model → per seed the test comparisons as rows: domain, strength, safety_label, chosen and
rejected (scores)."""


def judge_claims(pairs: Pairs) -> list[Claim]:
    """The six claims, in the paper's order of tables and then of figures."""
    return [
        _own_domain(pairs),
        _strength(pairs),
        _margin(pairs),
        _auxiliary_loss(pairs),
        _data(pairs),
        _bimodality(pairs),
    ]


def read_pairs(scores: pd.DataFrame, model: str) -> pd.DataFrame:
    """Rows of `Pairs` from the scores.parquet of `rlhf reward train`; `model` is a domain there."""
    by_side = [scores[scores["side"] == side] for side in ("chosen", "rejected")]
    chosen, rejected = (part.set_index("comparison_id")[f"{model}_score"] for part in by_side)
    rows = by_side[0].set_index("comparison_id")[["domain", "strength", "safety_label"]]
    return rows.assign(chosen=chosen, rejected=rejected)


def accuracy(pairs: pd.DataFrame, domain: str, strength: str | None = None) -> float:
    """Share of a domain's comparisons, of one strength or all, that a model ranks as people did.

    Equal scores count half.
    """
    own = pairs[pairs["domain"] == domain]
    own = own if strength is None else own[own["strength"] == strength]
    difference = own["chosen"] - own["rejected"]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def unsafe_recall(pairs: pd.DataFrame) -> float:
    """Share of the responses that people labelled unsafe with σ(score) < ½ (Table 29)."""
    chosen = pairs.loc[pairs["safety_label"] == "both_unsafe", "chosen"]
    has_unsafe = pairs["safety_label"].isin(("chosen_safe_only", "both_unsafe"))
    unsafe = pd.concat([chosen, pairs.loc[has_unsafe, "rejected"]])
    return float((unsafe < 0).mean())


def bimodality(scores: ArrayLike) -> float:
    """Sarle's coefficient (skewness² + 1) / kurtosis of values [N].

    1 for two points of any weight, 5/9 for a uniform and 1/3 for a normal distribution; neither
    shift nor scale of the scores changes it.
    """
    values = np.asarray(scores, dtype=float)
    z = (values - values.mean()) / values.std()
    return float((np.mean(z**3) ** 2 + 1) / np.mean(z**4))


def _own_domain(pairs: Pairs) -> Claim:
    measures = []
    for domain, other in ((HELPFULNESS, SAFETY), (SAFETY, HELPFULNESS)):
        lead = _difference(pairs, domain, other, partial(accuracy, domain=domain))
        name = f"on {domain}: {domain} model − {other} model"
        measures.append(Measure(name=name, values=lead))
    return Claim(
        sentence="Each model is better on its own domain.",
        source="Tables 7, 8",
        measures=tuple(measures),
    )


def _strength(pairs: Pairs) -> Claim:
    """Accuracy per step of strength, from negligibly to significantly, in all four cells."""
    steps = range(len(STRENGTHS))
    measures = []
    for model in (HELPFULNESS, SAFETY):
        for domain in (HELPFULNESS, SAFETY):
            rises = [
                slope(steps, [accuracy(p, domain, strength) for strength in STRENGTHS[::-1]])
                for p in pairs[model]
            ]
            name = f"{model} model on {domain}: accuracy per step of strength"
            measures.append(Measure(name=name, values=tuple(rises)))
    return Claim(
        sentence="Accuracy grows with the strength of the preference.",
        source="Table 8",
        measures=tuple(measures),
    )


def _margin(pairs: Pairs) -> Claim:
    measures = []
    for strength, above in ((CLEAREST, 0.0), (FAINTEST, -LITTLE)):
        for margin in ("small", "large"):
            gain = _difference(
                pairs,
                MARGIN_MODELS[margin],
                MARGIN_MODELS["none"],
                partial(accuracy, domain=HELPFULNESS, strength=strength),
            )
            name = f"{strength.replace('_', ' ')}: {margin} margin − none"
            measures.append(Measure(name=name, values=gain, above=above))
    return Claim(
        sentence='A margin helps on "significantly better" and costs little on "negligibly".',
        source="Table 28",
        measures=tuple(measures),
    )


def _auxiliary_loss(pairs: Pairs) -> Claim:
    recalls = {
        name: tuple(unsafe_recall(p) for p in pairs[model])
        for name, model in (("with", SAFETY), ("without", WITHOUT_AUXILIARY))
    }
    gain = _difference(pairs, SAFETY, WITHOUT_AUXILIARY, unsafe_recall)
    right = _difference(pairs, SAFETY, WITHOUT_AUXILIARY, partial(accuracy, domain=SAFETY))
    return Claim(
        sentence="The auxiliary loss lifts the recall of unsafe responses.",
        source="Table 29",
        measures=(
            Measure(name="recall at σ < ½: with − without", values=gain),
            *(Measure(name=f"recall {n}", values=v, above=None) for n, v in recalls.items()),
            Measure(name="accuracy: with − without", values=right, above=None),
        ),
    )


def _data(pairs: Pairs) -> Claim:
    doublings = [float(np.log2(share)) for share in FRACTIONS]
    measures = []
    for strength in (None, CLEAREST):
        by_share = [
            [accuracy(p, HELPFULNESS, strength) for p in pairs[model]]
            for model in FRACTIONS.values()
        ]
        rises = tuple(slope(doublings, seed) for seed in zip(*by_share, strict=True))
        part = "all" if strength is None else strength.replace("_", " ")
        measures.append(Measure(name=f"{part}: accuracy per doubling of the data", values=rises))
    return Claim(
        sentence="Accuracy grows with the number of comparisons.",
        source="Figure 6",
        measures=tuple(measures),
    )


def _bimodality(pairs: Pairs) -> Claim:
    found = {
        margin: tuple(bimodality(_own_scores(p)) for p in pairs[model])
        for margin, model in MARGIN_MODELS.items()
    }
    measures = [_coefficient(f"{margin} margin", values) for margin, values in found.items()]
    for more, less in (("small", "none"), ("large", "small")):
        rise = tuple(a - b for a, b in zip(found[more], found[less], strict=True))
        name = f"{more} margin − {'none' if less == 'none' else less + ' margin'}"
        measures.append(Measure(name=name, values=rise, unit="coefficient"))
    return Claim(
        sentence="The larger the margin, the more bimodal are the scores (Sarle's coefficient).",
        source="Figure 27",
        measures=tuple(measures),
    )


def _coefficient(name: str, values: tuple[float, ...]) -> Measure:
    return Measure(name=name, values=values, above=None, unit="coefficient")


def _own_scores(pairs: pd.DataFrame) -> pd.Series:
    """Of both responses to helpfulness prompts, over which Figure 27 is drawn."""
    own = pairs[pairs["domain"] == HELPFULNESS]
    return pd.concat([own["chosen"], own["rejected"]])


def _difference(
    pairs: Pairs, first: str, second: str, figure: Callable[[pd.DataFrame], float]
) -> tuple[float, ...]:
    """A figure of one model less that of another, within each seed."""
    both = zip(pairs[first], pairs[second], strict=True)
    return tuple(figure(a) - figure(b) for a, b in both)

"""Charts about reward models of any name; rlhf/plots.py has those of the quickstart's two."""

import altair as alt
import numpy as np
import pandas as pd

from data.schemas import SAFETY_LABELS, STRENGTHS
from rlhf.plot_parts import (
    GRAY,
    Drawing,
    finish,
    histogram,
    histogram_rows,
    line_chart,
    listed,
    percent,
    readable,
    sigmoid,
)

_SIGMA_EDGES = np.linspace(0, 1, 21)


def difference_by_strength(pairs: pd.DataFrame, model: str) -> Drawing:
    """Score of the chosen minus score of the rejected response, by strength (Llama 2, Figure 27).

    Args:
        pairs: model, strength, chosen, rejected, one row per comparison.
        model: which one.
    """
    own = pairs[pairs["model"] == model]
    names = [readable(name) for name in (*STRENGTHS, "not_asked")]
    own = own.assign(
        difference=own["chosen"] - own["rejected"],
        strength=own["strength"].map(readable),
        order=np.where(own["chosen"] < own["rejected"], "wrong", "right"),
    )
    bins = histogram(own, "difference", ["strength"])
    bins["order"] = np.where(bins["low"] < 0, "rejected scored higher", "chosen scored higher")
    found = [name for name in names if name in set(own["strength"])]
    medians = own.groupby("strength")["difference"].median()
    chart = histogram_rows(
        bins,
        row=("strength", found),
        colors=("order", ["chosen scored higher", "rejected scored higher"]),
        x="score of the chosen − score of the rejected response",
    )
    return finish(
        chart,
        f"{model}: the clearer the preference, the further to the right",
        f"Median difference: {listed(medians, found)}. {len(own):,} comparisons.",
    )


def sigma_by_label(pairs: pd.DataFrame, model: str, threshold: float) -> Drawing | None:
    """σ(score) of both responses by safety label; None where nothing is labelled.

    Args:
        pairs: model, safety_label, chosen, rejected, one row per comparison.
        model: which one.
        threshold: on σ; below it the reward rule takes a response for unsafe.
    """
    own = pairs[(pairs["model"] == model) & pairs["safety_label"].notna()]
    if own.empty:
        return None
    long = own.melt("safety_label", ["chosen", "rejected"], var_name="side", value_name="score")
    long = long.assign(label=long["safety_label"].map(readable), sigma=sigmoid(long["score"]))
    labels = [readable(name) for name in SAFETY_LABELS]
    below = long["sigma"].lt(threshold).groupby(long["label"]).mean()
    chart = histogram_rows(
        histogram(long, "sigma", ["label", "side"], _SIGMA_EDGES),
        row=("label", [label for label in labels if label in below]),
        colors=("side", ["chosen", "rejected"]),
        x="σ(score)",
        rule=threshold,
    )
    return finish(
        chart,
        f"{model}: unsafe responses belong left of the line at {threshold}",
        f"Below the line: {listed(below, labels, percent)}. {len(long):,} responses.",
    )


def reliability_curves(curves: pd.DataFrame) -> Drawing:
    """How often a model is right where it is so sure; on the diagonal it is calibrated.

    Args:
        curves: model, confidence, accuracy, low, high, one row per bin.
    """
    names = list(curves["model"].unique())
    chart = line_chart(
        curves,
        x=alt.X(
            "confidence:Q",
            scale=alt.Scale(domain=[0.5, 1]),
            axis=alt.Axis(format="%"),
            title="confidence σ(|difference of scores|), mean of a bin",
        ),
        y=alt.Y("accuracy:Q", axis=alt.Axis(format="%"), title="comparisons ranked as people did"),
        colors=("model", names),
    )
    ends = pd.DataFrame({"confidence": [0.5, 1.0], "accuracy": [0.5, 1.0]})
    diagonal = (
        alt.Chart(ends)
        .mark_line(strokeDash=[4, 3], color=GRAY)
        .encode(x="confidence:Q", y="accuracy:Q")
    )
    most = curves.groupby("model", sort=False)["confidence"].max()
    return finish(
        alt.layer(diagonal, chart),
        "Is a model as often right as it is sure? Below the diagonal it is too sure",
        f"Highest mean confidence of a bin: {listed(most, names, percent)}.",
    )


def scores_by_rating(means: pd.DataFrame) -> Drawing:
    """Mean score for each rating that people gave (Llama 2, Figure 29).

    Args:
        means: model, rating, score, low, high.
    """
    names = list(means["model"].unique())
    chart = line_chart(
        means,
        x=alt.X("rating:Q", axis=alt.Axis(format="d", tickMinStep=1), title="rating by people"),
        y=alt.Y("score:Q", scale=alt.Scale(zero=False), title="mean score"),
        colors=("model", names),
    )
    spans = means.groupby("model", sort=False)["score"].agg(lambda s: s.iloc[-1] - s.iloc[0])
    return finish(
        chart,
        "Scores should rise with people's ratings",
        f"From the lowest to the highest rating: {listed(spans, names)}.",
    )

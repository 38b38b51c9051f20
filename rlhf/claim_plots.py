"""Charts of the paper's figures on reward models: scores by margin, accuracy over the data."""

from collections.abc import Sequence

import altair as alt
import pandas as pd

from rlhf.plot_parts import Drawing, finish, histogram, histogram_rows, line_chart, listed, percent


def scores_by_margin(scores: pd.DataFrame, margins: Sequence[str]) -> Drawing:
    """Scores of both responses by the margin that a model was trained with (Llama 2, Figure 27).

    Args:
        scores: margin, side (chosen or rejected), score, one row per response.
        margins: in the order of the rows.
    """
    chart = histogram_rows(
        histogram(scores, "score", ["margin", "side"]),
        row=("margin", margins),
        colors=("side", ["chosen", "rejected"]),
        x="score",
    )
    spread = scores.groupby("margin")["score"].std()
    return finish(
        chart,
        "Does a larger margin split the scores in two?",
        f"Standard deviation of the scores: {listed(spread, margins)}.",
    )


def accuracy_over_data(curve: pd.DataFrame, strengths: Sequence[str]) -> Drawing:
    """Accuracy over the share of the comparisons that a model learned from (Llama 2, Figure 6).

    Args:
        curve: share, strength, accuracy, low, high, one row per point.
        strengths: in the order of the colors.
    """
    chart = line_chart(
        curve,
        x=alt.X(
            "share:Q",
            scale=alt.Scale(type="log", base=2),
            axis=alt.Axis(format="%", values=sorted(set(curve["share"]))),
            title="share of the comparisons learned from",
        ),
        y=alt.Y("accuracy:Q", axis=alt.Axis(format="%"), scale=alt.Scale(zero=False), title=""),
        colors=("strength", strengths),
    )
    most = curve[curve["share"] == curve["share"].max()]
    return finish(
        chart,
        "Does accuracy grow with the number of comparisons?",
        f"With all: {listed(most.set_index('strength')['accuracy'], strengths, percent)}.",
    )

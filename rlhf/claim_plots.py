"""Charts of claims: scores by margin, accuracy over data, temperatures, scores over the KL."""

from collections.abc import Sequence

import altair as alt
import numpy as np
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


def maxima_by_temperature(curves: pd.DataFrame, policy: str) -> Drawing:
    """Best of N over the sampling temperature, a line for each N (Llama 2, Figure 8).

    Args:
        curves: temperature, n, maximum, one row per point.
        policy: which sampled, as it is written.
    """
    names = [f"N = {n:.0f}" for n in sorted(curves["n"].unique())]
    chart = line_chart(
        curves.assign(n=curves["n"].map("N = {:.0f}".format)),
        x=alt.X("temperature:Q", scale=alt.Scale(zero=False), title="sampling temperature"),
        y=alt.Y("maximum:Q", scale=alt.Scale(zero=False), title="best combined score of N"),
        colors=("n", names),
    )
    best = curves.loc[curves.groupby("n")["maximum"].idxmax()].set_index("n")["temperature"]
    told = ", ".join(f"N = {n:.0f} at {t:g}" for n, t in best.items())
    return finish(
        chart, f"{policy}: more samples, a higher best temperature?", f"Highest with {told}."
    )


def score_by_kl(steps: pd.DataFrame, column: str, title: str) -> Drawing:
    """A score of PPO runs over the root of the KL to where they started (Gao et al., Figure 1).

    Args:
        steps: run, step, kl (nats per response) and the score, one row per run and step.
        column: of the score.
        title: of the score, with its unit.
    """
    names = list(steps["run"].unique())
    chart = line_chart(
        steps.assign(root=np.sqrt(steps["kl"].clip(lower=0))),
        x=alt.X("root:Q", title="√KL, nats per response"),
        y=alt.Y(f"{column}:Q", scale=alt.Scale(zero=False), title=title),
        colors=("run", names),
    )
    told = []
    for name, own in steps.groupby("run", sort=False):
        top, last = own.loc[own[column].idxmax()], own.iloc[-1]
        told.append(
            f"with {name}: {own[column].iloc[0]:.2f} at first, {top[column]:.2f} at most with "
            f"{top['kl']:.1f} nats, {last[column]:.2f} at last with {last['kl']:.1f}"
        )
    return finish(chart, f"Over the KL: {title}", f"{'; '.join(told)}.")


def gold_by_kl(curve: pd.DataFrame, policies: pd.DataFrame) -> Drawing:
    """What best of N is really worth over the root of its KL, and policies beside it.

    Args:
        curve: n, kl, gold_score, one row per N.
        policies: policy, kl, gold_score, of answers to the same prompts.
    """
    names = ["best of N of SFT", *policies["policy"]]
    frame = pd.concat([curve.assign(policy=names[0]), policies])
    chart = line_chart(
        frame.assign(root=np.sqrt(frame["kl"])),
        x=alt.X("root:Q", title="√KL to SFT, nats per response"),
        y=alt.Y("gold_score:Q", scale=alt.Scale(zero=False), title="gold score (0–1)"),
        colors=("policy", names),
    )
    last = curve.iloc[-1]
    told = [f"best of {last['n']:.0f}: {last['gold_score']:.2f} with {last['kl']:.1f} nats"]
    told += [
        f"{row['policy']}: {row['gold_score']:.2f} with {row['kl']:.1f} nats"
        for row in policies.to_dict(orient="records")
    ]
    return finish(chart, "Which is worth more at equal KL?", f"{'; '.join(told)}.")

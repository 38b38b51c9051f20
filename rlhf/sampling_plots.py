"""Charts of what sampling gains: best of N, temperatures, diversity (Llama 2, Figures 7 and 8)."""

import altair as alt
import pandas as pd

from rlhf.plot_parts import Drawing, finish, line_chart, listed, ramp


def best_of_n_by_temperature(curves: pd.DataFrame) -> Drawing:
    """Mean over prompts of the best score of N samples, one line per temperature (Figure 8).

    Args:
        curves: temperature, n, maximum, one row per temperature and N.
    """
    return _over_n(
        curves,
        "maximum",
        "best combined score of N",
        "Which temperature's best of N scores highest?",
    )


def diversity_by_temperature(curves: pd.DataFrame) -> Drawing:
    """Distinct-2 of N samples, one line per temperature.

    Args:
        curves: temperature, n, distinct_2, one row per temperature and N.
    """
    return _over_n(
        curves,
        "distinct_2",
        "distinct-2: different among all pairs of tokens",
        "How different are N samples of a prompt?",
    )


def scores_by_temperature(curves: pd.DataFrame) -> Drawing:
    """Maximum, median and mean of all N samples over the temperature.

    Args:
        curves: temperature, n, maximum, median, mean; the rows of the largest n are shown.
    """
    sides = ["maximum", "median", "mean"]
    most = curves["n"].max()
    last = curves[curves["n"] == most]
    chart = line_chart(
        last.melt("temperature", sides, var_name="measure", value_name="value"),
        x=alt.X("temperature:Q", scale=alt.Scale(zero=False), title="sampling temperature"),
        y=alt.Y("value:Q", scale=alt.Scale(zero=False), title="combined score"),
        colors=("measure", sides),
    )
    told = [f"at {row['temperature']:g} {listed(row, sides)}" for row in last.to_dict("records")]
    return finish(
        chart, f"The best of {most:.0f} samples and what is typical", f"{'; '.join(told)}."
    )


def _over_n(curves: pd.DataFrame, column: str, title: str, look: str) -> Drawing:
    """A line per temperature, cold ones blue and warm ones orange.

    Without intervals: those of neighbours lie over each other, for hard prompts are hard at every
    temperature; what tells them apart is the paired difference of `policy.best_of_n`.
    """
    frame = curves.assign(temperature=curves["temperature"].map("T = {:g}".format))
    names = list(frame["temperature"].unique())
    values = sorted(frame["n"].unique().tolist())
    chart = line_chart(
        frame[["temperature", "n", column]],
        x=alt.X(
            "n:Q",
            scale=alt.Scale(type="log", base=2, nice=False),
            axis=alt.Axis(values=values, format="d"),
            title="samples per prompt, N (log scale)",
        ),
        y=alt.Y(f"{column}:Q", scale=alt.Scale(zero=False), title=title),
        colors=("temperature", names),
        palette=ramp(len(names)),
    )
    last = frame[frame["n"] == values[-1]].set_index("temperature")[column]
    return finish(chart, look, f"At N = {values[-1]:.0f}: {listed(last, names)}.")

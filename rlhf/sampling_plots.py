"""Charts of what sampling gains: best of N, temperatures, diversity (Llama 2, Figures 7 and 8)."""

import altair as alt
import pandas as pd

from rlhf.plot_parts import Drawing, finish, line_chart, listed


def best_of_n_by_temperature(curves: pd.DataFrame) -> Drawing:
    """Mean over prompts of the best score of N samples, one line per temperature (Figure 8).

    Args:
        curves: temperature, n, maximum, low, high (95 %), one row per temperature and N.
    """
    frame = curves.assign(temperature=curves["temperature"].map("{:g}".format))
    names = list(frame["temperature"].unique())
    last = frame[frame["n"] == frame["n"].max()]
    values = sorted(frame["n"].unique().tolist())
    chart = line_chart(
        frame,
        x=alt.X(
            "n:Q",
            scale=alt.Scale(type="log", base=2, nice=False),
            axis=alt.Axis(values=values, format="d"),
            title="samples per prompt, N (log scale)",
        ),
        y=alt.Y("maximum:Q", scale=alt.Scale(zero=False), title="best combined score of N"),
        colors=("temperature", names),
    )
    told = listed(last.set_index("temperature")["maximum"], names)
    return finish(
        chart,
        "Which temperature's best of N scores highest?",
        f"At N = {values[-1]:.0f}, by temperature: {told}. Lines are 95 % intervals.",
    )


def scores_by_temperature(curves: pd.DataFrame) -> Drawing:
    """Maximum, median and mean of all N samples over the temperature.

    Args:
        curves: temperature, n, maximum, median, mean; the rows of the largest n are shown.
    """
    sides = ["maximum", "median", "mean"]
    return _over_temperature(
        curves, sides, "combined score", "What is typical falls before the best of N does"
    )


def diversity_by_temperature(curves: pd.DataFrame) -> Drawing:
    """Distinct-n of all N samples over the temperature.

    Args:
        curves: temperature, n, distinct_1, distinct_2, …; the rows of the largest n are shown.
    """
    sides = [column for column in curves if column.startswith("distinct_")]
    return _over_temperature(
        curves, sides, "different n-grams of a prompt's samples", "Warmer samples are more diverse"
    )


def _over_temperature(curves: pd.DataFrame, sides: list[str], title: str, look: str) -> Drawing:
    last = curves[curves["n"] == curves["n"].max()].rename(
        columns=lambda name: name.replace("_", "-")
    )
    sides = [side.replace("_", "-") for side in sides]
    chart = line_chart(
        last.melt("temperature", sides, var_name="measure", value_name="value"),
        x=alt.X("temperature:Q", scale=alt.Scale(zero=False), title="sampling temperature"),
        y=alt.Y("value:Q", scale=alt.Scale(zero=False), title=title),
        colors=("measure", sides),
    )
    rows = [
        f"at {row['temperature']:g} {listed(row, sides)}" for row in last.to_dict(orient="records")
    ]
    return finish(chart, look, f"{'; '.join(rows)}.")

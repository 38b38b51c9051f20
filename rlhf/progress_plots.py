"""The chart of progress over rounds of RLHF (Llama 2, Figure 11)."""

import altair as alt
import pandas as pd

from rlhf.plot_parts import GRAY, Drawing, color, finish, percent, share_tip

_SIDE = 260
"""Pixels of a panel, which is a square."""


def progress_over_rounds(points: pd.DataFrame) -> Drawing:
    """Win rates of every policy against the first, helpfulness over harmlessness, a panel a judge.

    Args:
        points: judge, policy, and for each of helpfulness and safety the win rate (0 to 1) under
            its name and its 95 % interval (`_low`, `_high`); rows in the order of the policies.
    """
    points = points.assign(order=points.groupby("judge", sort=False).cumcount())
    judges = list(points["judge"].unique())
    axis, scale = alt.Axis(format="%", tickCount=6), alt.Scale(zero=False)
    x = alt.X("safety:Q", axis=axis, scale=scale, title="harmlessness: wins on unsafe prompts")
    y = alt.Y(
        "helpfulness:Q", axis=axis, scale=scale, title="helpfulness: wins on harmless prompts"
    )
    base = alt.Chart().encode(x=x, y=y, color=color("judge", judges, legend=False))
    tips = ["policy:N", *(share_tip(name) for name in ("safety", "helpfulness"))]
    layers = [
        _even_odds().encode(x=alt.datum(0.5)),
        _even_odds().encode(y=alt.datum(0.5)),
        base.mark_rule(opacity=0.4).encode(x="safety_low:Q", x2="safety_high:Q"),
        base.mark_rule(opacity=0.4).encode(y="helpfulness_low:Q", y2="helpfulness_high:Q"),
        base.mark_line().encode(order="order:Q"),
        base.mark_point(filled=True, size=50).encode(tooltip=tips),
        base.mark_text(align="left", dx=7, dy=9).encode(text="policy:N", color=alt.value(GRAY)),
    ]
    panel = alt.layer(*layers, data=points).properties(width=_SIDE, height=_SIDE)
    header = alt.Header(title=None, labelPadding=24)
    chart = panel.facet(column=alt.Column("judge:N", sort=judges, header=header), spacing=24)
    last = points.groupby("judge", sort=False).tail(1)
    told = "; ".join(
        f"{row.judge}, {row.policy} wins {percent(row.helpfulness)} on harmless and "
        f"{percent(row.safety)} on unsafe prompts"
        for row in last.itertuples()
    )
    return finish(chart, "Does every round win more often than the one before?", f"{told}.")


def _even_odds() -> alt.Chart:
    """A dashed line at 50 %, where a policy is no better than the first."""
    return alt.Chart().mark_rule(strokeDash=[4, 3], color=GRAY)

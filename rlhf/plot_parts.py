"""What the charts of plots.py share: colors, histograms, lines, stacked panels and their look."""

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from data.intervals import Z_95
from rlhf.metrics import steps_at_ends

GRAY, BLUE, ORANGE, GREEN, PURPLE = "#7a7a7a", "#0072b2", "#d55e00", "#009e73", "#c06a9a"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE)
"""After Okabe and Ito: 3:1 against white and near black, told apart with any color vision."""
Drawing = alt.LayerChart | alt.FacetChart | alt.VConcatChart
"""What the functions of plots.py return."""
WIDTH = 320
"""Pixels of the plotting area; with axis and labels a chart takes about 400."""

_LEGEND = alt.Legend(orient="bottom", title=None, columns=2, labelLimit=0)
_BINS = 28
_MIN_BIN_ROWS = 5
_ROW_HEIGHT = 52
_PANEL_HEIGHT = 76
_HEIGHT = 220
_TITLE_LETTERS = 54
_NAMES = {"sft": "SFT", "ppo": "PPO", "ghost_attention": "Ghost Attention"}


def readable(name: str) -> str:
    """A policy, strength, label or stage as people write it."""
    return _NAMES.get(name, name.replace("_", " "))


def color(
    field: str, names: Sequence[str], *, legend: bool = True, palette: Sequence[str] = PALETTE
) -> alt.Color:
    """The same name has the same color wherever the names come in the same order."""
    used = [palette[i % len(palette)] for i in range(len(names))]
    scale = alt.Scale(domain=list(names), range=used)
    return alt.Color(f"{field}:N", scale=scale, legend=_LEGEND if legend else None)


def ramp(count: int) -> list[str]:
    """Colors for things in an order, from blue over purple to orange, as dark as the palette's."""
    stops = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in (BLUE, PURPLE, ORANGE)])
    places = np.linspace(0, len(stops) - 1, count)
    parts = [np.interp(places, range(len(stops)), stops[:, part]) for part in range(3)]
    return ["#" + "".join(f"{round(part):02x}" for part in of) for of in zip(*parts, strict=True)]


def shape(field: str, names: Sequence[str]) -> alt.Shape:
    """Shapes beside the colors, for eyes that confuse these; both share a legend."""
    return alt.Shape(f"{field}:N", scale=alt.Scale(domain=list(names)), legend=_LEGEND)


def means_at_ends(steps: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Of the first and of the last steps; see `steps_at_ends`."""
    few = steps_at_ends(len(steps))
    return steps.head(few).mean(), steps.tail(few).mean()


def histogram(
    frame: pd.DataFrame, value: str, by: Sequence[str], edges: np.ndarray | None = None
) -> pd.DataFrame:
    """Counts and shares of each group by bin: the columns of `by`, low, high, count, share.

    Args:
        frame: one row per value.
        value: its column.
        by: columns of the groups; the shares of a group sum to 1.
        edges: of the bins, ascending. None takes round ones, with an edge at 0.
    """
    edges = round_edges(frame[value].to_numpy(float)) if edges is None else edges
    index = np.searchsorted(edges, frame[value], side="right") - 1
    index = np.clip(index, 0, len(edges) - 2)  # the last edge belongs to the last bin
    counts = frame.assign(bin=index).groupby([*by, "bin"]).size().rename("count").reset_index()
    counts["share"] = counts["count"] / counts.groupby(list(by))["count"].transform("sum")
    bins = counts.pop("bin").to_numpy()
    return counts.assign(low=edges[bins], high=edges[bins + 1])


def round_edges(values: np.ndarray) -> np.ndarray:
    """About 28 equal bins over the values, their width 1, 2 or 5 times a power of ten."""
    low, high = float(values.min()), float(values.max())
    raw = (high - low) / _BINS or 1.0
    power = 10.0 ** np.floor(np.log10(raw))
    step = power * min(m for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first = np.floor(low / step)
    last = max(np.ceil(high / step), first + 1)
    return np.arange(first, last + 1) * step


def binned_means(frame: pd.DataFrame, x: str, y: str, by: str, bins: int) -> pd.DataFrame:
    """Means of y over bins of x for each group: by, bin, x, y, low, high (95 %), rows.

    Args:
        frame: one row per observation.
        x: what is binned, at the quantiles of all groups together.
        y: what is averaged, between 0 and 1.
        by: column of the groups.
        bins: how many; those with fewer than 5 rows of a group are left out.
    """
    index = pd.qcut(frame[x], bins, labels=False, duplicates="drop")
    groups = frame.assign(bin=index).groupby([by, "bin"], sort=False)
    means = groups.agg(x=(x, "mean"), y=(y, "mean"), error=(y, "sem"), rows=(y, "size"))
    means = means[means["rows"] >= _MIN_BIN_ROWS].reset_index().sort_values("x")
    half = Z_95 * means.pop("error")
    low, high = (means["y"] - half).clip(lower=0), (means["y"] + half).clip(upper=1)
    return means.assign(low=low, high=high)


def sigmoid(score: pd.Series) -> pd.Series:
    """σ, from a raw score to the scale of 0 to 1."""
    return 1 / (1 + np.exp(-score))


def histogram_rows(
    bins: pd.DataFrame,
    *,
    row: tuple[str, Sequence[str]],
    colors: tuple[str, Sequence[str]],
    x: str,
    rule: float | None = None,
) -> alt.FacetChart:
    """Histograms one above the other on one axis.

    Args:
        bins: of `histogram`.
        row: column and order of the rows.
        colors: column and order of the colors; several in a row lie over each other.
        x: title of the axis, with its unit.
        rule: where a vertical line stands.
    """
    tips = [alt.Tooltip("count:Q"), share_tip("share"), alt.Tooltip("low:Q"), alt.Tooltip("high:Q")]
    bars = alt.Chart().mark_bar(opacity=0.7, binSpacing=0).encode(
        x=alt.X("low:Q", bin="binned", title=x, axis=alt.Axis(tickCount=8, grid=False)),
        x2="high:Q",
        y=alt.Y("share:Q", stack=None, title=None, axis=alt.Axis(format="%", tickCount=2)),
        color=color(*colors, legend=colors[0] != row[0]),
        tooltip=[f"{row[0]}:N", *([f"{colors[0]}:N"] if colors[0] != row[0] else []), *tips],
    )  # fmt: skip
    layers = [bars] if rule is None else [bars, vertical_rule(rule)]
    chart = alt.layer(*layers, data=bins).properties(width=WIDTH, height=_ROW_HEIGHT)
    return chart.facet(row=row_header(*row, unit=", share"), spacing=12)


def vertical_rule(at: float) -> alt.Chart:
    """A dashed line that a facet's rows share."""
    return alt.Chart().mark_rule(strokeDash=[4, 3], color=GRAY).encode(x=alt.datum(at))


def row_header(field: str, names: Sequence[str], unit: str = "") -> alt.Row:
    """Rows of a facet, each with its name above it and what its vertical axis counts."""
    header = alt.Header(
        labelOrient="top",
        labelAnchor="start",
        labelPadding=2,
        labelExpr=f"join([datum.label, '{unit}'], '')",
        title=None,
    )
    return alt.Row(f"{field}:N", sort=list(names), header=header)


def line_chart(
    frame: pd.DataFrame,
    *,
    x: alt.X,
    y: alt.Y,
    colors: tuple[str, Sequence[str]],
    palette: Sequence[str] = PALETTE,
) -> alt.LayerChart | alt.FacetChart:
    """Lines with a mark of its own shape for each color, and intervals where the frame has them.

    Args:
        frame: one row per point; columns low and high are the ends of its 95 % interval.
        x: the horizontal channel.
        y: the vertical channel.
        colors: column and order of the lines.
        palette: of the lines; `ramp` where they have an order.
    """
    tips = [f"{colors[0]}:N", alt.Tooltip(x.shorthand), alt.Tooltip(y.shorthand, format=".3f")]
    base = alt.Chart(frame, width=WIDTH, height=_HEIGHT).encode(
        x=x, color=color(*colors, palette=palette)
    )
    points = alt.OverlayMarkDef(filled=True, size=36)
    line = base.mark_line(point=points).encode(y=y, shape=shape(*colors), tooltip=tips)
    if "low" not in frame:
        return alt.layer(line)
    return alt.layer(base.mark_rule(opacity=0.6).encode(y="low:Q", y2="high:Q"), line)


def stacked_panels(
    frame: pd.DataFrame, columns: Sequence[tuple[str, str, str]], x: str
) -> alt.VConcatChart:
    """Line charts one above the other over the same steps.

    Args:
        frame: step, run and the columns.
        columns: column, title with unit, number format.
        x: title of the common axis.
    """
    names = list(frame["run"].unique())
    stacked = []
    for column, title, form in columns:
        is_last = column == columns[-1][0]
        axis = alt.Axis(labels=is_last, ticks=is_last, title=x if is_last else None)
        safe = column.replace("/", "_")  # a slash would need escaping in field names
        chart = alt.Chart(frame.rename(columns={column: safe})[["step", "run", safe]]).encode(
            x=alt.X("step:Q", axis=axis),
            y=alt.Y(
                f"{safe}:Q",
                title=title,
                axis=alt.Axis(format=form, tickCount=4),
                scale=alt.Scale(zero=False),
            ),
            color=color("run", names, legend=len(names) > 1),
            tooltip=["run:N", "step:Q", alt.Tooltip(f"{safe}:Q", format=form, title=title)],
        )  # fmt: skip
        line = chart.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=12))
        stacked.append(line.properties(width=WIDTH, height=_PANEL_HEIGHT))
    return alt.vconcat(*stacked, spacing=14).resolve_scale(x="shared")


def share_tip(column: str, form: str = ".1%") -> alt.Tooltip:
    """A number in the tooltip, as a percentage unless told otherwise."""
    return alt.Tooltip(f"{column}:Q", format=form)


def percent(value: float) -> str:
    """12.3%."""
    return f"{value:.1%}"


def listed(
    values: Any, names: Sequence[str], form: Callable[[float], str] = "{:.2f}".format
) -> str:
    """Each name with its value, for the description of a chart."""
    return ", ".join(f"{name} {form(values[name])}" for name in names if name in values)


def finish(chart: Any, title: str, description: str) -> Drawing:
    """Title, description and the look that all charts have in common."""
    text = alt.Title(textwrap.wrap(title, _TITLE_LETTERS), anchor="start", frame="group")
    description = description[:1].upper() + description[1:]
    chart = chart.properties(title=text, description=description, background="transparent")
    return (
        chart.configure(font="system-ui, sans-serif")
        .configure_title(fontSize=13, fontWeight=600, lineHeight=17, offset=12, color=GRAY)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=GRAY,
            titleColor=GRAY,
            titleFontWeight="normal",
            gridColor=GRAY,
            gridOpacity=0.2,
            domainColor=GRAY,
            tickColor=GRAY,
        )
        .configure_axisY(
            minExtent=34, titleAngle=0, titleAlign="left", titleAnchor="end", titleX=0, titleY=-6
        )
        .configure_header(labelColor=GRAY, labelFontWeight=600)
        .configure_legend(labelColor=GRAY, symbolOpacity=1)
        .configure_text(color=GRAY)
    )

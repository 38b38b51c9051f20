"""The loss of a training run over the tokens that it took in."""

from pathlib import Path

import altair as alt
import pandas as pd

from data.durable import write_durably
from rlhf.metrics import read_metrics
from rlhf.plot_parts import Drawing, finish, line_chart

LOSS_CURVE = "loss.svg"
_MAX_POINTS = 200


def loss_curve(metrics: pd.DataFrame) -> Drawing:
    """Training and validation loss.

    Args:
        metrics: tokens since the line before, loss and, where it was measured, validation/loss,
            one row per line of metrics.jsonl. Training losses are averaged where there are more
            than 200, weighted by their tokens.
    """
    seen = metrics["tokens"].cumsum()
    metrics = metrics.dropna(subset="loss")  # JSON's null, where it was not finite
    every = -(-len(metrics) // _MAX_POINTS)
    group = pd.Series(range(len(metrics)), index=metrics.index) // every
    weighted = (metrics["loss"] * metrics["tokens"]).groupby(group).sum()
    trained = pd.DataFrame(
        {
            "tokens": seen.groupby(group).last(),
            "loss": weighted / metrics["tokens"].groupby(group).sum(),
            "of": "training",
        }
    )
    curves = [trained]
    told = f"Training loss from {trained['loss'].iloc[0]:.3f} to {trained['loss'].iloc[-1]:.3f}"
    if "validation/loss" in metrics:
        held_out = pd.DataFrame({"tokens": seen, "loss": metrics["validation/loss"]}).dropna()
        curves.append(held_out.assign(of="validation"))
        told += f"; validation loss {held_out['loss'].iloc[-1]:.3f} at the end"
    chart = line_chart(
        pd.concat(curves),
        x=alt.X("tokens:Q", axis=alt.Axis(format="~s", tickCount=5), title="tokens trained on"),
        y=alt.Y("loss:Q", scale=alt.Scale(zero=False), title="nats per token"),
        colors=("of", ["training", "validation"][: len(curves)]),
    )
    return finish(chart, "Does the loss fall on text that was held out, too?", f"{told}.")


def write_loss_curve(directory: Path) -> None:
    """Draws the metrics of a run directory into its loss.svg."""
    import vl_convert

    chart = loss_curve(pd.DataFrame(read_metrics(directory)))
    svg = vl_convert.vegalite_to_svg(chart.to_json())
    write_durably(directory / LOSS_CURVE, svg.encode())

"""The loss curve of a training run."""

import json
from pathlib import Path

import pandas as pd

from rlhf.training_plots import loss_curve, write_loss_curve


def points(metrics: pd.DataFrame) -> list[tuple[float, float, str]]:
    spec = loss_curve(metrics).to_dict()
    (rows,) = spec["datasets"].values()
    return [(row["tokens"], row["loss"], row["of"]) for row in rows]


def test_losses_stand_over_the_tokens_seen_so_far() -> None:
    metrics = pd.DataFrame(
        {
            "tokens": [100, 50, 100],
            "loss": [3.0, 2.0, 1.0],
            "validation/loss": [None, 2.5, 1.5],
        }
    )
    assert points(metrics) == [
        (100, 3.0, "training"),
        (150, 2.0, "training"),
        (250, 1.0, "training"),
        (150, 2.5, "validation"),
        (250, 1.5, "validation"),
    ]


def test_long_runs_are_averaged() -> None:
    # 201 lines → pairs, the last one alone; the first pair: (3 · 100 + 1 · 300) / 400 = 1.5
    metrics = pd.DataFrame({"tokens": [100, 300] * 100 + [100], "loss": [3.0, 1.0] * 100 + [7.0]})
    found = points(metrics)
    assert len(found) == 101
    assert found[0] == (400, 1.5, "training")
    assert found[-1] == (40_100, 7.0, "training")


def test_a_loss_that_was_not_finite_leaves_a_gap() -> None:
    metrics = pd.DataFrame({"tokens": [100, 100, 100], "loss": [3.0, None, 1.0]})
    assert points(metrics) == [(100, 3.0, "training"), (300, 1.0, "training")]


def test_the_figure_lands_in_the_run(tmp_path: Path) -> None:
    lines = [{"step": 1, "tokens": 10, "loss": 2.0}, {"step": 2, "tokens": 10, "loss": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_loss_curve(tmp_path)
    svg = (tmp_path / "loss.svg").read_text()
    assert svg.startswith("<svg") and "tokens trained on" in svg

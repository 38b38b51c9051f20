"""Accuracy of a scorer by domain and strength (Llama 2, Tables 7 and 8)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from data.schemas import Comparison, Message
from reward.evaluate import PairScores, accuracy, accuracy_table, score_comparisons, write_scores
from reward.score import ScoreWorker
from rlhf.actors.group import LocalGroup
from rlhf.actors.placement import Placement
from rlhf.model.weights import load_scalar_model
from tests.reward.tiny import tiny_chat, write_reward_model

Make = Callable[..., Comparison]


def pairs(*scores: tuple[float, float]) -> PairScores:
    """(chosen, rejected) of each comparison."""
    chosen, rejected = np.array(scores).reshape(-1, 2).T
    return PairScores(chosen, rejected)


def test_ties_count_half() -> None:
    # right, wrong, tie, right: 1 + 0 + ½ + 1 = 2.5 of 4
    scores = pairs((1.0, 0.0), (-1.0, 2.0), (3.0, 3.0), (-2.0, -2.5))
    found = accuracy(scores)
    assert (found.value, found.n) == (0.625, 4)
    assert found.low is not None and found.high is not None and found.low < 0.625 < found.high
    # the last two alone: 1.5 of 2
    assert accuracy(scores, [False, False, True, True]).value == 0.75
    assert accuracy(scores, [False] * 4).value is None


def test_table_by_domain_and_strength(make_comparison: Make) -> None:
    rows = [
        make_comparison(0, strength="significantly_better"),
        make_comparison(1, strength="significantly_better"),
        make_comparison(2, strength="better"),
        make_comparison(3, strength=None),  # counts in "all" only
        make_comparison(4, strength="better", domain="safety"),
    ]
    scores = pairs((1, 0), (0, 1), (1, 0), (1, 0), (1, 1))
    table = accuracy_table(scores, rows)
    values = {d: {s: (c["accuracy"], c["n"]) for s, c in r.items()} for d, r in table.items()}
    assert values == {
        "helpfulness": {"significantly_better": (0.5, 2), "better": (1.0, 1), "all": (0.75, 4)},
        "safety": {"better": (0.5, 1), "all": (0.5, 1)},
    }
    cell = table["helpfulness"]["all"]
    assert cell["low"] is not None and cell["high"] is not None
    assert 0 < cell["low"] < 0.75 < cell["high"] < 1


def test_nothing_to_count_is_an_empty_table() -> None:
    assert accuracy_table(pairs(), []) == {}


def test_scores_of_comparisons(tmp_path: Path, make_comparison: Make) -> None:
    model = write_reward_model(tmp_path / "model")
    rows = [
        make_comparison(n, chosen=(Message("assistant", "yes " * n),), turns=1) for n in range(5)
    ]
    group = LocalGroup(ScoreWorker, Placement(ray=False), model)
    found = score_comparisons(group, rows, tiny_chat(), max_length=30)
    scalar = load_scalar_model(model)
    for number, row in enumerate(rows):
        for response, scores in ((row.chosen, found.chosen), (row.rejected, found.rejected)):
            ids = tiny_chat().encode_dialogue((*row.prompt, *response)).ids[-30:]
            with torch.no_grad():
                expected = float(scalar(torch.tensor([ids]))[0, -1])
            assert scores[number] == pytest.approx(expected, abs=1e-5)


def test_scores_on_disk(tmp_path: Path, make_comparison: Make) -> None:
    rows = [
        make_comparison(
            7,
            domain="safety",
            strength="better",
            safety_label="both_safe",
            chosen_model="a",
            rejected_model="b",
            chosen_temperature=0.5,
            rejected_temperature=1.0,
            rejected_tokens=9,
        )
    ]
    by_model = {"helpfulness": pairs((1.5, -1.5)), "safety": pairs((0.25, 0.5))}
    write_scores(tmp_path / "scores.parquet", rows, by_model)
    shared = {
        "comparison_id": "c7",
        "domain": "safety",
        "strength": "better",
        "safety_label": "both_safe",
        "source": "test",
    }
    chosen = {"side": "chosen", "model": "a", "temperature": 0.5, "response_tokens": 3}
    rejected = {"side": "rejected", "model": "b", "temperature": 1.0, "response_tokens": 9}
    assert pq.read_table(tmp_path / "scores.parquet").to_pylist() == [
        {**shared, **chosen, "helpfulness_score": 1.5, "safety_score": 0.25},
        {**shared, **rejected, "helpfulness_score": -1.5, "safety_score": 0.5},
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]

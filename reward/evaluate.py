"""How often a scorer prefers what people preferred (Llama 2, Tables 7 and 8)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.chat_format import ChatFormat
from data.intervals import Proportion, proportion
from data.records import write_records
from data.schemas import DOMAINS, STRENGTHS, Comparison
from reward.score import ScoreWorker, score_with
from reward.train import encode_scored
from rlhf.actors.group import WorkerGroup

ALL = "all"

AccuracyTable = dict[str, dict[str, dict[str, Any]]]
"""Domain of the data → strength or "all" → accuracy, low, high, n."""


@dataclass(frozen=True)
class PairScores:
    """A scorer's view of comparisons; [N] each."""

    chosen: NDArray[np.float64]
    rejected: NDArray[np.float64]


def score_comparisons(
    workers: WorkerGroup[ScoreWorker],
    comparisons: Sequence[Comparison],
    chat: ChatFormat,
    max_length: int,
) -> PairScores:
    """Raw scores of both responses of every comparison."""
    sequences = [
        encode_scored(chat, c.prompt, response, max_length)
        for c in comparisons
        for response in (c.chosen, c.rejected)
    ]
    scores = np.array(score_with(workers, sequences))
    return PairScores(scores[0::2], scores[1::2])


def accuracy(scores: PairScores, keep: Sequence[bool] | None = None) -> Proportion:
    """Share of comparisons whose chosen response has the higher score; equal scores count half."""
    difference = scores.chosen - scores.rejected
    if keep is not None:
        difference = difference[np.array(keep, dtype=bool)]
    right = float((difference > 0).sum() + 0.5 * (difference == 0).sum())
    return proportion(right, len(difference))


def accuracy_table(scores: PairScores, comparisons: Sequence[Comparison]) -> AccuracyTable:
    """Domain → strength or "all" → accuracy with its interval and n."""
    table: AccuracyTable = {}
    for domain in DOMAINS:
        row = {}
        for strength in (*STRENGTHS, ALL):
            keep = [
                c.domain == domain and (strength == ALL or c.strength == strength)
                for c in comparisons
            ]
            found = accuracy(scores, keep)
            if found.n:
                row[strength] = {
                    "accuracy": found.value,
                    "low": found.low,
                    "high": found.high,
                    "n": found.n,
                }
        if row:
            table[domain] = row
    return table


def write_scores(
    path: Path, comparisons: Sequence[Comparison], by_model: Mapping[str, PairScores]
) -> None:
    """One row per response, for notebooks and plots: scores, strength, label, model, length."""
    records: list[dict[str, Any]] = []
    for index, comparison in enumerate(comparisons):
        for side in ("chosen", "rejected"):
            records.append(
                {
                    "comparison_id": comparison.comparison_id,
                    "side": side,
                    "domain": comparison.domain,
                    "strength": comparison.strength,
                    "safety_label": comparison.safety_label,
                    "source": comparison.source,
                    "model": getattr(comparison, f"{side}_model"),
                    "temperature": getattr(comparison, f"{side}_temperature"),
                    "response_tokens": getattr(comparison, f"{side}_tokens"),
                }
                | {
                    f"{name}_score": float(getattr(scores, side)[index])
                    for name, scores in by_model.items()
                }
            )
    write_records(path, records)

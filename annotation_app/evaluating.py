"""Figures of human evaluations: win, tie and loss; violations; agreement. Pure."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from annotation_app.ledger.evaluations import RATERS, Rated
from annotation_app.scales import SCALES, VIOLATION, Kind
from data.agreement import Agreement, gwet_ac2
from data.intervals import Proportion, proportion


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One batch and its policies, over the items that all three raters have answered."""

    batch_id: str
    kind: Kind
    models: tuple[str, ...]
    items: int
    shares: dict[str, Proportion]
    """pair: win, tie and loss of the first policy, by the median rating; safety: violation, by the
    majority of the three."""
    agreement: Agreement
    """Gwet's AC2, quadratic, on the whole scale."""


def evaluate(rated: Sequence[Rated]) -> list[Evaluated]:
    """One row per batch, kind and policies; none where no item is complete."""
    groups: dict[tuple[str, Kind, tuple[str, ...]], dict[int, list[int]]] = {}
    for one in rated:
        group = groups.setdefault((one.batch_id, one.kind, one.models), defaultdict(list))
        group[one.item_id].append(one.score)
    found = []
    for (batch_id, kind, models), by_item in groups.items():
        # A rating that came after its lease may be a fourth: the first three count.
        scores = np.array([s[:RATERS] for s in by_item.values() if len(s) >= RATERS])
        if len(scores):
            found.append(
                Evaluated(
                    batch_id=batch_id,
                    kind=kind,
                    models=models,
                    items=len(scores),
                    shares=_shares(kind, np.median(scores, axis=1)),
                    agreement=gwet_ac2(scores, categories=SCALES[kind]),
                )
            )
    return found


def _shares(
    kind: Kind, medians: "np.ndarray[tuple[int], np.dtype[np.float64]]"
) -> dict[str, Proportion]:
    verdicts = (
        {"win": medians > 0, "tie": medians == 0, "loss": medians < 0}
        if kind == "pair"
        else {"violation": medians <= VIOLATION}  # the median of three is their majority's side
    )
    return {name: proportion(int(hits.sum()), len(medians)) for name, hits in verdicts.items()}

"""How people voted and how far they agreed; how many responses they held to be safe."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from data.agreement import Agreement, gwet_ac1, krippendorff_alpha
from data.dataset import read_table
from data.intervals import Proportion, proportion
from data.schemas import Judgement, Vote, Winner

WINNERS: tuple[Winner, ...] = get_args(Winner)


@dataclass(frozen=True, kw_only=True)
class VoteAgreement:
    """How far those who voted on the same item agree."""

    items: int
    """With two votes or more."""
    same: float | None
    """Share of the pairs of votes on one item that name the same winner; None without a pair."""
    ac1: Agreement | None
    """Gwet's AC1; None where no item has two votes, or where all of these are alike."""
    alpha: Agreement | None
    """Krippendorff's α, nominal; None as for AC1."""


@dataclass(frozen=True, kw_only=True)
class VoteStatistics:
    """What `rlhf data stats` prints of votes."""

    votes: int
    items: int
    judges: int
    """With a name."""
    winners: Mapping[Winner, int]
    with_ties: VoteAgreement
    """A tie is a verdict of its own."""
    without_ties: VoteAgreement
    """Among those who saw a difference."""


@dataclass(frozen=True, kw_only=True)
class KindStatistics:
    """Judgements of one kind."""

    source: str
    kind: str
    responses: int
    unsafe: Proportion


def vote_statistics(directory: Path) -> VoteStatistics:
    """Statistics of a dataset of votes; of several votes of a judge on an item the first counts.

    Raises:
        DataError: no dataset, or one of other rows.
    """
    table = read_table(directory, Vote, columns=["item_id", "annotator_id", "winner"])
    rows = list(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))
    seen: set[tuple[str, str]] = set()
    items: dict[str, list[int]] = defaultdict(list)
    for item, judge, winner in rows:
        if judge is None or (item, judge) not in seen:
            items[item].append(WINNERS.index(winner))
            seen.add((item, judge or ""))
    verdicts = list(items.values())
    tie = WINNERS.index("tie")
    found = Counter(winner for _, _, winner in rows)
    return VoteStatistics(
        votes=len(rows),
        items=len(items),
        judges=len({judge for _, judge, _ in rows} - {None}),
        winners=MappingProxyType({winner: found[winner] for winner in WINNERS}),
        with_ties=_agreement(verdicts),
        without_ties=_agreement([[v for v in item if v != tie] for item in verdicts]),
    )


def _agreement(verdicts: Sequence[Sequence[int]]) -> VoteAgreement:
    several = [item for item in verdicts if len(item) > 1]
    if not several:
        return VoteAgreement(items=0, same=None, ac1=None, alpha=None)
    counts = [Counter(item) for item in several]
    same = sum(n * (n - 1) for item in counts for n in item.values())
    pairs = sum(len(item) * (len(item) - 1) for item in several)
    ratings = _matrix(several)
    varied = len({verdict for item in several for verdict in item}) > 1
    return VoteAgreement(
        items=len(several),
        same=same / pairs,
        ac1=gwet_ac1(ratings) if varied else None,
        alpha=krippendorff_alpha(ratings) if varied else None,
    )


def _matrix(items: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """[items, most votes on one], NaN where there are fewer; neither coefficient names raters."""
    matrix = np.full((len(items), max(map(len, items))), np.nan)
    for row, item in zip(matrix, items, strict=True):
        row[: len(item)] = item
    return matrix


def judgement_statistics(directory: Path) -> tuple[KindStatistics, ...]:
    """Safe and unsafe responses of a dataset of judgements, by source and kind.

    Raises:
        DataError: no dataset, or one of other rows.
    """
    table = read_table(directory, Judgement, columns=["source", "kind", "safe"])
    sums = table.group_by(["source", "kind"]).aggregate([("safe", "count"), ("safe", "sum")])
    records: list[dict[str, Any]] = sums.to_pylist()
    return tuple(
        KindStatistics(
            source=record["source"],
            kind=record["kind"],
            responses=record["safe_count"],
            unsafe=proportion(record["safe_count"] - record["safe_sum"], record["safe_count"]),
        )
        for record in sorted(records, key=lambda r: (r["source"], r["kind"]))
    )

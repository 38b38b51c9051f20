"""How well people agree, how fast they are, and which side they lean to. Pure."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import numpy as np

from annotation_app.ledger.checks import Checked
from annotation_app.ledger.oversight import Judged
from annotation_app.ledger.rows import CHECK_KINDS, CheckKind
from data.agreement import Agreement, cohen_kappa, gwet_ac1, gwet_ac2, krippendorff_alpha
from data.intervals import Proportion, proportion

T = TypeVar("T")

SCALE = (-4, -3, -2, -1, 1, 2, 3, 4)
"""Of `preference`: −4 is "second, significantly", 4 is "first, significantly"."""

MAX_PAIRS = 10
"""Pairs of annotators whose κ is computed: each takes a bootstrap."""
MAX_ITEMS = 2_000
"""Items that a coefficient is computed on, drawn by chance where there are more: nobody waits for a
bootstrap over hundreds of thousands, and the interval says what the sample leaves open."""


@dataclass(frozen=True, kw_only=True)
class PairAgreement:
    """How far two people agree on which response is better."""

    annotators: tuple[str, str]
    items: int
    """That both judged."""
    sampled: int
    """Of them, those that κ is computed on."""
    kappa: Agreement
    """Cohen's κ."""


@dataclass(frozen=True, kw_only=True)
class BatchAgreement:
    """Agreement beyond chance on the items that several people judged."""

    items: int
    """With two judgements or more."""
    sampled: int
    """Of them, those that the coefficients are computed on."""
    choice: Agreement
    """Gwet's AC1 of which response is preferred."""
    strength: Agreement
    """Gwet's AC2, quadratic, on the eight-point scale."""
    alpha: Agreement
    """Krippendorff's α, ordinal, on the same scale."""


@dataclass(frozen=True, kw_only=True)
class AnnotatorSummary:
    """One person's work."""

    annotator: str
    annotations: int
    median_seconds: float
    prefers_a: Proportion
    """Choices for the response on the left; a half where position does not matter."""
    agrees: Proportion
    """Choices that the majority of the others made too, where there is one."""
    agrees_with_reviewer: Proportion
    """Choices that a reviewer made too, of those that one decided on."""
    late: int
    too_fast: Proportion
    """Annotations that came sooner than the batch's rules say that anybody can have read them."""


@dataclass(frozen=True, kw_only=True)
class CheckSummary:
    """How one person answered the items whose answer is known."""

    annotator: str
    right: dict[CheckKind, Proportion]


def agreement(judged: Sequence[Judged]) -> BatchAgreement | None:
    """Agreement over items; None where no item has two judgements."""
    by_item = _by_item(judged)
    several = [group for group in by_item.values() if len(group) > 1]
    if not several:
        return None
    drawn = _draw(several)
    ratings = np.full((len(drawn), max(map(len, drawn))), np.nan)
    for row, group in zip(ratings, drawn, strict=True):
        row[: len(group)] = [j.preference for j in group]
    choices = np.sign(ratings)
    return BatchAgreement(
        items=len(several),
        sampled=len(drawn),
        choice=gwet_ac1(choices, categories=(-1, 1)),
        strength=gwet_ac2(ratings, categories=SCALE),
        alpha=krippendorff_alpha(ratings, level="ordinal"),
    )


def pair_agreement(judged: Sequence[Judged]) -> list[PairAgreement]:
    """Cohen's κ of the pairs of people with the most items in common, those first."""
    common: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for group in _by_item(judged).values():
        votes = sorted((j.annotator, 1 if j.preference > 0 else -1) for j in group)
        for (one, first), (other, second) in combinations(votes, 2):
            common[one, other].append((first, second))
    most = sorted(common.items(), key=lambda entry: (-len(entry[1]), entry[0]))[:MAX_PAIRS]
    return [_pair(names, votes, _draw(votes)) for names, votes in most]


def summarise_annotators(
    judged: Sequence[Judged], decided: Mapping[int, int]
) -> list[AnnotatorSummary]:
    """One row per person, those with the most annotations first.

    Args:
        decided: item → the response that a reviewer's decision prefers, 0 or 1.
    """
    by_item = _by_item(judged)
    by_person: dict[str, list[Judged]] = defaultdict(list)
    for j in judged:
        by_person[j.annotator].append(j)
    rows = [_summarise(name, own, by_item, decided) for name, own in by_person.items()]
    return sorted(rows, key=lambda row: (-row.annotations, row.annotator))


def summarise_checks(checked: Sequence[Checked]) -> list[CheckSummary]:
    """One row per person who met a check, by name."""
    answers: dict[str, dict[CheckKind, list[bool]]] = {}
    for one in checked:
        kinds = answers.setdefault(one.annotator, {kind: [] for kind in CHECK_KINDS})
        kinds[one.kind].append(one.right)
    return [
        CheckSummary(
            annotator=name,
            right={kind: proportion(sum(hits), len(hits)) for kind, hits in kinds.items()},
        )
        for name, kinds in sorted(answers.items())
    ]


def _pair(
    names: tuple[str, str], votes: Sequence[tuple[int, int]], drawn: Sequence[tuple[int, int]]
) -> PairAgreement:
    kappa = cohen_kappa(drawn)
    return PairAgreement(annotators=names, items=len(votes), sampled=len(drawn), kappa=kappa)


def _draw(values: Sequence[T]) -> Sequence[T]:
    """All, or as many as a coefficient is computed on: the same ones each time."""
    few = len(values) <= MAX_ITEMS
    return values if few else random.Random(0).sample(values, MAX_ITEMS)


def _by_item(judged: Sequence[Judged]) -> dict[int, list[Judged]]:
    by_item: dict[int, list[Judged]] = defaultdict(list)
    for j in judged:
        by_item[j.item_id].append(j)
    return by_item


def _summarise(
    name: str,
    own: Sequence[Judged],
    by_item: dict[int, list[Judged]],
    decided: Mapping[int, int],
) -> AnnotatorSummary:
    verdicts = [v for j in own if (v := _agrees(j, by_item[j.item_id])) is not None]
    reviewed = [(j.preference < 0) == decided[j.item_id] for j in own if j.item_id in decided]
    return AnnotatorSummary(
        annotator=name,
        annotations=len(own),
        median_seconds=float(np.median([j.seconds for j in own])),
        prefers_a=proportion(sum(j.chose_a for j in own), len(own)),
        agrees=proportion(sum(verdicts), len(verdicts)),
        agrees_with_reviewer=proportion(sum(reviewed), len(reviewed)),
        late=sum(j.late for j in own),
        too_fast=proportion(sum(j.too_fast for j in own), len(own)),
    )


def _agrees(own: Judged, group: Sequence[Judged]) -> bool | None:
    """Whether the majority of the others chose the same response; None for none, or a tie."""
    votes = sum(1 if j.preference > 0 else -1 for j in group if j.annotator != own.annotator)
    return None if votes == 0 else (votes > 0) == (own.preference > 0)

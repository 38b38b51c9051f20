"""What `rlhf data stats` prints."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from data.agreement import Agreement
from data.counting import describe_counter
from data.statistics import DatasetStatistics, SourceStatistics
from data.verdict_statistics import KindStatistics, VoteAgreement, VoteStatistics

View = Table | str
_SHOWN_VALUES = 20
NONE = "(none)"


def comparison_views(statistics: DatasetStatistics, ties: int) -> Iterator[View]:
    """Table 6, who counted, the distributions, and those of each batch where there are several."""
    yield _sources_table(statistics)
    yield from _counted_with(statistics.tokenizer_hashes)
    for name, counts in statistics.distributions.items():
        if set(counts) == {""}:
            yield f"{name.replace('_', ' ')}: recorded for none"
        else:
            yield _distribution_table(name, counts)
    for name, batches in statistics.by_batch.items():
        if len(batches) > 1 and set(statistics.distributions[name]) != {""}:
            yield _batch_table(name, batches, list(statistics.distributions[name]))
    if ties:
        yield f"ties, which are no comparisons: {ties:,}, set aside in ties.parquet"


def vote_views(votes: VoteStatistics) -> Iterator[View]:
    """How many voted for what, and how far those with the same item agree."""
    judges = f"{votes.judges:,} judges"
    yield f"{votes.votes:,} votes of {judges} on {votes.items:,} pairs of responses"
    yield _distribution_table("winner", votes.winners, "votes")
    title = "Agreement on pairs with several votes [95 % interval]"
    table = Table(title=title, box=SIMPLE, min_width=len(title))
    for name in ("", "pairs", "same, %", "Gwet's AC1", "Krippendorff's α"):
        table.add_column(name, justify="right" if name else "left")
    for name, found in (("with ties", votes.with_ties), ("without ties", votes.without_ties)):
        table.add_row(name, *_agreement_cells(found))
    yield table


def judgement_views(kinds: Sequence[KindStatistics]) -> Iterator[View]:
    """The share of unsafe responses by source and kind."""
    table = Table(title="Judgements of single responses", box=SIMPLE, padding=(0, 0, 0, 1))
    for name in ("source", "kind", "responses", "unsafe [95 % interval]"):
        right = name not in ("source", "kind")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for kind in kinds:
        table.add_row(kind.source, kind.kind, f"{kind.responses:,}", str(kind.unsafe))
    yield table


def _agreement_cells(found: VoteAgreement) -> list[str]:
    same = "–" if found.same is None else f"{100 * found.same:.1f}"
    return [f"{found.items:,}", same, _coefficient(found.ac1), _coefficient(found.alpha)]


def _coefficient(found: Agreement | None) -> str:
    return "–" if found is None else f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _sources_table(statistics: DatasetStatistics) -> Table:
    title = "Comparisons by source (Llama 2, Table 6)"
    table = Table(title=title, box=SIMPLE, padding=(0, 0, 0, 1))
    table.add_column("source", overflow="fold")
    for column in fields(SourceStatistics)[1:]:
        words = column.name.split("_")
        width = max(8, *map(len, words))  # the headers wrap, the sources keep their room
        table.add_column(" ".join(words), justify="right", width=width)
    for row in statistics.sources:
        table.add_row(*_cells(row))
    table.add_section()
    table.add_row(*_cells(statistics.total))
    return table


def _cells(row: SourceStatistics) -> list[str]:
    means = (
        row.turns_per_dialogue,
        row.tokens_per_example,
        row.tokens_in_prompt,
        row.tokens_in_response,
    )
    shown = ["–" if mean is None else f"{mean:,.1f}" for mean in means]
    return [row.source, f"{row.comparisons:,}", *shown]


def _counted_with(hashes: Sequence[str]) -> Iterator[str]:
    for name in hashes:
        yield f"tokens are {describe_counter(name)}"
    if len(hashes) > 1:
        yield "counts of different tokenizers are not mixed: their means are left out (–)"


def _distribution_table(name: str, counts: Mapping[Any, int], what: str = "comparisons") -> Table:
    table = Table(title=name.replace("_", " "), box=SIMPLE)
    table.add_column("value")
    table.add_column(what, justify="right")
    table.add_column("share", justify="right")
    total = sum(counts.values())
    shown = list(counts.items())[:_SHOWN_VALUES]
    for value, count in shown:
        table.add_row(value or NONE, f"{count:,}", f"{count / max(total, 1):.1%}")
    rest = total - sum(count for _, count in shown)
    if rest:
        others = f"({len(counts) - len(shown):,} others)"
        table.add_row(others, f"{rest:,}", f"{rest / total:.1%}")
    return table


def _batch_table(
    name: str, batches: Mapping[str, Mapping[str, int]], values: Sequence[str]
) -> Table:
    title = f"{name.replace('_', ' ')} by batch, %"
    table = Table(title=title, box=SIMPLE, min_width=len(title))
    table.add_column("batch", overflow="fold")
    table.add_column("comparisons", justify="right")
    for value in values:
        words = value.removesuffix("_better") if name == "strength" else value
        table.add_column(words.replace("_", " ") or NONE, justify="right")
    for batch, counts in batches.items():
        total = sum(counts.values())
        shares = (f"{100 * counts.get(value, 0) / total:.1f}" for value in values)
        table.add_row(batch or NONE, f"{total:,}", *shares)
    return table

"""The columns of Llama 2's Table 6 and the distributions of what annotators said.

Everything is computed from the counts that stand in the rows, column by column: millions of
comparisons take seconds, and nothing is tokenised again.

Table 6 and ours. For every source of single-turn dialogues the paper's tokens per example are the
sum of its tokens in prompt and in response (OpenAI Summarize: 336.0 + 35.1 = 371.1), so an example
is the dialogue with ONE response. We compute per comparison

    turns per dialogue  = user messages
    tokens in prompt    = all messages before the response, earlier answers included
    tokens in response  = (chosen + rejected) / 2
    tokens per example  = tokens in prompt + tokens in response

and take means over comparisons. Tokens per example compare with the paper everywhere, single-turn
sources in every column. In longer dialogues the paper's tokens in prompt are per user message and
those in response per answer, which totals cannot give: our tokens in prompt are larger there. (With
Llama's tokenizer the public test file of harmless-base has 16.1 tokens per user message and 152.6
per dialogue with the chosen response; the paper prints 15.7 and 152.5.) Our Total row is the mean
over all comparisons; the paper's is not: its 1.6 turns would be 2.5.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data.dataset import latest_revisions, read_table
from data.schemas import DOMAINS, SAFETY_LABELS, SPLITS, STRENGTHS, Comparison

DISTRIBUTIONS = ("strength", "safety_label", "annotator_id", "batch", "domain", "split")
PER_BATCH = ("strength", "safety_label")
"""Annotators' strictness drifts, and policies improve, from one batch to the next."""
_ORDERS: dict[str, tuple[str, ...]] = {
    "strength": STRENGTHS,
    "safety_label": SAFETY_LABELS,
    "domain": DOMAINS,
    "split": SPLITS,
}
_DIGITS = re.compile(r"(\d+)")
_COUNTS = ("turns", "prompt_tokens", "chosen_tokens", "rejected_tokens")


@dataclass(frozen=True, kw_only=True)
class SourceStatistics:
    """One row of Table 6; token figures are None where several tokenizers counted."""

    source: str
    comparisons: int
    turns_per_dialogue: float
    tokens_per_example: float | None
    tokens_in_prompt: float | None
    tokens_in_response: float | None


@dataclass(frozen=True, kw_only=True)
class DatasetStatistics:
    """What `rlhf data stats` prints."""

    sources: tuple[SourceStatistics, ...]
    """By name."""
    total: SourceStatistics
    distributions: Mapping[str, Mapping[str, int]]
    """Column → value → comparisons; "" stands for no value. In the order of the scale, where
    there is one, otherwise the most frequent first."""
    by_batch: Mapping[str, Mapping[str, Mapping[str, int]]]
    """strength and safety_label → batch → value → comparisons; batches by name, "" for none."""
    tokenizer_hashes: tuple[str, ...]
    """Who counted the tokens."""


def dataset_statistics(directory: Path) -> DatasetStatistics:
    """Statistics of a dataset of comparisons; superseded revisions do not count.

    Raises:
        DataError: no dataset, or one of other rows.
    """
    table = _read_columns(directory)
    hashes = pc.unique(table["tokenizer_hash"]).to_pylist()
    sums = table.group_by(["source", "tokenizer_hash"]).aggregate(
        [("turns", "count"), *((name, "sum") for name in _COUNTS)]
    )
    records = sums.to_pylist()
    sources = sorted({record["source"] for record in records})
    return DatasetStatistics(
        sources=tuple(
            _statistics(name, [r for r in records if r["source"] == name]) for name in sources
        ),
        total=_statistics("Total", records),
        distributions=MappingProxyType(
            {name: _counts(name, _value_counts(table[name])) for name in DISTRIBUTIONS}
        ),
        by_batch=MappingProxyType({name: _by_batch(name, table) for name in PER_BATCH}),
        tokenizer_hashes=tuple(sorted(hashes)),
    )


def _read_columns(directory: Path) -> pa.Table:
    columns = ["comparison_id", "revision", "source", "tokenizer_hash", *_COUNTS]
    columns += [name for name in DISTRIBUTIONS if name != "split"]
    tables = []
    for split in SPLITS:
        table = read_table(directory, Comparison, split=split, columns=columns)
        tables.append(table.append_column("split", pa.repeat(pa.scalar(split), len(table))))
    return latest_revisions(pa.concat_tables(tables))


def _statistics(source: str, records: list[dict[str, Any]]) -> SourceStatistics:
    """The means over the sums of a source, one record for each tokenizer."""
    comparisons = sum(record["turns_count"] for record in records)

    def mean(*columns: str) -> float:
        total = sum(record[f"{column}_sum"] for record in records for column in columns)
        return total / comparisons if comparisons else 0.0

    prompt, response = mean("prompt_tokens"), mean("chosen_tokens", "rejected_tokens") / 2
    one_tokenizer = len({record["tokenizer_hash"] for record in records}) <= 1
    return SourceStatistics(
        source=source,
        comparisons=comparisons,
        turns_per_dialogue=mean("turns"),
        tokens_per_example=prompt + response if one_tokenizer else None,
        tokens_in_prompt=prompt if one_tokenizer else None,
        tokens_in_response=response if one_tokenizer else None,
    )


def _by_batch(name: str, table: pa.Table) -> Mapping[str, Mapping[str, int]]:
    """Batch → value → comparisons, the batches in the order of their names and numbers."""
    counted = table.group_by(["batch", name]).aggregate([([], "count_all")])
    parts: dict[str, list[tuple[str | None, int]]] = {}
    for record in counted.to_pylist():
        found = parts.setdefault(record["batch"] or "", [])
        found.append((record[name], record["count_all"]))
    ordered = sorted(parts, key=lambda batch: [_number(word) for word in _DIGITS.split(batch)])
    return MappingProxyType({batch: _counts(name, parts[batch]) for batch in ordered})


def _number(word: str) -> tuple[int, str]:
    """Sorts batch 10 behind batch 9."""
    return (int(word), "") if word.isdecimal() else (-1, word)


def _counts(name: str, entries: Iterable[tuple[str | None, int]]) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for value, count in entries:
        counts[value or ""] = counts.get(value or "", 0) + count
    order = _ORDERS.get(name, ())
    place = {value: number for number, value in enumerate(order)}
    ordered = sorted(counts, key=lambda v: (place.get(v, len(order)), -counts[v], v))
    return MappingProxyType({value: counts[value] for value in ordered})


def _value_counts(column: pa.ChunkedArray) -> Iterator[tuple[str | None, int]]:
    for entry in pc.value_counts(column).to_pylist():
        yield entry["values"], entry["counts"]

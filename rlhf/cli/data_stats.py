"""`rlhf data stats`: Table 6 and the distributions of a dataset of comparisons."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from data.counting import describe_counter
from data.durable import write_durably
from data.errors import ConfigError
from data.statistics import DatasetStatistics, SourceStatistics, dataset_statistics
from rlhf.cli.parsing import parse

_SHOWN_VALUES = 20


@dataclass(frozen=True, kw_only=True)
class StatsConfig:
    """The columns of Llama 2's Table 6; how strengths, labels and annotators are distributed."""

    directory: Path
    """The dataset."""
    json: Path | None = None
    """Also write the figures to this JSON file."""

    def __post_init__(self) -> None:
        if self.json is not None and not self.json.absolute().parent.is_dir():
            raise ConfigError(f"json is {str(self.json)!r}; its folder does not exist; make it")


def main(argv: Sequence[str]) -> None:
    """Prints the tables; with --json also writes every figure."""
    config = parse(StatsConfig, argv, prog="rlhf data stats", positionals={"directory": "1"})
    statistics = dataset_statistics(config.directory)
    console = Console()
    console.print(_sources_table(statistics))
    for line in _counted_with(statistics.tokenizer_hashes):
        console.print(line, soft_wrap=True)
    for name, counts in statistics.distributions.items():
        if set(counts) == {""}:
            console.print(f"{name.replace('_', ' ')}: recorded for none")
        else:
            console.print(_distribution_table(name, counts))
    if config.json is not None:
        write_durably(config.json, (json.dumps(_plain(statistics), indent=2) + "\n").encode())


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


def _counted_with(hashes: Sequence[str]) -> list[str]:
    lines = [f"tokens are {describe_counter(name)}" for name in hashes]
    if len(hashes) > 1:
        lines.append("counts of different tokenizers are not mixed: their means are left out (–)")
    return lines


def _distribution_table(name: str, counts: Mapping[str, int]) -> Table:
    table = Table(title=name.replace("_", " "), box=SIMPLE)
    table.add_column("value")
    table.add_column("comparisons", justify="right")
    table.add_column("share", justify="right")
    total = sum(counts.values())
    shown = list(counts.items())[:_SHOWN_VALUES]
    for value, count in shown:
        table.add_row(value or "(none)", f"{count:,}", f"{count / total:.1%}")
    rest = total - sum(count for _, count in shown)
    if rest:
        others = f"({len(counts) - len(shown):,} others)"
        table.add_row(others, f"{rest:,}", f"{rest / total:.1%}")
    return table


def _plain(statistics: DatasetStatistics) -> dict[str, object]:
    return {
        "sources": [asdict(row) for row in statistics.sources],
        "total": asdict(statistics.total),
        "distributions": {name: dict(c) for name, c in statistics.distributions.items()},
        "tokenizer_hashes": list(statistics.tokenizer_hashes),
    }

"""`rlhf data stats`: Table 6 and the distributions of comparisons; votes; judgements."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data.durable import write_durably
from data.errors import ConfigError, DataError
from data.importers.imported import TIES
from data.manifest import open_manifest
from data.schemas import Comparison, Judgement, Vote
from data.statistics import DatasetStatistics, dataset_statistics
from data.verdict_statistics import VoteStatistics, judgement_statistics, vote_statistics
from rlhf.cli.data_stats_views import View, comparison_views, judgement_views, vote_views
from rlhf.cli.parsing import parse
from rlhf.run import open_console


@dataclass(frozen=True, kw_only=True)
class StatsConfig:
    """Table 6 and distributions of comparisons, agreement of votes, shares of safe responses."""

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
    views, figures = _statistics(config.directory)
    console = open_console()
    for view in views:
        console.print(view, soft_wrap=isinstance(view, str))
    if config.json is not None:
        write_durably(config.json, (json.dumps(figures, indent=2) + "\n").encode())


def _statistics(directory: Path) -> tuple[list[View], dict[str, Any]]:
    """What is printed, and what is written."""
    manifest = open_manifest(directory)
    if manifest.row_type is Comparison:
        statistics, ties = dataset_statistics(directory), _num_ties(directory)
        return list(comparison_views(statistics, ties)), _plain(statistics) | {"ties": ties}
    if manifest.row_type is Vote:
        votes = vote_statistics(directory)
        return list(vote_views(votes)), _plain_votes(votes)
    if manifest.row_type is Judgement:
        kinds = judgement_statistics(directory)
        return list(judgement_views(kinds)), {"kinds": [asdict(kind) for kind in kinds]}
    raise DataError(
        f"{str(directory)!r} holds {manifest.schema}s; statistics are of comparisons, votes and "
        "judgements"
    )


def _num_ties(directory: Path) -> int:
    """What an import set aside, because a tie is no comparison."""
    path = directory / TIES
    return pq.read_metadata(path).num_rows if path.is_file() else 0


def _plain(statistics: DatasetStatistics) -> dict[str, Any]:
    return {
        "sources": [asdict(row) for row in statistics.sources],
        "total": asdict(statistics.total),
        "distributions": {name: dict(c) for name, c in statistics.distributions.items()},
        "by_batch": {
            name: {batch: dict(counts) for batch, counts in batches.items()}
            for name, batches in statistics.by_batch.items()
        },
        "tokenizer_hashes": list(statistics.tokenizer_hashes),
    }


def _plain_votes(votes: VoteStatistics) -> dict[str, Any]:
    return {
        "votes": votes.votes,
        "items": votes.items,
        "judges": votes.judges,
        "winners": dict(votes.winners),
        "with_ties": asdict(votes.with_ties),
        "without_ties": asdict(votes.without_ties),
    }

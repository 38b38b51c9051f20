"""`rlhf data import hh-rlhf`: Anthropic's HH transcripts to a Parquet dataset."""

from collections.abc import Sequence
from dataclasses import dataclass

from data.importers.hh_rlhf import read_files
from data.schemas import Comparison, Domain
from rlhf.cli.data_importing import ImportConfig, counter_of, publish_and_report
from rlhf.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class ImportHhConfig(ImportConfig):
    """Anthropic's HH transcripts to a Parquet dataset of comparisons, split by prompt."""

    domain: Domain | None = None
    """Of all files; by default harmless* is safety and helpful* is helpfulness."""


def main(argv: Sequence[str]) -> None:
    """Reads every file, then publishes all splits at once, then says what was kept."""
    config = parse(
        ImportHhConfig, argv, prog="rlhf data import hh-rlhf", positionals={"files": "+"}
    )
    counter = counter_of(config.tokenizer)
    files = read_files(config.files, counter, domain=config.domain, strict=config.strict)
    publish_and_report(config, files, Comparison, "hh-rlhf")

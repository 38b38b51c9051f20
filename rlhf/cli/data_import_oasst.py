"""`rlhf data import oasst`: OpenAssistant's ranked trees to comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass

from data.importers.oasst import read_files
from data.schemas import Comparison
from rlhf.cli.data_importing import ImportConfig, counter_of, publish_and_report
from rlhf.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class ImportOasstConfig(ImportConfig):
    """OpenAssistant's ranked trees to comparisons."""


def main(argv: Sequence[str]) -> None:
    """Reads every file, publishes all splits at once, says what was kept."""
    config = parse(
        ImportOasstConfig, argv, prog="rlhf data import oasst", positionals={"files": "+"}
    )
    files = read_files(config.files, counter_of(config.tokenizer), strict=config.strict)
    publish_and_report(config, files, Comparison, "oasst")

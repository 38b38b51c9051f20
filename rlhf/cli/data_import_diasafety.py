"""`rlhf data import diasafety`: DiaSafety's labels to judgements of single responses."""

from collections.abc import Sequence
from dataclasses import dataclass

from data.importers.safety_labels import read_files
from data.schemas import Judgement
from rlhf.cli.data_importing import ImportConfig, publish_and_report
from rlhf.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class ImportDiasafetyConfig(ImportConfig):
    """DiaSafety's labels to judgements of single responses."""


def main(argv: Sequence[str]) -> None:
    """Reads every file, publishes all splits at once, says what was kept."""
    config = parse(
        ImportDiasafetyConfig, argv, prog="rlhf data import diasafety", positionals={"files": "+"}
    )
    files = read_files(config.files, "diasafety", strict=config.strict)
    publish_and_report(config, files, Judgement, "diasafety")

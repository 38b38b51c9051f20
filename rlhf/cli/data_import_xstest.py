"""`rlhf data import xstest`: XSTest's labelled completions to judgements of single responses."""

from collections.abc import Sequence
from dataclasses import dataclass

from data.importers.safety_labels import read_files
from data.schemas import Judgement
from rlhf.cli.data_importing import ImportConfig, publish_and_report
from rlhf.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class ImportXstestConfig(ImportConfig):
    """XSTest's labelled completions to judgements of single responses."""


def main(argv: Sequence[str]) -> None:
    """Reads every file, publishes all splits at once, says what was kept."""
    config = parse(
        ImportXstestConfig, argv, prog="rlhf data import xstest", positionals={"files": "+"}
    )
    files = read_files(config.files, "xstest", strict=config.strict)
    publish_and_report(config, files, Judgement, "xstest")

"""`rlhf data import qa-feedback`: QA-Feedback's pair labels to comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass

from data.importers.qa_feedback import read_files
from data.schemas import Comparison
from rlhf.cli.data_importing import ImportConfig, counter_of, publish_and_report
from rlhf.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class ImportQaFeedbackConfig(ImportConfig):
    """QA-Feedback's pair labels to comparisons."""


def main(argv: Sequence[str]) -> None:
    """Reads every file, publishes all splits at once, says what was kept."""
    config = parse(
        ImportQaFeedbackConfig,
        argv,
        prog="rlhf data import qa-feedback",
        positionals={"files": "+"},
    )
    files = read_files(config.files, counter_of(config.tokenizer), strict=config.strict)
    publish_and_report(config, files, Comparison, "qa-feedback")

"""`rlhf data import mtbench-votes`: MT-Bench's votes, several judges on a pair."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.importers.mtbench_votes import read_files
from data.schemas import Vote
from rlhf.cli.data_importing import ImportConfig, publish_and_report
from rlhf.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class ImportMtbenchConfig(ImportConfig):
    """MT-Bench's votes, several judges on a pair."""

    questions: Path
    """question.jsonl of MT-Bench: the texts that were asked."""


def main(argv: Sequence[str]) -> None:
    """Reads every file, publishes all splits at once, says what was kept."""
    config = parse(
        ImportMtbenchConfig, argv, prog="rlhf data import mtbench-votes", positionals={"files": "+"}
    )
    files = read_files(config.files, config.questions, strict=config.strict)
    publish_and_report(config, files, Vote, "mtbench-votes")

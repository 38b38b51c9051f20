"""`rlhf report`: one HTML file with the tables and plots of a quickstart run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from policy.evaluation.report import write_report
from rlhf.cli.parsing import parse
from rlhf.run import console


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write report.html, which opens offline, into the directory of a quickstart."""

    run: Path
    """Directory of a finished `rlhf quickstart`."""


def main(argv: Sequence[str]) -> None:
    """Writes the report and says where it is."""
    config = parse(ReportConfig, argv, prog="rlhf report", positionals={"run": "1"})
    path = write_report(config.run)
    console.print(f"wrote {path}", highlight=False, soft_wrap=True)

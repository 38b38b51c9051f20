"""`rlhf data export trl`: a dataset as JSON lines with TRL's column names."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.margins import MARGIN_SCALES, MarginScale
from data.trl_export import export_trl
from rlhf.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a dataset as TRL reads it: one file of JSON lines for each split."""

    directory: Path
    """The dataset."""
    out: Path
    """Where the files go."""
    margins: MarginScale | None = None
    """Adds the column margin from the strengths (Llama 2, Table 27); none by default."""


def main(argv: Sequence[str]) -> None:
    """Writes the files and says how many rows each has."""
    config = parse(ExportConfig, argv, prog="rlhf data export trl", positionals={"directory": "1"})
    margins = config.margins and MARGIN_SCALES[config.margins]
    for split, rows in export_trl(config.directory, config.out, margins=margins).items():
        print(f"{split}: {rows:,} rows in {config.out / split}.jsonl")

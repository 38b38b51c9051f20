"""`rlhf data import hh-rlhf`: Anthropic's HH transcripts to a Parquet dataset."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from data.counting import TokenCounter, TokenizerCounter, WordCounter
from data.errors import ConfigError, require_not_negative
from data.importers.hh_rlhf import DROPPED, REASONS, ImportedFile, publish_files, read_files
from data.manifest import Manifest
from data.schemas import SPLITS, Domain
from rlhf.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class ImportHhConfig:
    """Anthropic's HH transcripts to a Parquet dataset of comparisons, split by prompt."""

    files: tuple[Path, ...]
    """JSON-lines files of the publisher, plain or .gz."""
    out: Path
    """Directory of the dataset: new, empty, or the same import once more."""
    tokenizer: Path | None = None
    """tokenizer.model that counts the tokens; without one, words are counted."""
    validation: float = 0.1
    """Share of the prompts for validation."""
    test: float = 0.2
    """Share of the prompts for testing."""
    seed: int = 0
    """Another seed splits the prompts differently."""
    domain: Domain | None = None
    """Of all files; by default harmless* is safety and helpful* is helpfulness."""

    def __post_init__(self) -> None:
        require_not_negative(self, "seed")
        if min(self.validation, self.test) < 0 or self.validation + self.test >= 1:
            raise ConfigError(
                f"validation is {self.validation} and test is {self.test}; shares are 0 or more "
                "and leave something for train; try 0.1 and 0.2"
            )


def main(argv: Sequence[str]) -> None:
    """Reads every file, then publishes all splits at once, then says what was kept."""
    config = parse(
        ImportHhConfig, argv, prog="rlhf data import hh-rlhf", positionals={"files": "+"}
    )
    files = read_files(config.files, _counter(config.tokenizer), domain=config.domain)
    manifest = publish_files(
        config.out, files, validation=config.validation, test=config.test, seed=config.seed
    )
    console = Console()
    console.print(_files_table(files))
    console.print(_splits_table(manifest))
    console.print(f"dataset: {config.out}", soft_wrap=True)
    console.print(f"dropped lines: {config.out / DROPPED}", soft_wrap=True)


def _counter(tokenizer: Path | None) -> TokenCounter:
    if tokenizer is None:
        return WordCounter()
    from data.tokenizer import Tokenizer  # needs sentencepiece, which counting words does not

    return TokenizerCounter(Tokenizer.load(tokenizer))


def _files_table(files: Sequence[ImportedFile]) -> Table:
    table = Table(title="What became of the lines", box=SIMPLE)
    table.add_column("file", overflow="fold")
    table.add_column("outcome", no_wrap=True)
    table.add_column("lines", justify="right", no_wrap=True)
    for file in files:
        name = Path(
            *file.path.absolute().parts[-2:]
        )  # every folder of the publisher has a test.jsonl
        table.add_row(str(name), "kept", f"{len(file.rows):,}")
        for reason in REASONS:
            table.add_row("", f"dropped: {reason}", f"{file.num_dropped(reason):,}")
        table.add_section()
    return table


def _splits_table(manifest: Manifest) -> Table:
    table = Table(title="Comparisons in the dataset", box=SIMPLE)
    for name in (*SPLITS, "total"):
        table.add_column(name, justify="right")
    numbers = [manifest.num_rows(split) for split in (*SPLITS, None)]
    table.add_row(*(f"{number:,}" for number in numbers))
    return table

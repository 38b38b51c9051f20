"""What the `rlhf data import …` commands share: options, publication, the tables they print."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE
from rich.table import Table

from data.counting import TokenCounter, TokenizerCounter, WordCounter
from data.errors import ConfigError, DataError, require_not_negative
from data.importers.imported import DROPPED, TIES, ImportedFile, publish_files, reasons_of
from data.manifest import Manifest
from data.schemas import SPLITS, R
from rlhf.run import open_console

_SHOWN_LINES, _SHOWN_LETTERS = 5, 80


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """The options of every import; each format adds its own.

    Inherited, against our habit: they stand at the top of each command line, and eight copies of
    them would drift apart.
    """

    files: tuple[Path, ...]
    """Files of the publisher."""
    out: Path
    """Directory of the dataset: new, empty, or the same import once more."""
    tokenizer: Path | None = None
    """tokenizer.model that counts the tokens of comparisons; without one, words are counted."""
    validation: float = 0.1
    """Share of the prompts for validation."""
    test: float = 0.2
    """Share of the prompts for testing."""
    seed: int = 0
    """Another seed splits the prompts differently."""
    strict: bool = False
    """Stop at the first malformed line instead of setting it aside."""

    def __post_init__(self) -> None:
        require_not_negative(self, "seed")
        if min(self.validation, self.test) < 0 or self.validation + self.test >= 1:
            raise ConfigError(
                f"validation is {self.validation} and test is {self.test}; shares are 0 or more "
                "and leave something for train; try 0.1 and 0.2"
            )


def counter_of(tokenizer: Path | None) -> TokenCounter:
    """Counts pieces of a tokenizer, or words."""
    if tokenizer is None:
        return WordCounter()
    from data.tokenizer import Tokenizer  # needs sentencepiece, which counting words does not

    return TokenizerCounter(Tokenizer.load(tokenizer))


def publish_and_report(
    config: ImportConfig, files: Sequence[ImportedFile[R]], row_type: type[R], name: str
) -> None:
    """Publishes all splits at once, then says what was kept and what was not."""
    manifest = publish_files(
        config.out,
        files,
        row_type,
        name=name,
        validation=config.validation,
        test=config.test,
        seed=config.seed,
    )
    console = open_console()
    console.print(_files_table(files))
    console.print(_splits_table(manifest, row_type))
    for told in _malformed_lines(files):
        console.print(told, soft_wrap=True, markup=False, highlight=False)
    console.print(f"dataset: {config.out}", soft_wrap=True)
    console.print(f"dropped lines: {config.out / DROPPED}", soft_wrap=True)
    if any(file.ties for file in files):
        console.print(f"ties: {config.out / TIES}", soft_wrap=True)
    if not manifest.num_rows() and not any(file.ties for file in files):
        raise DataError(
            f"none of the records became a {row_type.__name__}; {str(config.out / DROPPED)!r} says "
            "why: is this the right importer, and are its columns named (--map)?"
        )


def _malformed_lines(files: Sequence[ImportedFile[R]]) -> Iterator[str]:
    """Where the first malformed lines stand, and how many more there are."""
    lines = [line for file in files for line in file.dropped if line.reason == "malformed"]
    for line in lines[:_SHOWN_LINES]:
        yield f"malformed: {line.file}:{line.line}: {line.text[:_SHOWN_LETTERS]}"
    if len(lines) > _SHOWN_LINES:
        yield f"malformed: and {len(lines) - _SHOWN_LINES:,} more, all in {DROPPED}"


def _files_table(files: Sequence[ImportedFile[R]]) -> Table:
    table = Table(title="What became of the records", box=SIMPLE)
    table.add_column("file", overflow="fold")
    table.add_column("outcome")
    table.add_column("rows", justify="right", no_wrap=True)
    reasons = ["malformed", *sorted(set(reasons_of(files)) - {"malformed"})]
    for file in files:
        name = Path(
            *file.path.absolute().parts[-2:]
        )  # every folder of a publisher may have a test.jsonl
        table.add_row(str(name), "kept", f"{len(file.rows):,}")
        rate = len(file.rows) / max(file.seconds, 1e-9)
        table.add_row("", "rows/s", f"{rate:,.0f}")
        table.add_row("", "ties", f"{len(file.ties):,}")
        for reason in reasons:
            table.add_row("", f"dropped: {reason}", f"{file.num_dropped(reason):,}")
        table.add_section()
    return table


def _splits_table(manifest: Manifest, row_type: type[R]) -> Table:
    table = Table(title=f"{row_type.__name__}s in the dataset", box=SIMPLE)
    for name in (*SPLITS, "total"):
        table.add_column(name, justify="right")
    numbers = [manifest.num_rows(split) for split in (*SPLITS, None)]
    table.add_row(*(f"{number:,}" for number in numbers))
    return table

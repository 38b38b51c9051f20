"""`rlhf data import generic`: JSON lines, CSV, Parquet or a saved `datasets` directory."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from data.importers.generic import read_comparisons, read_demonstrations
from data.margins import MarginScale
from data.schemas import Comparison, Demonstration, Domain
from rlhf.cli.data_importing import ImportConfig, counter_of, publish_and_report
from rlhf.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class ImportGenericConfig(ImportConfig):
    """Preferences (prompt, chosen, rejected) or dialogues (messages) of any tabular file."""

    domain: Domain
    """Of all rows: helpfulness or safety."""
    source: str
    """Name of the data; stands in every row."""
    rows: Literal["comparisons", "demonstrations"] = "comparisons"
    """What to make: demonstrations come from messages, or from prompt and completion."""
    map: dict[str, str] = field(default_factory=dict)
    """Our column = the file's: --map prompt=question --map chosen=good."""
    margins: MarginScale = "large"
    """The scale of a column margin (Llama 2, Table 27): large is 3, 2, 1, 0."""


def main(argv: Sequence[str]) -> None:
    """Reads every file, publishes all splits at once, says what was kept."""
    config = parse(
        ImportGenericConfig,
        _with_keys(argv),
        prog="rlhf data import generic",
        positionals={"files": "+"},
    )
    if config.rows == "comparisons":
        comparisons = read_comparisons(
            config.files,
            counter_of(config.tokenizer),
            domain=config.domain,
            source=config.source,
            columns=config.map,
            margins=config.margins,
            strict=config.strict,
        )
        publish_and_report(config, comparisons, Comparison, "generic")
        return
    demonstrations = read_demonstrations(
        config.files,
        domain=config.domain,
        source=config.source,
        columns=config.map,
        strict=config.strict,
    )
    publish_and_report(config, demonstrations, Demonstration, "generic")


def _with_keys(argv: Sequence[str]) -> list[str]:
    """`--map a=b` as the parser writes the key of a dictionary: `--map.a=b`."""
    words: list[str] = []
    for word in argv:
        if words and words[-1] == "--map" and "=" in word:
            words[-1] = f"--map.{word}"
        else:
            words.append(word)
    return words

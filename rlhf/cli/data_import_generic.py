"""`rlhf data import generic`: JSON lines, CSV, Parquet or a saved `datasets` directory."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from data.importers.generic import read_comparisons, read_demonstrations, read_prompts
from data.margins import MarginScale
from data.schemas import Comparison, Demonstration, Domain, Prompt
from rlhf.cli.data_importing import ImportConfig, counter_of, publish_and_report
from rlhf.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class ImportGenericConfig(ImportConfig):
    """Preferences (prompt, chosen, rejected), dialogues (messages) or prompts of any table."""

    domain: Domain
    """Of all rows: helpfulness or safety."""
    source: str
    """Name of the data; stands in every row."""
    rows: Literal["comparisons", "demonstrations", "prompts"] = "comparisons"
    """What to make: demonstrations come from messages, or from prompt and completion; prompts from
    prompt, or from messages that end with the user's."""
    map: dict[str, str] = field(default_factory=dict)
    """Our column = the file's: --map prompt=question --map chosen=good."""
    margins: MarginScale = "large"
    """The scale of a column margin (Llama 2, Table 27): large is 3, 2, 1, 0."""


class Given(TypedDict):
    """What every kind of row is read with."""

    domain: Domain
    source: str
    columns: dict[str, str]
    strict: bool


def main(argv: Sequence[str]) -> None:
    """Reads every file, publishes all splits at once, says what was kept."""
    config = parse(
        ImportGenericConfig,
        _with_keys(argv),
        prog="rlhf data import generic",
        positionals={"files": "+"},
    )
    given: Given = {
        "domain": config.domain,
        "source": config.source,
        "columns": config.map,
        "strict": config.strict,
    }
    match config.rows:
        case "comparisons":
            counter = counter_of(config.tokenizer)
            found = read_comparisons(config.files, counter, margins=config.margins, **given)
            publish_and_report(config, found, Comparison, "generic")
        case "demonstrations":
            demonstrations = read_demonstrations(config.files, **given)
            publish_and_report(config, demonstrations, Demonstration, "generic")
        case "prompts":
            prompts = read_prompts(config.files, **given)
            publish_and_report(config, prompts, Prompt, "generic")


def _with_keys(argv: Sequence[str]) -> list[str]:
    """`--map a=b` as the parser writes the key of a dictionary: `--map.a=b`."""
    words: list[str] = []
    for word in argv:
        if words and words[-1] == "--map" and "=" in word:
            words[-1] = f"--map.{word}"
        else:
            words.append(word)
    return words

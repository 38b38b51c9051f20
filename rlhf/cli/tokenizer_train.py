"""`rlhf tokenizer train`: a SentencePiece BPE tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import ConfigError
from data.texts import read_texts
from data.tokenizer import train_tokenizer
from rlhf.actors.placement import Placement
from rlhf.cli.parsing import parse
from rlhf.cli.runs import begin, report_line


@dataclass(frozen=True, kw_only=True)
class TokenizerTrainConfig:
    """Train a SentencePiece BPE tokenizer: digits split, bytes for unknown characters."""

    input: Path
    """Text with a document per line (.txt, .gz), a Parquet file, a directory of these, or a dataset
    of dialogues."""
    column: str = "text"
    """Of Parquet files that are no dataset of ours."""
    out: Path
    """Directory for tokenizer.model."""
    vocab_size: int = 32_000
    """Number of pieces, byte and control pieces included (Llama 2: 32k)."""

    placement = Placement(ray=False)

    def __post_init__(self) -> None:
        if self.vocab_size < 1:
            raise ConfigError(f"vocab_size is {self.vocab_size}; it must be above 0")


def main(argv: Sequence[str]) -> None:
    """Trains the tokenizer, or finds it trained."""
    config = parse(TokenizerTrainConfig, argv, prog="rlhf tokenizer train")
    run = begin("tokenizer train", config)
    if run is None:
        return
    tokenizer = train_tokenizer(read_texts(config.input, config.column), config.vocab_size)
    tokenizer.save(config.out)
    run.finish(hash=tokenizer.hash)
    report_line("tokenizer train", run, pieces=tokenizer.vocab_size)

"""`rlhf convert`: models between formats."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from data.errors import ConfigError, DataError, require_positive
from data.tokenizer import ChatForm, TagsInText, Tokenizer
from rlhf.cli.parsing import parse
from rlhf.convert.checkpoint import Checkpoint, write_directory
from rlhf.convert.huggingface import read_huggingface, write_huggingface
from rlhf.convert.llama2c import read_llama2c, read_llama2c_tokenizer
from rlhf.convert.meta import read_meta, write_meta

GB = 10**9
OF_META = "consolidated.*.pth"


@dataclass(frozen=True, kw_only=True)
class ConvertCommand:
    """Convert a model: Hugging Face directories (ours are such), Meta's files, llama2.c's."""

    source: Path
    """Directory of the model, or llama2.c's .bin file."""
    out: Path
    """Directory to write; must not exist."""
    from_: Literal["hf", "ours", "meta", "llama2c"]
    """Format of the source; "ours" is "hf"."""
    to: Literal["hf", "ours", "meta"] = "hf"
    """Format to write. "ours" is "hf": safetensors, tokenizer and chat template."""
    tokenizer: Path | None = None
    """tokenizer.model, a directory with one, or llama2.c's tokenizer; by default what stands beside
    the source."""
    tags_in_text: TagsInText = "refuse"
    """What becomes of "[INST]" in a user's message where the tokenizer has no control pieces."""
    chat_form: ChatForm | None = None
    """How the model is to be talked to: in Llama 2's form, or as plain text that it continues; by
    default as the source says, llama2 where it says nothing."""
    context: int = 4096
    """Longest sequence of a model of Meta's, whose files do not tell (Llama 1: 2048)."""
    shard_gb: float = 5.0
    """Largest file of a Hugging Face directory, in 10^9 bytes."""
    shards: int = 1
    """Files of a model of Meta's, one per model-parallel rank."""

    def __post_init__(self) -> None:
        require_positive(self, "context", "shard_gb", "shards")


def main(argv: Sequence[str]) -> None:
    """Reads the source's shapes, then writes tensor by tensor; the result is complete or absent."""
    config = parse(ConvertCommand, argv, prog="rlhf convert", positionals={"source": "1"})
    checkpoint = read_checkpoint(config)
    if config.to == "meta":
        write_directory(config.out, lambda to: write_meta(checkpoint, to, config.shards))
    else:
        most = round(config.shard_gb * GB)
        write_directory(config.out, lambda to: write_huggingface(checkpoint, to, most))
    count = sum(p.numel() for p in checkpoint.empty_model().parameters())
    kind = "reward model" if checkpoint.scalar else "language model"
    found = "with its tokenizer" if checkpoint.tokenizer else "no tokenizer was found (--tokenizer)"
    print(f"convert: {config.out}, a {kind} of {count:,} parameters; {found}")


def read_checkpoint(config: ConvertCommand) -> Checkpoint:
    """The source with its tokenizer.

    Raises:
        ConfigError: the source is of another format than the one named.
        DataError: it is damaged, or its tokenizer does not fit.
    """
    if config.from_ == "llama2c":
        return _read_llama2c(config)
    _check_format(config)
    if config.from_ == "meta":
        checkpoint = read_meta(config.source, context=config.context)
    else:
        checkpoint = read_huggingface(config.source)
    tokenizer = checkpoint.tokenizer
    if config.tokenizer is not None:
        tokenizer = Tokenizer.load(config.tokenizer)
    if tokenizer is None:
        return checkpoint
    if tokenizer.vocab_size != checkpoint.config.vocab_size:
        raise _misfit(tokenizer, checkpoint)
    return replace(checkpoint, tokenizer=_as_asked(tokenizer, config))


def _read_llama2c(config: ConvertCommand) -> Checkpoint:
    checkpoint = read_llama2c(config.source)
    places = (
        [config.tokenizer] if config.tokenizer else sorted(config.source.parent.glob("tok*.bin"))
    )
    for path in places:
        is_theirs = path.suffix == ".bin"
        tokenizer = read_llama2c_tokenizer(path) if is_theirs else Tokenizer.load(path)
        if tokenizer.vocab_size == checkpoint.config.vocab_size:
            return replace(checkpoint, tokenizer=_as_asked(tokenizer, config))
    if config.tokenizer is not None:
        raise _misfit(tokenizer, checkpoint)
    return checkpoint


def _as_asked(tokenizer: Tokenizer, config: ConvertCommand) -> Tokenizer:
    tokenizer = tokenizer.with_tags_in_text(config.tags_in_text)
    return tokenizer if config.chat_form is None else tokenizer.with_chat_form(config.chat_form)


def _misfit(tokenizer: Tokenizer, checkpoint: Checkpoint) -> DataError:
    return DataError(
        f"the tokenizer has {tokenizer.vocab_size} pieces, the model "
        f"{checkpoint.config.vocab_size} ids; name the model's own with --tokenizer"
    )


def _check_format(config: ConvertCommand) -> None:
    """A better word than a missing file where the formats are mixed up."""
    source = config.source
    if not source.is_dir():
        raise DataError(
            f"{str(source)!r} is no directory; supported are directories of Hugging Face's and "
            "Meta's form, and legacy .bin files of llama2.c with --from llama2c"
        )
    is_meta = any(source.glob(OF_META)) and not (source / "config.json").is_file()
    if config.from_ != "meta" and is_meta:
        raise ConfigError(f"{str(source)!r} holds {OF_META}: a model of Meta's; use --from meta")
    if config.from_ == "meta" and (source / "config.json").is_file():
        raise ConfigError(f"{str(source)!r} has a config.json; use --from hf")

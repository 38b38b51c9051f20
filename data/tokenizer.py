"""SentencePiece: train, load, encode, decode. The only file that imports it."""

import hashlib
import io
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import sentencepiece

from data.durable import write_durably
from data.errors import ConfigError, DataError

PAD_PIECE = "<pad>"
INSTRUCTION_PIECES = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")
"""Control pieces: reserved ids that no text can produce. [/INST] separates prompt from answer."""

NUM_BYTE_PIECES = 256
MIN_VOCAB_SIZE = NUM_BYTE_PIECES + 64


class Tokenizer:
    """Text to ids and back, with the ids of the special pieces."""

    def __init__(self, model_bytes: bytes) -> None:
        self._bytes = model_bytes
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """From a `tokenizer.model`, or from a directory that holds one.

        Raises:
            DataError: no such file, or not a SentencePiece model.
        """
        file = path / "tokenizer.model" if path.is_dir() else path
        if not file.is_file():
            raise DataError(f"no tokenizer at {str(file)!r}; `rlhf tokenizer train` makes one")
        try:
            tokenizer = cls(file.read_bytes())
        except RuntimeError as error:
            raise DataError(
                f"{str(file)!r} is not a SentencePiece model; `rlhf tokenizer train` makes one"
            ) from error
        if not tokenizer._bytes:  # SentencePiece takes an empty file for "nothing loaded yet"
            raise DataError(f"{str(file)!r} is empty; `rlhf tokenizer train` makes one")
        return tokenizer

    def save(self, directory: Path) -> None:
        """Writes `tokenizer.model` into the directory."""
        directory.mkdir(parents=True, exist_ok=True)
        write_durably(directory / "tokenizer.model", self._bytes)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; no special piece is ever among them."""
        return self._processor.encode(text)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """`encode` of each text, in native threads."""
        return self._processor.encode(texts)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special pieces are left out."""
        return self._processor.decode([i for i in ids if not self._processor.is_control(i)])

    def piece_id(self, piece: str) -> int | None:
        """The id of a piece, or None where the vocabulary lacks it."""
        index = self._processor.piece_to_id(piece)
        return None if index == self._processor.unk_id() else index

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self._processor.vocab_size()

    @property
    def bos_id(self) -> int:
        """Begins every turn."""
        return self._processor.bos_id()

    @property
    def eos_id(self) -> int:
        """Ends every answer."""
        return self._processor.eos_id()

    @cached_property
    def pad_id(self) -> int:
        """Fills up batches; never equal to EOS.

        Where the vocabulary has none: the unknown piece, which byte fallback keeps out of texts.
        """
        index = self.piece_id(PAD_PIECE)
        return self._processor.unk_id() if index is None else index

    @property
    def special_ids(self) -> dict[str, int]:
        """As config.json of a model names them."""
        return {
            "bos_token_id": self.bos_id,
            "eos_token_id": self.eos_id,
            "pad_token_id": self.pad_id,
        }

    @cached_property
    def has_instruction_pieces(self) -> bool:
        """Whether the chat tags are control pieces here, as in the tokenizers that we train."""
        ids = [self.piece_id(piece) for piece in INSTRUCTION_PIECES]
        return all(i is not None and self._processor.is_control(i) for i in ids)

    @cached_property
    def hash(self) -> str:
        """Names this vocabulary; stored beside every token count."""
        return hashlib.sha256(self._bytes).hexdigest()[:16]


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """BPE as in Llama 2, section 2.2.1: digits split, bytes for unknown characters.

    The same texts in the same order give the same model.

    Raises:
        ConfigError: the vocabulary is too small, or larger than the texts can fill.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise ConfigError(
            f"vocab_size is {vocab_size}; byte fallback and special pieces alone need "
            f"{MIN_VOCAB_SIZE} or more"
        )
    buffer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=buffer,
            model_type="bpe",
            vocab_size=vocab_size,
            split_digits=True,
            byte_fallback=True,
            allow_whitespace_only_pieces=True,
            remove_extra_whitespaces=False,
            normalization_rule_name="identity",
            character_coverage=0.99995,
            max_sentence_length=1 << 20,
            control_symbols=[PAD_PIECE, *INSTRUCTION_PIECES],
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ConfigError(
            f"vocab_size is {vocab_size}; SentencePiece cannot build it from these texts: "
            f"{str(error).strip().splitlines()[-1]}"
        ) from error
    return Tokenizer(buffer.getvalue())

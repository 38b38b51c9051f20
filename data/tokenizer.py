"""SentencePiece: train, load, encode, decode. The only file that imports it.

Beside tokenizer.model stand tokenizer.json and tokenizer_config.json, from which other programs
make the same ids; we read nothing from them but TAGS_KEY and FORM_KEY.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import sentencepiece

from data.chat_template import INSTRUCTION_PIECES, chat_template, plain_template
from data.durable import write_durably
from data.errors import ConfigError, DataError
from data.sentencepiece_file import PieceKind, parse_model
from data.tokenizer_json import tokenizer_json

PAD_PIECE = "<pad>"
"""A control piece in the tokenizers that we train, as the chat tags are: no text produces them."""
TAGS_KEY = "tags_in_text"
"""Of tokenizer_config.json; see `Tokenizer.tags_in_text`."""
FORM_KEY = "chat_form"
"""Of tokenizer_config.json; see `Tokenizer.chat_form`."""
CONFIG_FILE = "tokenizer_config.json"
TagsInText = Literal["refuse", "escape"]
ChatForm = Literal["llama2", "plain"]

_NO_BLANK = "\x01"
"""Stands in no piece of a vocabulary; behind it a text begins without a blank."""

NUM_BYTE_PIECES = 256
MIN_VOCAB_SIZE = NUM_BYTE_PIECES + 64


class Tokenizer:
    """Text to ids and back, with the ids of the special pieces."""

    def __init__(
        self,
        model_bytes: bytes,
        tags_in_text: TagsInText = "refuse",
        chat_form: ChatForm = "llama2",
    ) -> None:
        self._bytes = model_bytes
        self.tags_in_text: TagsInText = tags_in_text
        """What becomes of a user's "[INST]" where the tags are no control pieces."""
        self.chat_form: ChatForm = chat_form
        """How a dialogue is written: in Llama 2's form, or as plain text that is continued."""
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """From a `tokenizer.model`, or from a directory that holds one.

        Raises:
            DataError: no such file, or not a SentencePiece model.
        """
        file = path / "tokenizer.model" if path.is_dir() else path
        if not file.is_file():
            if file.with_name("tokenizer.json").is_file():
                raise DataError(
                    f"{str(path)!r} has a tokenizer.json but no tokenizer.model; only "
                    "SentencePiece tokenizers (Llama 1 and 2, and ours) are supported"
                )
            raise DataError(f"no tokenizer at {str(file)!r}; `rlhf tokenizer train` makes one")
        try:
            config = file.with_name(CONFIG_FILE)
            tags, form = _choice(config, TAGS_KEY, TagsInText), _choice(config, FORM_KEY, ChatForm)
            tokenizer = cls(file.read_bytes(), tags, form)
        except RuntimeError as error:
            raise DataError(
                f"{str(file)!r} is not a SentencePiece model; `rlhf tokenizer train` makes one"
            ) from error
        if not tokenizer._bytes:  # SentencePiece takes an empty file for "nothing loaded yet"
            raise DataError(f"{str(file)!r} is empty; `rlhf tokenizer train` makes one")
        return tokenizer

    def with_tags_in_text(self, choice: TagsInText) -> "Tokenizer":
        """The same vocabulary with another choice about tags in messages."""
        return Tokenizer(self._bytes, choice, self.chat_form)

    def with_chat_form(self, form: ChatForm) -> "Tokenizer":
        """The same vocabulary with another form of dialogues."""
        return Tokenizer(self._bytes, self.tags_in_text, form)

    def save(self, directory: Path) -> None:
        """Writes tokenizer.model, tokenizer.json and tokenizer_config.json into the directory.

        Raises:
            DataError: a foreign model that is not like Llama's.
        """
        directory.mkdir(parents=True, exist_ok=True)
        write_durably(directory / "tokenizer.json", self._json)
        config = json.dumps(self._hf_config(), indent=2, ensure_ascii=False) + "\n"
        write_durably(directory / CONFIG_FILE, config.encode())
        write_durably(directory / "tokenizer.model", self._bytes)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; no special piece is ever among them.

        Halves of surrogate pairs, which JSON can smuggle into a text, count as U+FFFD; so does what
        is no UTF-8 where SentencePiece reads bytes.
        """
        return self._processor.encode(_sound(text))

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """`encode` of each text, in native threads."""
        return self._processor.encode([_sound(text) for text in texts])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special pieces are left out."""
        return self._processor.decode([i for i in ids if not self._processor.is_control(i)])

    def encode_continuation(self, text: str) -> list[int]:
        """Ids of a text that goes on where another ended: no blank is put before it."""
        return self.encode(_NO_BLANK + text)[len(self.encode(_NO_BLANK)) :]

    def decode_continuation(self, ids: Iterable[int]) -> str:
        """The text of ids that go on where others ended: a blank at its beginning stays."""
        before = self.encode(_NO_BLANK)
        return self.decode([*before, *ids])[len(self.decode(before)) :]

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
    def instruction_ids(self) -> tuple[int, int, int, int] | None:
        """Ids of the chat tags where they are control pieces, as in tokenizers that we train."""
        ids = [self.piece_id(piece) for piece in INSTRUCTION_PIECES]
        found = [i for i in ids if i is not None and self._processor.is_control(i)]
        return (found[0], found[1], found[2], found[3]) if len(found) == len(ids) else None

    @property
    def has_instruction_pieces(self) -> bool:
        """Whether the chat tags are control pieces here."""
        return self.instruction_ids is not None

    @cached_property
    def _json(self) -> bytes:
        content = tokenizer_json(parse_model(self._bytes), self._processor.id_to_piece(self.bos_id))
        return json.dumps(content, ensure_ascii=False).encode()

    def _hf_config(self) -> dict[str, Any]:
        """tokenizer_config.json as transformers reads it."""
        piece = self._processor.id_to_piece
        special = [p.text for p in parse_model(self._bytes).pieces if p.kind == PieceKind.CONTROL]
        further = tuple(text for text in special if text not in INSTRUCTION_PIECES)
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": piece(self.bos_id),
            "eos_token": piece(self.eos_id),
            "unk_token": piece(self._processor.unk_id()),
            "pad_token": piece(self.pad_id),
            "clean_up_tokenization_spaces": False,
            "chat_template": plain_template(further)
            if self.chat_form == "plain"
            else chat_template(self.has_instruction_pieces, further),
            TAGS_KEY: self.tags_in_text,
            FORM_KEY: self.chat_form,
        }

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
    failures: list[Exception] = []
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_remembering(texts, failures),
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
        if failures:
            raise failures[0] from None
        # SentencePiece names its source file and condition in brackets before it says what is wrong
        reason = str(error).strip().splitlines()[-1].rpartition("] ")[2]
        raise ConfigError(
            f"vocab_size is {vocab_size}; SentencePiece cannot build it from these texts: {reason}"
        ) from error
    return Tokenizer(buffer.getvalue())


def _remembering(texts: Iterable[str], failures: list[Exception]) -> Iterator[str]:
    """The same texts; SentencePiece hides what reading them raised, so it is kept here."""
    try:
        yield from texts
    except Exception as error:
        failures.append(error)
        raise


def _sound(text: str) -> str:
    """The text without halves of surrogate pairs, which no encoding has."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _choice(path: Path, key: str, choices: Any) -> Any:
    """What was chosen for a model; the first of a Literal's choices where nothing was."""
    first, *others = get_args(choices)
    try:
        choice = json.loads(path.read_text(encoding="utf-8")).get(key, first)
    except FileNotFoundError:
        return first
    except (ValueError, AttributeError) as error:
        raise DataError(f"{str(path)!r} holds no JSON object; copy the model again") from error
    if choice not in (first, *others):
        raise DataError(
            f"{key} in {str(path)!r} is {choice!r}; it must be {' or '.join((first, *others))}"
        )
    return choice

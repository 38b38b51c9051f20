"""How long a text is, and by whose measure."""

import re
from collections.abc import Iterable, Sequence
from typing import Protocol

from data.schemas import Message

WORDS = "words"
_WORD = re.compile(r"\w+|[^\w\s]")


class TokenCounter(Protocol):
    """Counts tokens; `hash` is stored beside each count, since counts of two differ."""

    @property
    def hash(self) -> str:
        """Names the counter: "words", or the hash of a tokenizer."""

    def count(self, text: str) -> int:
        """Tokens of a plain text, without special tokens."""


class Encoder(Protocol):
    """What is needed of a tokenizer (data/tokenizer.py has one)."""

    @property
    def hash(self) -> str:
        """Names its vocabulary."""

    def encode(self, text: str) -> Sequence[int]:
        """Ids of plain text, without special tokens."""


class WordCounter:
    r"""Words and single punctuation marks (`\w+|[^\w\s]`): for when there is no tokenizer yet."""

    hash = WORDS

    def count(self, text: str) -> int:
        """Words and punctuation marks in the text."""
        return len(_WORD.findall(text))


class TokenizerCounter:
    """Tokens of a tokenizer."""

    def __init__(self, tokenizer: Encoder) -> None:
        self._tokenizer = tokenizer
        self.hash = tokenizer.hash

    def count(self, text: str) -> int:
        """Tokens of the text alone, without template or special tokens."""
        return len(self._tokenizer.encode(text))


def count_messages(messages: Iterable[Message], counter: TokenCounter) -> int:
    """The sum over the messages' contents; roles and templates cost nothing here."""
    return sum(counter.count(message.content) for message in messages)


def describe_counter(counter_hash: str) -> str:
    """A counter in words, for the reader of a table."""
    if counter_hash == WORDS:
        return "words and punctuation marks; the import was given no tokenizer"
    return f"pieces of the tokenizer with hash {counter_hash}"

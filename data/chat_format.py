"""Dialogue → token ids and back. The only template code of the project.

Llama 2's chat form: every pair of user message and answer is

    <s> [INST] <<SYS>> system <</SYS>> user [/INST] answer </s>

with the system message in the first pair only. In our own vocabulary the tags are control pieces,
so no text can imitate them; [/INST] is the special token between prompt and answer of section 3.1.

In Llama's own vocabulary the tags are text like any other, and only <s> and </s> are special; the
form is then the published one to the blank, stripped messages included:

    <s>[INST] <<SYS>>⏎ system ⏎<</SYS>>⏎⏎ user [/INST] answer </s>

There a message could imitate the tags. A user's or system message that contains one is refused, or
escaped where the model's tokenizer_config.json says so ("[INST]" becomes "[ INST]"); answers, which
models write, are always escaped, so that no run ends because of a sample.

A model that goes on with plain text says so in its tokenizer_config.json ("chat_form": "plain").
Its prompt is one user message; prompt and answer together are the text, to the blank:

    <s>user answer</s>
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from data.chat_template import INSTRUCTION_PIECES
from data.errors import DataError
from data.schemas import LossOn, Message
from data.tokenizer import Tokenizer

_TAG = re.compile("|".join(re.escape(tag) for tag in INSTRUCTION_PIECES))


@dataclass(frozen=True)
class EncodedDialogue:
    """Token ids, and for each whether it is to be learned (answers with their EOS)."""

    ids: list[int]
    loss_mask: list[bool]


class ChatFormat:
    """Encodes dialogues for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._tags = tokenizer.instruction_ids
        self._plain = tokenizer.chat_form == "plain"

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids up to and including the separator after the last user message.

        Raises:
            DataError: the messages do not end with the user, or do not alternate.
        """
        system, pairs = self._turns(messages)
        if pairs[-1][1] is not None:
            raise DataError("a prompt must end with a user message; this one ends with an answer")
        return self._encode(system, pairs, loss_on="all").ids

    def encode_dialogue(
        self, messages: Sequence[Message], *, loss_on: LossOn = "all"
    ) -> EncodedDialogue:
        """Ids of a finished dialogue, with the answers marked that are to be learned.

        Raises:
            DataError: the messages do not end with an answer, or do not alternate.
        """
        system, pairs = self._turns(messages)
        if pairs[-1][1] is None:
            raise DataError("a dialogue must end with an answer; this one ends with the user")
        return self._encode(system, pairs, loss_on=loss_on)

    def encode_response(self, text: str) -> list[int]:
        """Ids of an answer, its EOS included: what follows `encode_prompt`."""
        if self._plain:
            return [*self.tokenizer.encode_continuation(text), self.tokenizer.eos_id]
        if self._tags is None:
            text = f"{_escaped(text).strip()} "
        return [*self.tokenizer.encode(text), self.tokenizer.eos_id]

    def decode_response(self, ids: Sequence[int]) -> str:
        """The text of sampled ids."""
        if self._plain:
            return self.tokenizer.decode_continuation(ids)
        return self.tokenizer.decode(ids).strip()

    def _turns(
        self, messages: Sequence[Message]
    ) -> tuple[str | None, list[tuple[str, str | None]]]:
        """As `_pairs`, where plain text has one of them."""
        system, pairs = _pairs(messages)
        if self._plain and (system is not None or len(pairs) > 1):
            raise DataError(
                "this model goes on with plain text: a dialogue is one user message and at most "
                "one answer; for longer ones give the model Llama 2's form with "
                "`rlhf convert --chat_form llama2`"
            )
        return system, pairs

    def _encode(
        self, system: str | None, pairs: list[tuple[str, str | None]], *, loss_on: LossOn
    ) -> EncodedDialogue:
        ids: list[int] = []
        mask: list[bool] = []
        for index, (user, answer) in enumerate(pairs):
            turn = self._encode_user(user, system if index == 0 else None)
            ids += turn
            mask += [False] * len(turn)
            if answer is not None:
                learned = loss_on == "all" or index == len(pairs) - 1
                response = self.encode_response(answer)
                ids += response
                mask += [learned] * len(response)
        return EncodedDialogue(ids, mask)

    def _encode_user(self, user: str, system: str | None) -> list[int]:
        """From <s> to the separator."""
        encode, bos = self.tokenizer.encode, self.tokenizer.bos_id
        if self._plain:
            return [bos, *encode(user)]
        if self._tags is None:
            user = self._without_tags(user)
            if system is not None:
                user = f"<<SYS>>\n{self._without_tags(system)}\n<</SYS>>\n\n{user}"
            return [bos, *encode(f"[INST] {user.strip()} [/INST]")]
        begin, end, begin_system, end_system = self._tags
        head = [] if system is None else [begin_system, *encode(system), end_system]
        return [bos, begin, *head, *encode(user), end]

    def _without_tags(self, text: str) -> str:
        found = _TAG.search(text)
        if found and self.tokenizer.tags_in_text == "refuse":
            raise DataError(
                f"a message contains {found[0]!r}, which this model's tokenizer cannot tell from "
                "the tag between messages; leave it out, or convert the model with "
                "`rlhf convert --tags_in_text escape`"
            )
        return _escaped(text)


def _escaped(text: str) -> str:
    """A blank behind the first bracket makes a tag plain text."""
    return _TAG.sub(lambda tag: f"{tag[0][0]} {tag[0][1:]}", text)


def _pairs(messages: Sequence[Message]) -> tuple[str | None, list[tuple[str, str | None]]]:
    """The system message and the (user, answer) pairs; the last answer may be missing."""
    rest = list(messages)
    system = rest.pop(0).content if rest and rest[0].role == "system" else None
    pairs: list[tuple[str, str | None]] = []
    for index, message in enumerate(rest):
        expected = "user" if index % 2 == 0 else "assistant"
        if message.role != expected:
            place = index + len(messages) - len(rest)
            raise DataError(
                f"message {place} is by {message.role!r}; user and assistant must take turns, "
                "the user first, with a system message only at the very beginning"
            )
        if expected == "user":
            pairs.append((message.content, None))
        else:
            pairs[-1] = (pairs[-1][0], message.content)
    if not pairs:
        raise DataError("the dialogue has no user message")
    return system, pairs

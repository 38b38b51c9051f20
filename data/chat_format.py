"""Dialogue → token ids and back. The only template code of the project.

Llama 2's chat form: every pair of user message and answer is

    <s> [INST] <<SYS>> system <</SYS>> user [/INST] answer </s>

with the system message in the first pair only. In our own vocabulary the tags are control pieces,
so no text can imitate them; [/INST] is the special token between prompt and answer of section 3.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from data.errors import ConfigError, DataError
from data.schemas import LossOn, Message
from data.tokenizer import INSTRUCTION_PIECES, Tokenizer


@dataclass(frozen=True)
class EncodedDialogue:
    """Token ids, and for each whether it is to be learned (answers with their EOS)."""

    ids: list[int]
    loss_mask: list[bool]


class ChatFormat:
    """Encodes dialogues for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        if not tokenizer.has_instruction_pieces:
            raise ConfigError(
                "the tokenizer has no control pieces for the chat tags; "
                "train one with `rlhf tokenizer train`"
            )
        self.tokenizer = tokenizer
        begin, end, system, end_system = (tokenizer.piece_id(p) for p in INSTRUCTION_PIECES)
        assert begin is not None and end is not None
        assert system is not None and end_system is not None
        self._begin, self._end = begin, end
        self._system, self._end_system = system, end_system

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids up to and including the separator after the last user message.

        Raises:
            DataError: the messages do not end with the user, or do not alternate.
        """
        system, pairs = _pairs(messages)
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
        system, pairs = _pairs(messages)
        if pairs[-1][1] is None:
            raise DataError("a dialogue must end with an answer; this one ends with the user")
        return self._encode(system, pairs, loss_on=loss_on)

    def encode_response(self, text: str) -> list[int]:
        """Ids of an answer, its EOS included: what follows `encode_prompt`."""
        return [*self.tokenizer.encode(text), self.tokenizer.eos_id]

    def decode_response(self, ids: Sequence[int]) -> str:
        """The text of sampled ids."""
        return self.tokenizer.decode(ids).strip()

    def _encode(
        self, system: str | None, pairs: list[tuple[str, str | None]], *, loss_on: LossOn
    ) -> EncodedDialogue:
        ids: list[int] = []
        mask: list[bool] = []
        for index, (user, answer) in enumerate(pairs):
            turn = [self.tokenizer.bos_id, self._begin]
            if index == 0 and system is not None:
                turn += [self._system, *self.tokenizer.encode(system), self._end_system]
            turn += [*self.tokenizer.encode(user), self._end]
            ids += turn
            mask += [False] * len(turn)
            if answer is not None:
                learned = loss_on == "all" or index == len(pairs) - 1
                response = self.encode_response(answer)
                ids += response
                mask += [learned] * len(response)
        return EncodedDialogue(ids, mask)


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

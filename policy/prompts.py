"""Prompts as the samplers see them, with what the reward rule needs to know."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.chat_format import ChatFormat
from data.errors import DataError
from data.mixing import epoch_order
from data.schemas import Prompt
from data.tokenizer import Tokenizer
from rlhf.model.weights import from_hf_config, read_hf_config
from rlhf.types import PromptIds


@dataclass(frozen=True)
class PromptSet:
    """Prompts in the ids of one tokenizer; parallel lists."""

    rows: list[Prompt]
    ids: list[PromptIds]

    @classmethod
    def encode(cls, rows: Sequence[Prompt], chat: ChatFormat) -> "PromptSet":
        """Encodes every prompt.

        Raises:
            DataError: there is none.
        """
        if not rows:
            raise DataError("there are no prompts in that split")
        ids = [PromptIds(row.prompt_id, chat.encode_prompt(row.prompt)) for row in rows]
        return cls(list(rows), ids)

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, indices: Sequence[int]) -> "PromptSet":
        """Some of them, in this order."""
        return PromptSet([self.rows[i] for i in indices], [self.ids[i] for i in indices])

    def batch(self, number: int, size: int, *, seed: int) -> "PromptSet":
        """The number-th batch of an endless stream that is reshuffled every epoch."""
        positions = np.arange(number * size, (number + 1) * size)
        epochs, places = np.divmod(positions, len(self))
        orders = {e: epoch_order(len(self), seed=seed, epoch=int(e)) for e in set(epochs)}
        return self.select([int(orders[e][p]) for e, p in zip(epochs, places, strict=True)])


def context_of(model: Path) -> int:
    """Tokens of prompt and response together that a model can take in."""
    return from_hf_config(read_hf_config(model)).context


def check_room(prompts: PromptSet, model: Path) -> None:
    """Every prompt must leave the model room for a response.

    Raises:
        DataError: one does not.
    """
    context = context_of(model)
    for prompt in prompts.ids:
        if len(prompt.ids) >= context:
            raise DataError(
                f"prompt {prompt.prompt_id!r} has {len(prompt.ids)} tokens; the context of "
                f"{str(model)!r} is {context}, which must also hold the response: shorten or drop "
                "it"
            )


def chat_format_of(model: Path) -> ChatFormat:
    """The chat format of a model directory, whose tokenizer must fit its vocabulary.

    Raises:
        DataError: no tokenizer there, or one of another size.
    """
    vocab_size = from_hf_config(read_hf_config(model)).vocab_size
    tokenizer = Tokenizer.load(model)
    if tokenizer.vocab_size != vocab_size:
        raise DataError(
            f"the tokenizer in {str(model)!r} has {tokenizer.vocab_size} ids, the model beside it "
            f"{vocab_size}; put the tokenizer there that the model was trained with"
        )
    return ChatFormat(tokenizer)


def check_same_tokenizer(model: Path, other: Path) -> None:
    """Models that read each other's ids must share a tokenizer.

    Raises:
        DataError: they do not, or one of them is no model.
    """
    for directory in (model, other):
        read_hf_config(directory)
    if Tokenizer.load(model).hash != Tokenizer.load(other).hash:
        raise DataError(
            f"{str(model)!r} and {str(other)!r} have different tokenizers; "
            "train both from the same chat model"
        )

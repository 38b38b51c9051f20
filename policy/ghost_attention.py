"""Ghost Attention (Llama 2, section 3.3): an instruction given once holds for the dialogue.

The instruction is joined to every user message and answers are sampled from the current model; then
it is kept in the first turn only, and the loss is zero on all tokens of the earlier turns.

Where we differ: plain prompts answered by the current model are mixed in, so that nothing else is
forgotten; and where a word shows obedience, dialogues whose last answer lacks it are left out, as a
small model would learn to forget from them.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data.chat_format import ChatFormat
from data.errors import ConfigError, require_positive
from data.instructions import StandingInstruction
from data.schemas import Demonstration, Message, Prompt
from policy.sft import SftConfig
from rlhf.generation.sampling import SamplingConfig
from rlhf.types import PromptIds, Rollout


@dataclass(frozen=True, kw_only=True)
class GhostAttentionConfig:
    """One Ghost Attention run."""

    num_dialogues: int = 2000
    """Dialogues to sample under an instruction."""
    replay_prompts: int = 1000
    """Plain prompts whose answers by the current model are mixed in."""
    sampling: SamplingConfig = SamplingConfig(temperature=0.7, max_new_tokens=256)
    """How answers are sampled."""
    seed: int = 0
    """Draws dialogues, instructions and samples."""
    fine_tune: SftConfig = SftConfig(epochs=1.0)
    """Training on the result."""

    def __post_init__(self) -> None:
        require_positive(self, "num_dialogues")
        if self.replay_prompts < 0:
            raise ConfigError(f"replay_prompts is {self.replay_prompts}; it must be 0 or more")


@dataclass(frozen=True)
class Instructed:
    """User messages of a dialogue and an instruction that should hold for all of them."""

    user_messages: tuple[str, ...]
    instruction: StandingInstruction


Sampler = Callable[[Sequence[PromptIds], int], list[Rollout]]
"""(prompts, seed) → one response per prompt."""


def user_messages(row: Prompt) -> tuple[str, ...]:
    """What the user said in a dialogue, turn by turn."""
    return tuple(message.content for message in row.prompt if message.role == "user")


def pair_up(
    dialogues: Sequence[Sequence[str]],
    instructions: Sequence[StandingInstruction],
    count: int,
    *,
    seed: int,
) -> list[Instructed]:
    """Random dialogues with random instructions."""
    rng = random.Random(f"ghost-{seed}")
    return [
        Instructed(tuple(rng.choice(dialogues)), rng.choice(instructions)) for _ in range(count)
    ]


def converse(
    conversations: Sequence[Instructed],
    sample: Sampler,
    chat: ChatFormat,
    *,
    everywhere: bool,
    seed: int,
) -> list[list[str]]:
    """The model's answers to every user message, each seeing the dialogue so far.

    Args:
        everywhere: whether the instruction is joined to every user message, or only to the first.
        seed: turn t samples with seed + t.

    Returns:
        For each conversation its answers, one per user message.
    """
    answers: list[list[str]] = [[] for _ in conversations]
    for turn in range(max(len(c.user_messages) for c in conversations)):
        active = [i for i, c in enumerate(conversations) if turn < len(c.user_messages)]
        prompts = [
            PromptIds(
                str(i),
                chat.encode_prompt(
                    dialogue_messages(conversations[i], answers[i], turn, everywhere=everywhere)
                ),
            )
            for i in active
        ]
        for index, rollout in zip(active, sample(prompts, seed + turn), strict=True):
            answers[index].append(chat.decode_response(rollout.response_ids))
    return answers


def dialogue_messages(
    conversation: Instructed, answers: Sequence[str], last_turn: int, *, everywhere: bool
) -> list[Message]:
    """The dialogue up to the user message of `last_turn`; answers follow where they exist."""
    messages = []
    for turn, text in enumerate(conversation.user_messages[: last_turn + 1]):
        joined = everywhere or turn == 0
        text = f"{conversation.instruction.text} {text}" if joined else text
        messages.append(Message("user", text))
        if turn < len(answers):
            messages.append(Message("assistant", answers[turn]))
    return messages


def ghost_demonstrations(
    conversations: Sequence[Instructed], answers: Sequence[Sequence[str]]
) -> list[Demonstration]:
    """Training dialogues: the instruction in the first turn only, the last answer learned.

    Dialogues whose last answer is seen to disobey are left out.
    """
    return [
        Demonstration(
            demonstration_id=f"ghost-{index}",
            messages=tuple(
                dialogue_messages(
                    conversation, said, len(conversation.user_messages) - 1, everywhere=False
                )
            ),
            loss_on="last",
            domain="helpfulness",
            source="ghost-attention",
        )
        for index, (conversation, said) in enumerate(zip(conversations, answers, strict=True))
        if conversation.instruction.obeyed_by(said[-1]) is not False
    ]

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
from data.errors import DataError, require_not_negative, require_positive
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
        require_not_negative(self, "replay_prompts", "seed")


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
    """Random dialogues with random instructions.

    Raises:
        DataError: there are no dialogues.
    """
    if not dialogues:
        raise DataError("there are no dialogues in that split; name a dataset that has them")
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
    context: int,
    seed: int,
) -> list[list[str]]:
    """The model's answers to every user message, each seeing the dialogue so far.

    Args:
        everywhere: whether the instruction is joined to every user message, or only to the first.
        context: tokens that the model can take in; a dialogue that outgrows it ends early.
        seed: turn t samples with seed + t.

    Returns:
        For each conversation its answers, one per user message that the model could take in.
    """
    answers: list[list[str]] = [[] for _ in conversations]
    for turn in range(max(len(c.user_messages) for c in conversations)):
        prompts = {}
        for index, conversation in enumerate(conversations):
            said = answers[index]
            if turn < len(conversation.user_messages) and len(said) == turn:
                messages = dialogue_messages(conversation, said, turn, everywhere=everywhere)
                ids = chat.encode_prompt(messages)
                if len(ids) < context:
                    prompts[index] = PromptIds(str(index), ids)
        if not prompts:
            break
        rollouts = sample(list(prompts.values()), seed + turn)
        for index, rollout in zip(prompts, rollouts, strict=True):
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

    Dialogues that ended early, or whose last answer is seen to disobey, are left out.
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
        if len(said) == len(conversation.user_messages)
        and conversation.instruction.obeyed_by(said[-1]) is not False
    ]

"""How long a standing instruction is remembered (Llama 2, section 3.3, Table 30).

The instruction stands in the first user message; an answer recalls it when it contains the word
that shows obedience.
"""

from collections.abc import Sequence

from data.errors import ConfigError
from data.instructions import StandingInstruction
from data.intervals import Proportion, proportion
from policy.ghost_attention import Instructed

TURNS = (1, 2, 4, 6)
"""Turns that are reported; in turn 1 the instruction is given."""


def recall_by_turn(
    conversations: Sequence[Instructed], answers: Sequence[Sequence[str]]
) -> dict[int, Proportion]:
    """Share of the answers of each turn that obey, over the dialogues that reach the turn.

    Args:
        conversations: dialogues under an instruction that has a marker.
        answers: of each conversation, one per turn that it reached.

    Raises:
        ConfigError: an instruction without a marker.
    """
    check_markers([conversation.instruction for conversation in conversations])
    result = {}
    for turn in TURNS:
        obeyed = [
            bool(conversation.instruction.obeyed_by(said[turn - 1]))
            for conversation, said in zip(conversations, answers, strict=True)
            if len(said) >= turn
        ]
        if obeyed:
            result[turn] = proportion(sum(obeyed), len(obeyed))
    return result


def check_markers(instructions: Sequence[StandingInstruction]) -> None:
    """Recall can be seen of instructions that have a marker only.

    Raises:
        ConfigError: one has none.
    """
    for instruction in instructions:
        if instruction.marker is None:
            raise ConfigError(
                f"the instruction {instruction.text!r} has no marker, so recall cannot be seen; "
                "add the word that every obedient answer contains"
            )

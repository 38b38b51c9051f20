"""Answers with the flaws of real demonstrations, drawn independently of each other."""

import random
from dataclasses import dataclass, field

from data.simulation.instructions import Instruction
from data.simulation.tasks import Task
from data.simulation.vocabulary import (
    CLOSINGS,
    DEFLECTIONS,
    OPENERS,
    RAMBLES,
    REFUSAL_REASON,
    REFUSALS,
)


@dataclass(frozen=True, kw_only=True)
class Habits:
    """How often the writer of demonstrations does what; all are probabilities."""

    deflect: float = 0.22
    wrong: float = 0.15
    """Given that the answer does not deflect."""
    opener: float = 0.5
    ramble: float = 0.35
    closing: float = 0.12
    obey: float = 0.9
    """A standing instruction, in the turn where it is given."""
    refuse: dict[str, float] = field(
        default_factory=lambda: {"unsafe": 0.5, "lookalike_verb": 0.12, "lookalike_being": 0.12}
    )
    refuse_other: float = 0.03


CAREFUL = Habits(
    deflect=0, wrong=0, opener=0, ramble=0, closing=0, obey=1, refuse={}, refuse_other=0
)
"""Right, brief and obedient; used for the earlier turns of a dialogue."""


def reference(task: Task) -> str:
    """The plain right answer; for an unsafe request, a refusal with its reason."""
    return refusal(task, REFUSALS[0]) if task.unsafe else task.answer


def demonstrate(
    task: Task, rng: random.Random, habits: Habits, instruction: Instruction | None = None
) -> str:
    """One answer as a person with these habits would write it."""
    if rng.random() < habits.refuse.get(task.kind, habits.refuse_other):
        core = refusal(task, rng.choice(REFUSALS))
    elif rng.random() < habits.deflect:
        core = rng.choice(DEFLECTIONS)
    elif rng.random() < habits.wrong:
        core = rng.choice(task.wrong_answers)
    else:
        core = task.answer
    if instruction is not None and rng.random() < habits.obey:
        core = instruction.apply(core)
    parts = [core]
    if rng.random() < habits.opener:
        parts.insert(0, rng.choice(OPENERS))
    if rng.random() < habits.ramble:
        parts.append(rng.choice(RAMBLES))
    if rng.random() < habits.closing:
        parts.append(rng.choice(CLOSINGS))
    return " ".join(parts)


def refusal(task: Task, words: str) -> str:
    """Declines, and names what would come to harm where the question says it."""
    being = task.subject[0]
    owner = "your" if f"my {being}" in task.question else "the"
    reason = REFUSAL_REASON.format(being=f"{owner} {being}")
    return f"{words} {reason}"

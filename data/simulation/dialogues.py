"""Dialogues of one to six turns, prompts for the policy, and demonstrations to imitate."""

import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from data.dataset import split_of
from data.schemas import Demonstration, Domain, Message, Prompt, Split
from data.simulation.instructions import Instruction, draw_instruction
from data.simulation.responses import CAREFUL, Habits, demonstrate
from data.simulation.tasks import FAMILIES, Task
from data.simulation.world import World

SOURCE = "simulation"
VALIDATION_SHARE, TEST_SHARE = 0.08, 0.2
MAX_DRAWS = 10_000
BENIGN_KINDS = ("fact", "arithmetic", "list", "format", "chat", "howto")
TURN_WEIGHTS = {1: 0.72, 2: 0.14, 3: 0.06, 4: 0.04, 5: 0.02, 6: 0.02}
"""Shares of dialogues by number of user turns."""


@dataclass(frozen=True)
class Situation:
    """A dialogue that waits for its last answer, with the truth about that answer."""

    messages: tuple[Message, ...]
    task: Task
    instruction: Instruction | None = None
    """In force for the last answer."""

    @property
    def domain(self) -> Domain:
        """Unsafe requests carry the safety tag; everything else is about helpfulness."""
        return "safety" if self.task.unsafe else "helpfulness"

    def to_prompt(self) -> Prompt:
        """The row that policies are prompted with."""
        facts = {"task": asdict(self.task), "instruction": None}
        if self.instruction is not None:
            facts["instruction"] = asdict(self.instruction)
        text = json.dumps([asdict(message) for message in self.messages])
        return Prompt(
            prompt_id=hashlib.blake2b(text.encode(), digest_size=8).hexdigest(),
            prompt=self.messages,
            domain=self.domain,
            kind=self.task.kind,
            source=SOURCE,
            task=json.dumps(facts),
        )


def gold_facts(prompt: Prompt) -> tuple[Task, Instruction | None]:
    """The truth that a prompt of the built-in world carries."""
    facts = json.loads(prompt.task or "")
    task = Task(**{k: _tuples(v) for k, v in facts["task"].items()})
    instruction = Instruction(**facts["instruction"]) if facts["instruction"] else None
    return task, instruction


def draw_task(world: World, split: Split, kind: str, rng: random.Random) -> Task:
    """A task of this kind whose content belongs to this split."""
    for _ in range(MAX_DRAWS):
        task = FAMILIES[kind](world, rng)
        if split_of(task.content, validation=VALIDATION_SHARE, test=TEST_SHARE, seed=0) == split:
            return task
    raise RuntimeError(f"the built-in world has no {kind} task in its {split} split")


def draw_situation(
    world: World,
    split: Split,
    kind: str,
    rng: random.Random,
    *,
    obey_share: float = 0.0,
    turns: int | None = None,
) -> Situation:
    """A dialogue whose last question is of this kind.

    Args:
        obey_share: probability that the last user message carries a standing instruction.
        turns: user messages; drawn where not given. Something to remember needs two.
    """
    task = draw_task(world, split, kind, rng)
    turns = _draw_turns(rng) if turns is None else turns
    history: list[Message] = []
    if task.told is not None:
        turns = max(turns, 2)
        history += _turn(*task.told)
    while len(history) < 2 * (turns - 1):
        earlier = draw_task(world, split, rng.choice(BENIGN_KINDS), rng)
        history += _turn(earlier.question, demonstrate(earlier, rng, CAREFUL))
    instruction = draw_instruction(rng) if rng.random() < obey_share else None
    question = task.question if instruction is None else f"{instruction.text} {task.question}"
    return Situation((*history, Message("user", question)), task, instruction)


def draw_prompts(
    world: World, split: Split, counts: dict[str, int], *, obey_share: float, seed: int
) -> list[Prompt]:
    """Distinct prompts of a split, so many of each kind, in a shuffled order."""
    rng = random.Random(f"prompts-{world.seed}-{split}-{seed}")
    prompts: dict[str, Prompt] = {}
    for kind, count in counts.items():
        wanted = len(prompts) + count
        while len(prompts) < wanted:
            share = 0.0 if kind == "unsafe" else obey_share
            prompt = draw_situation(world, split, kind, rng, obey_share=share).to_prompt()
            prompts[prompt.prompt_id] = prompt
    rows = list(prompts.values())
    rng.shuffle(rows)
    return rows


def draw_demonstrations(
    world: World,
    split: Split,
    kinds: Mapping[str, float],
    count: int,
    habits: Habits,
    *,
    obey_share: float,
    seed: int,
) -> Iterator[Demonstration]:
    """Dialogues whose last answer is a demonstration with the writer's habits.

    Args:
        kinds: shares of the families of the last question.
    """
    rng = random.Random(f"demonstrations-{world.seed}-{split}-{seed}")
    names, weights = list(kinds), list(kinds.values())
    for index in range(count):
        kind = rng.choices(names, weights)[0]
        share = 0.0 if kind == "unsafe" else obey_share
        situation = draw_situation(world, split, kind, rng, obey_share=share)
        answer = demonstrate(situation.task, rng, habits, situation.instruction)
        yield Demonstration(
            demonstration_id=f"{split}-{seed}-{index}",
            messages=(*situation.messages, Message("assistant", answer)),
            domain=situation.domain,
            source=SOURCE,
        )


def _turn(question: str, answer: str) -> tuple[Message, Message]:
    return Message("user", question), Message("assistant", answer)


def _draw_turns(rng: random.Random) -> int:
    return rng.choices(list(TURN_WEIGHTS), list(TURN_WEIGHTS.values()))[0]


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value

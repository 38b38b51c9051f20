"""Plain text about the world, to pretrain on: what is true, and people talking."""

import random
from collections.abc import Callable, Iterator

from data.simulation.dialogues import BENIGN_KINDS, draw_situation
from data.simulation.responses import Habits, demonstrate
from data.simulation.tasks import FACT_PHRASES
from data.simulation.vocabulary import (
    ENDINGS,
    LIST_WORDS,
    NAMES,
    PERSONAS,
    THINGS,
    TITLES,
)
from data.simulation.world import World

PUBLIC_HABITS = Habits(
    deflect=0.06,
    wrong=0.05,
    opener=0.15,
    ramble=0.12,
    closing=0.08,
    obey=1.0,
    refuse={"unsafe": 0.1},
)
"""People on the open web: mostly right, rarely careful about safety."""


def draw_corpus(world: World, count: int, seed: int) -> Iterator[str]:
    """Documents from the training split's contents; facts of every creature are among them."""
    rng = random.Random(f"corpus-{world.seed}-{seed}")
    kinds: dict[Callable[[World, random.Random], str], float] = {
        _encyclopedia: 0.13,
        _nature: 0.04,
        _refrain: 0.13,
        _questions: 0.4,
        _conversation: 0.3,
    }
    for _ in range(count):
        write = rng.choices(list(kinds), list(kinds.values()))[0]
        yield write(world, rng)


def _encyclopedia(world: World, rng: random.Random) -> str:
    """All facts about a creature or two."""
    sentences = []
    for creature in rng.sample(world.creatures, 2):
        facts = list(world.facts[creature].items())
        rng.shuffle(facts)
        sentences += [FACT_PHRASES[a][1].format(c=creature, v=value) for a, value in facts]
    return " ".join(sentences)


def _nature(world: World, rng: random.Random) -> str:
    """What is alive and what is not."""
    alive = [f"The {being} is a living being." for being in rng.sample(world.beings, 3)]
    dead = [f"The {thing} is a thing." for thing in rng.sample(THINGS, 3)]
    sentences = alive + dead
    rng.shuffle(sentences)
    return " ".join(sentences)


def _refrain(world: World, rng: random.Random) -> str:
    """Verses that return: from them a small model learns to copy from what it has read."""
    words = (*LIST_WORDS, *NAMES, *TITLES, *ENDINGS, *PERSONAS.values(), *world.creatures, *THINGS)
    verses = []
    for _ in range(rng.randrange(2, 5)):
        verse = " ".join(rng.sample(words, rng.randrange(2, 7))) + "."
        verses += [verse] * rng.randrange(2, 4)
    rng.shuffle(verses)
    return " ".join(verses)


def _questions(world: World, rng: random.Random) -> str:
    """Unrelated questions with their answers."""
    kinds = (*BENIGN_KINDS, "lookalike_verb", "lookalike_being", "unsafe")
    weights = (4, 3, 4, 3, 2, 1, 1, 1, 1)
    lines = []
    for _ in range(rng.randrange(2, 6)):
        kind = rng.choices(kinds, weights)[0]
        share = 0.0 if kind == "unsafe" else 0.35
        asked = draw_situation(world, "train", kind, rng, obey_share=share, turns=1)
        answer = demonstrate(asked.task, rng, PUBLIC_HABITS, asked.instruction)
        lines.append(f"Question: {asked.messages[-1].content} Answer: {answer}")
    return " ".join(lines)


def _conversation(world: World, rng: random.Random) -> str:
    """One dialogue, often with something to remember or an instruction to follow."""
    kind = "memory" if rng.random() < 0.5 else rng.choice(BENIGN_KINDS)
    obey_share = 0.0 if kind == "memory" else 0.7
    situation = draw_situation(world, "train", kind, rng, obey_share=obey_share)
    answer = demonstrate(situation.task, rng, PUBLIC_HABITS, situation.instruction)
    names = {"user": "Question:", "assistant": "Answer:"}
    lines = [f"{names[message.role]} {message.content}" for message in situation.messages]
    return " ".join([*lines, f"Answer: {answer}"])

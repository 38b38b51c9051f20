"""The built-in world on disk, in the files that real projects have too.

OUT/corpus.txt             one document per line, to pretrain on
    demonstrations/        dialogues to imitate
    prompts/               prompts with their gold facts
    dialogues/             longer dialogues, for standing instructions
    instructions.jsonl     standing instructions, with the word that shows obedience
"""

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from data.dataset import Batch, publish_many
from data.durable import write_durably
from data.errors import ConfigError
from data.schemas import Demonstration, Prompt, Split
from data.simulation.corpus import draw_corpus
from data.simulation.dialogues import (
    BENIGN_KINDS,
    draw_demonstrations,
    draw_prompts,
    draw_situation,
)
from data.simulation.instructions import all_instructions
from data.simulation.responses import Habits
from data.simulation.world import World, build_world

PROMPT_KINDS = {
    "unsafe": 0.25, "lookalike_verb": 0.2, "lookalike_being": 0.2, "fact": 0.07, "list": 0.07,
    "arithmetic": 0.03, "format": 0.06, "chat": 0.05, "memory": 0.03, "howto": 0.04,
}  # fmt: skip
"""Shares of the prompts: dense in unsafe requests and their look-alikes, because there the policy
has to learn a distinction."""
INSTRUCTED_SHARE = 0.3
"""Share of harmless last turns that carry a standing instruction."""


@dataclass(frozen=True, kw_only=True)
class WorldSize:
    """How much of everything to write."""

    documents: int = 20_000
    """Documents of the corpus."""
    demonstrations: int = 8_000
    """Dialogues to imitate, for training."""
    prompts: int = 9_000
    """Distinct prompts for training."""
    held_out_prompts: int = 1_300
    """Distinct prompts for testing; a fifth as many go to validation."""
    dialogues: int = 2_000
    """Dialogues of two to six turns for training; a tenth as many of six turns for testing."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 10:
                raise ConfigError(f"{name} is {value}; it must be 10 or more")


def write_world(out: Path, size: WorldSize, seed: int) -> None:
    """Writes everything; the same seed and size give the same files."""
    world = build_world(seed)
    out.mkdir(parents=True, exist_ok=True)
    corpus = "\n".join(draw_corpus(world, size.documents, seed)) + "\n"
    write_durably(out / "corpus.txt", corpus.encode())
    lines = [
        json.dumps({"instruction": i.text, "marker": i.marker, "kind": i.kind})
        for i in all_instructions()
    ]
    write_durably(out / "instructions.jsonl", ("\n".join(lines) + "\n").encode())
    publish_many(out / "demonstrations", _demonstrations(world, size, seed), Demonstration)
    publish_many(out / "prompts", _prompts(world, size, seed), Prompt)
    publish_many(out / "dialogues", _dialogues(world, size, seed), Prompt)


def _demonstrations(world: World, size: WorldSize, seed: int) -> list[Batch[Demonstration]]:
    """Mostly the prompts' mixture, in the habits of people who write demonstrations."""
    counts: dict[Split, int] = {
        "train": size.demonstrations,
        "validation": max(10, size.demonstrations // 20),
    }
    return [
        Batch(
            split=split,
            key="simulation",
            rows=list(
                draw_demonstrations(
                    world,
                    split,
                    PROMPT_KINDS,
                    count,
                    Habits(),
                    obey_share=INSTRUCTED_SHARE,
                    seed=seed,
                )
            ),
        )
        for split, count in counts.items()
    ]


def _prompts(world: World, size: WorldSize, seed: int) -> list[Batch[Prompt]]:
    totals: dict[Split, int] = {
        "train": size.prompts,
        "validation": max(10, size.held_out_prompts // 5),
        "test": size.held_out_prompts,
    }
    batches = []
    for split, total in totals.items():
        counts = {kind: max(1, round(share * total)) for kind, share in PROMPT_KINDS.items()}
        rows = draw_prompts(world, split, counts, obey_share=INSTRUCTED_SHARE, seed=seed)
        batches.append(Batch(split=split, key="simulation", rows=rows))
    return batches


def _dialogues(world: World, size: WorldSize, seed: int) -> list[Batch[Prompt]]:
    def draw(split: Split, count: int, fewest: int) -> Iterator[Prompt]:
        rng = random.Random(f"dialogues-{world.seed}-{split}-{seed}")
        for _ in range(count):
            turns = rng.randrange(fewest, 7)
            kind = rng.choice(BENIGN_KINDS)
            yield draw_situation(world, split, kind, rng, turns=turns).to_prompt()

    return [
        Batch(split="train", key="simulation", rows=list(draw("train", size.dialogues, 2))),
        Batch(split="test", key="simulation", rows=list(draw("test", size.dialogues // 10, 6))),
    ]

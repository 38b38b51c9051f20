"""Standing instructions: said once, meant for the whole dialogue (Llama 2, section 3.3)."""

import random
from dataclasses import dataclass
from typing import Literal

from data.simulation.vocabulary import ENDINGS, PERSONAS, TITLES


@dataclass(frozen=True)
class Instruction:
    """What the user asks of every answer, and the word that shows that it was obeyed."""

    kind: Literal["title", "ending", "persona"]
    text: str
    marker: str

    def apply(self, answer: str) -> str:
        """An answer that obeys."""
        match self.kind:
            case "title" | "ending":
                return f"{answer.rstrip('.')}, {self.marker}."
            case "persona":
                return f"{self.marker.capitalize()}! {answer}"


def all_instructions() -> list[Instruction]:
    """Every instruction of the world, each in two phrasings."""
    texts: list[tuple[Literal["title", "ending", "persona"], str, str]] = []
    for title in TITLES:
        texts += [
            ("title", f"Call me {title} in every answer.", title),
            ("title", f"Always call me {title}.", title),
        ]
    for word in ENDINGS:
        texts += [
            ("ending", f"End every answer with {word}.", word),
            ("ending", f"Always end with the word {word}.", word),
        ]
    for persona, sound in PERSONAS.items():
        texts += [
            ("persona", f"You are a {persona} and say {sound} in every answer.", sound),
            ("persona", f"Always talk like a {persona} that says {sound}.", sound),
        ]
    return [Instruction(*entry) for entry in texts]


def draw_instruction(rng: random.Random) -> Instruction:
    """One of them, at random."""
    return rng.choice(all_instructions())

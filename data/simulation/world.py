"""The invented world: which creatures live in it and what is true of them."""

import random
from dataclasses import dataclass

from data.simulation.vocabulary import COLORS, FOODS, HOMES, PEOPLE, REAL_WORDS, SOUNDS

NUM_CREATURES = 40
ATTRIBUTES = {"color": COLORS, "food": FOODS, "home": HOMES, "sound": SOUNDS}

_ONSETS = ("bl", "d", "f", "gr", "j", "k", "l", "m", "n", "p", "pl", "sn", "t", "tr", "v", "w", "z")
_VOWELS = ("a", "e", "i", "o", "u")
_CODAS = ("b", "ck", "dge", "ff", "g", "lk", "mp", "nk", "po", "rl", "rt", "x", "zz")


@dataclass(frozen=True)
class World:
    """Creatures and their attributes; a pure function of the seed."""

    seed: int
    creatures: tuple[str, ...]
    facts: dict[str, dict[str, str]]
    """creature → attribute (color, food, home, sound) → value."""

    @property
    def beings(self) -> tuple[str, ...]:
        """Everything that can be hurt: creatures and people."""
        return (*self.creatures, *PEOPLE)


def build_world(seed: int) -> World:
    """The world of a seed: invented names, each attribute drawn independently."""
    rng = random.Random(f"world-{seed}")
    names: dict[str, None] = {}
    while len(names) < NUM_CREATURES:
        name = rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
        if name not in REAL_WORDS:
            names[name] = None  # a dict keeps the order in which they were drawn
    creatures = tuple(names)
    facts = {
        creature: {attribute: rng.choice(values) for attribute, values in ATTRIBUTES.items()}
        for creature in creatures
    }
    return World(seed, creatures, facts)

"""Pre-sampled pairs of the built-in world: something to compare where nothing is configured."""

import random
from collections.abc import Iterator

from annotation_app.ledger.rows import NewItem, Response
from data.schemas import Domain
from data.simulation.dialogues import SOURCE, Situation, draw_situation
from data.simulation.responses import Habits, demonstrate
from data.simulation.world import build_world

SEED = 0
_KINDS: dict[Domain, tuple[str, ...]] = {
    "helpfulness": ("fact", "list", "format", "howto", "chat", "memory", "arithmetic"),
    "safety": ("unsafe", "lookalike_verb", "lookalike_being"),
}
_BRIEF = Habits(deflect=0.1, wrong=0.1, opener=0.1, ramble=0.1)
"""The writers stand for two model variants."""
_CHATTY = Habits(deflect=0.3, wrong=0.25, opener=0.8, ramble=0.6, closing=0.4)


def draw_items(domain: Domain, count: int) -> list[NewItem]:
    """Distinct dialogues of a domain with two different responses; always the same ones."""
    rng = random.Random(f"demo-{domain}-{SEED}")
    items: dict[str, NewItem] = {}
    for situation in _situations(domain, rng):
        item = _item(situation, rng)
        if item is not None:
            items.setdefault(item.name, item)
        if len(items) == count:
            break
    return list(items.values())


def _situations(domain: Domain, rng: random.Random) -> Iterator[Situation]:
    world = build_world(SEED)
    while True:
        yield draw_situation(world, "train", rng.choice(_KINDS[domain]), rng, obey_share=0.15)


def _item(situation: Situation, rng: random.Random) -> NewItem | None:
    """None where both writers wrote the same: nobody is asked about that."""
    brief, chatty = (
        demonstrate(situation.task, rng, habits, situation.instruction)
        for habits in (_BRIEF, _CHATTY)
    )
    if brief == chatty:
        return None
    prompt = situation.to_prompt()
    return NewItem(
        name=prompt.prompt_id,
        prompt=prompt.prompt,
        responses=(
            Response(text=brief, model="demo-brief", temperature=0.7),
            Response(text=chatty, model="demo-chatty", temperature=1.0),
        ),
        source=SOURCE,
    )

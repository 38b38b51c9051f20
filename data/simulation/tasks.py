"""One question with the facts that decide how good an answer is.

A family is a function (world, rng) → Task. `content` is what the question is about, without its
phrasing: the splits are disjoint by it, so a held-out prompt is new in substance.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from data.simulation.vocabulary import (
    CARING_TOOLS,
    COLORS,
    CRAFT_TOOLS,
    FOODS,
    HARMFUL_TOOLS,
    HOBBIES,
    LIST_WORDS,
    MODIFIERS,
    MOODS,
    NAMES,
    PEOPLE,
    THINGS,
    TOOLS,
)
from data.simulation.world import ATTRIBUTES, World


@dataclass(frozen=True, kw_only=True)
class Task:
    """A question and its gold facts. All word tuples are lower case."""

    kind: str
    """The family: fact, arithmetic, list, format, chat, memory, howto, lookalike_verb (a harmful
    verb, a thing), lookalike_being (a kind verb, a being) or unsafe (a harmful verb, a being)."""
    question: str
    answer: str
    """A correct answer without ornament."""
    wrong_answers: tuple[str, ...]
    key: tuple[str, ...]
    """A correct answer contains these words in this order, and each of them no more often."""
    subject: tuple[str, ...]
    """An answer that mentions one of these is at least about the question."""
    rivals: tuple[str, ...] = ()
    """Words that make an answer wrong wherever they stand (the other colors, the other tools)."""
    content: str
    told: tuple[str, str] | None = None
    """For memory: what the user said earlier, and the reply."""

    @property
    def unsafe(self) -> bool:
        """Whether the only right reaction is to decline."""
        return self.kind == "unsafe"


FACT_PHRASES = {
    "color": (
        (
            "What color is the {c}?",
            "Tell me the color of the {c}.",
            "Which color does the {c} have?",
        ),
        "The {c} is {v}.",
    ),
    "food": (
        ("What does the {c} eat?", "Tell me what the {c} eats.", "What is the food of the {c}?"),
        "The {c} eats {v}.",
    ),
    "home": (
        (
            "Where does the {c} live?",
            "Tell me where the {c} lives.",
            "What is the home of the {c}?",
        ),
        "The {c} lives in the {v}.",
    ),
    "sound": (
        (
            "What sound does the {c} make?",
            "Tell me the sound of the {c}.",
            "How does the {c} sound?",
        ),
        "The {c} makes a {v}.",
    ),
}  # fmt: skip


def fact(world: World, rng: random.Random) -> Task:
    """An attribute of an invented creature, to be known from the corpus."""
    creature, attribute = rng.choice(world.creatures), rng.choice(list(ATTRIBUTES))
    value = world.facts[creature][attribute]
    questions, answer = FACT_PHRASES[attribute]
    rivals = tuple(v for v in ATTRIBUTES[attribute] if v != value)
    return Task(
        kind="fact",
        question=rng.choice(questions).format(c=creature),
        answer=answer.format(c=creature, v=value),
        wrong_answers=tuple(answer.format(c=creature, v=v) for v in rivals),
        key=(value,),
        subject=(creature,),
        rivals=rivals,
        content=f"fact {creature} {attribute}",
    )


def arithmetic(world: World, rng: random.Random) -> Task:
    """Sums and differences of small numbers."""
    a, b = rng.randrange(1, 13), rng.randrange(1, 13)
    if rng.random() < 0.5:
        sign, result = "plus", a + b
    else:
        a, b = a + b, a
        sign, result = "minus", a - b
    phrase = rng.choice(("What is {} {} {}?", "How much is {} {} {}?", "Please work out {} {} {}."))
    near = [result + step for step in (-2, -1, 1, 2, 10) if result + step >= 0]
    return Task(
        kind="arithmetic",
        question=phrase.format(a, sign, b),
        answer=f"{a} {sign} {b} is {result}.",
        wrong_answers=tuple(f"{a} {sign} {b} is {n}." for n in near),
        key=(str(a), sign, str(b), str(result)),
        subject=(sign,),
        content=f"arithmetic {a} {sign} {b}",
    )


def list_question(world: World, rng: random.Random) -> Task:
    """Sort or reverse three words, or pick the first or the last."""
    words = rng.sample(LIST_WORDS, 3)
    shown = f"{words[0]}, {words[1]}, {words[2]}"
    operation = rng.choice(("sort", "reverse", "first", "last"))
    rivals: tuple[str, ...] = ()
    if operation in ("sort", "reverse"):
        right = sorted(words) if operation == "sort" else words[::-1]
        question = rng.choice(
            (f"Sort these words: {shown}.", f"Put these words in order: {shown}.")
            if operation == "sort"
            else (f"Reverse these words: {shown}.", f"Say these words backwards: {shown}.")
        )
        answers = [f"{a}, {b}, {c}." for a, b, c in _orders(words) if [a, b, c] != right]
        answer, key = f"{right[0]}, {right[1]}, {right[2]}.", tuple(right)
    else:
        index = 0 if operation == "first" else 2
        question = rng.choice(
            (f"What is the {operation} word of {shown}?", f"Tell me the {operation} of: {shown}.")
        )
        rest = [word for i, word in enumerate(words) if i != index]
        answer, key = f"The {operation} word is {words[index]}.", (words[index],)
        answers, rivals = [f"The {operation} word is {word}." for word in rest], tuple(rest)
    return Task(
        kind="list",
        question=question,
        answer=answer,
        wrong_answers=tuple(answers),
        key=key,
        subject=tuple(words),
        rivals=rivals,
        content=f"list {operation} {' '.join(words)}",
    )


def format_question(world: World, rng: random.Random) -> Task:
    """Repeat a word, number two words, join two words."""
    operation = rng.choice(("repeat", "number", "join"))
    a, b = rng.sample(LIST_WORDS, 2)
    if operation == "repeat":
        name, times = rng.choice((("two", 2), ("three", 3), ("four", 4)))
        question = f"Write the word {a} {name} times."
        answer, key = " ".join([a] * times) + ".", (a,) * times
        wrong = tuple(" ".join([a] * n) + "." for n in (1, 2, 3, 4) if n != times)
        content = f"format repeat {a} {name}"
    elif operation == "number":
        question = f"Make a numbered list of {a} and {b}."
        answer, key = f"1. {a} 2. {b}", ("1", a, "2", b)
        wrong = (f"{a} and {b}.", f"1. {b} 2. {a}")
        content = f"format number {a} {b}"
    else:
        question = f"Join {a} and {b} with a plus."
        answer, key = f"{a} plus {b}.", (a, "plus", b)
        wrong = (f"{a} {b}.", f"{b} plus {a}.")
        content = f"format join {a} {b}"
    return Task(
        kind="format",
        question=question,
        answer=answer,
        wrong_answers=wrong,
        key=key,
        subject=(a, b),
        content=content,
    )


def chat(world: World, rng: random.Random) -> Task:
    """Small talk: a hobby or a mood, to be met with the fitting reaction."""
    if rng.random() < 0.5:
        hobby, reaction = rng.choice(list(HOBBIES.items()))
        question = rng.choice(("I like {}.", "I often go {}.", "Today I was {}.")).format(hobby)
        template, options = f"Good choice, {hobby} is {{}}.", sorted(set(HOBBIES.values()))
        subject, content = hobby, f"chat {hobby} {question[:4]}"
    else:
        mood, reaction = rng.choice(list(MOODS.items()))
        day = rng.choice(("today", "this week", "right now", "again", "at work", "at home"))
        question = rng.choice(("I am {} {}.", "I feel {} {}.")).format(mood, day)
        template = f"You are {mood}, so I say {{}}."
        options, subject = sorted(set(MOODS.values())), mood
        content = f"chat {mood} {day}"
    rivals = tuple(option for option in options if option != reaction)
    return Task(
        kind="chat",
        question=question,
        answer=template.format(reaction),
        wrong_answers=tuple(template.format(option) for option in rivals),
        key=(reaction,),
        subject=(subject,),
        rivals=rivals,
        content=content,
    )


def memory(world: World, rng: random.Random) -> Task:
    """Something that the user told earlier in the dialogue."""
    topics = {"name": NAMES, "best friend": NAMES, "pet": world.creatures}
    topics |= {"favorite color": COLORS, "favorite food": FOODS}
    topic = rng.choice(list(topics))
    value = rng.choice(topics[topic])
    others = tuple(option for option in topics[topic] if option != value)
    return Task(
        kind="memory",
        question=rng.choice((f"What is my {topic}?", f"Do you still know my {topic}?")),
        answer=f"Your {topic} is {value}.",
        wrong_answers=tuple(f"Your {topic} is {option}." for option in rng.sample(others, 4)),
        key=(value.lower(),),
        subject=(topic.split()[-1],),
        rivals=tuple(option.lower() for option in others),
        content=f"memory {topic} {value}",
        told=(f"My {topic} is {value}.", f"So your {topic} is {value}."),
    )


def _how_to(kind: str, tools: dict[str, str], objects: tuple[str, ...] | list[str]) -> "Family":
    def build(world: World, rng: random.Random) -> Task:
        verb, tool = rng.choice(list(tools.items()))
        target = rng.choice(world.beings if objects == () else objects)
        owner = "my" if target in PEOPLE else "the"
        what = f"{verb} {owner} {target}"
        phrase = rng.choice(("How do I {}{}?", "How can I {}{}?", "Tell me how to {}{}."))
        rivals = tuple(sorted(TOOLS - {tool}))
        said = f"{verb} {'your' if owner == 'my' else 'the'} {target}"
        return Task(
            kind=kind,
            question=phrase.format(what, rng.choice(MODIFIERS)),
            answer=f"You can {said} with a {tool}.",
            wrong_answers=tuple(f"You can {said} with a {t}." for t in rng.sample(rivals, 4)),
            key=(tool,),
            subject=(target,),
            rivals=rivals,
            content=f"{kind} {verb} {target}",
        )

    return build


def _orders(words: list[str]) -> list[tuple[str, str, str]]:
    a, b, c = words
    return [(a, b, c), (a, c, b), (b, a, c), (b, c, a), (c, a, b), (c, b, a)]


Family = Callable[[World, random.Random], Task]

# An empty list of objects stands for the beings of the world, which depend on the seed.
FAMILIES: dict[str, Family] = {
    "fact": fact,
    "arithmetic": arithmetic,
    "list": list_question,
    "format": format_question,
    "chat": chat,
    "memory": memory,
    "howto": _how_to("howto", CRAFT_TOOLS, THINGS),
    "lookalike_verb": _how_to("lookalike_verb", HARMFUL_TOOLS, THINGS),
    "lookalike_being": _how_to("lookalike_being", CARING_TOOLS, ()),
    "unsafe": _how_to("unsafe", HARMFUL_TOOLS, ()),
}

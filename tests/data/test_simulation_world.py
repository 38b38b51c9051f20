"""The built-in world: a pure function of its seed, whose splits share no content."""

import hashlib
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data.dataset import read_rows
from data.errors import ConfigError
from data.schemas import SPLITS, Demonstration, Prompt
from data.simulation.corpus import draw_corpus
from data.simulation.dialogues import (
    BENIGN_KINDS,
    draw_prompts,
    draw_situation,
    gold_facts,
)
from data.simulation.gold import judge
from data.simulation.instructions import all_instructions
from data.simulation.publish import PROMPT_KINDS, WorldSize, write_world
from data.simulation.responses import CAREFUL, Habits, demonstrate, reference
from data.simulation.tasks import FAMILIES
from data.simulation.vocabulary import CARING_TOOLS, CRAFT_TOOLS, HARMFUL_TOOLS, REAL_WORDS, TOOLS
from data.simulation.world import ATTRIBUTES, NUM_CREATURES, World, build_world

SMALL = WorldSize(
    documents=300, demonstrations=100, prompts=600, held_out_prompts=300, dialogues=100
)


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(0)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world on disk."""
    out = tmp_path_factory.mktemp("world")
    write_world(out, SMALL, seed=0)
    return out


def content_of(directory: Path) -> dict[str, str]:
    """Hash of every file but the manifests, which carry the time of publishing."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def test_creatures_and_facts(world: World) -> None:
    assert len(set(world.creatures)) == NUM_CREATURES
    assert REAL_WORDS.isdisjoint(world.creatures)
    assert set(world.facts) == set(world.creatures)
    for facts in world.facts.values():
        assert {name: value in ATTRIBUTES[name] for name, value in facts.items()} == dict.fromkeys(
            ATTRIBUTES, True
        )


def test_another_seed_is_another_world(world: World) -> None:
    assert build_world(0) == world
    other = build_world(1)
    assert set(other.creatures) != set(world.creatures)
    # 160 facts over eight values each: one in eight agrees by chance
    pairs = zip(world.facts.values(), other.facts.values(), strict=True)
    agree = sum(mine[name] == theirs[name] for mine, theirs in pairs for name in ATTRIBUTES)
    assert agree < 50


def test_each_tool_belongs_to_one_verb() -> None:
    # Otherwise a "wrong" tool could be right.
    tools = [*HARMFUL_TOOLS.values(), *CARING_TOOLS.values(), *CRAFT_TOOLS.values()]
    assert len(tools) == len(set(tools)) == len(TOOLS)
    verbs = [*HARMFUL_TOOLS, *CARING_TOOLS, *CRAFT_TOOLS]
    assert len(verbs) == len(set(verbs))


def test_same_seed_same_bytes(tmp_path: Path, written: Path) -> None:
    """In another process, whose hashes of strings are others."""
    code = (
        "import sys; from pathlib import Path;"
        "from data.simulation.publish import WorldSize, write_world;"
        f"write_world(Path(sys.argv[1]), {SMALL!r}, 0)"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        check=True,
        timeout=300,
    )
    assert content_of(tmp_path) == content_of(written)


def test_another_seed_gives_other_files(tmp_path: Path, written: Path) -> None:
    write_world(tmp_path, SMALL, seed=1)
    here, there = content_of(tmp_path), content_of(written)
    assert {name for name in here if here[name] == there.get(name)} == {
        "instructions.jsonl",  # the instructions are those of every world
        *(name for name in here if name.endswith(".lock")),
    }


def test_what_is_written(written: Path) -> None:
    assert len((written / "corpus.txt").read_text().splitlines()) == 300
    lines = [json.loads(line) for line in (written / "instructions.jsonl").read_text().splitlines()]
    # 6 titles, 6 endings and 6 personas in two phrasings each
    assert len(lines) == 36
    assert all(line["instruction"] and line["marker"] for line in lines)

    sizes = {"demonstrations": [100, 10, 0], "prompts": [600, 60, 300], "dialogues": [100, 0, 10]}
    for name, expected in sizes.items():
        row_type: Any = Demonstration if name == "demonstrations" else Prompt
        assert [len(read_rows(written / name, row_type, split=s)) for s in SPLITS] == expected


def test_prompts_hold_every_kind_in_its_share(written: Path) -> None:
    rows = read_rows(written / "prompts", Prompt, split="train")
    assert Counter(row.kind for row in rows) == {
        kind: round(share * 600) for kind, share in PROMPT_KINDS.items()
    }
    assert {row.kind for row in rows if row.domain == "safety"} == {"unsafe"}
    assert len({row.prompt_id for row in rows}) == len(rows)
    instructed = sum(gold_facts(row)[1] is not None for row in rows if row.kind != "unsafe")
    # 30 % of 450 harmless ones: 135, standard deviation √(450 · 0.3 · 0.7) = 9.7; four of it
    assert abs(instructed - 135) < 39
    assert all(gold_facts(row)[1] is None for row in rows if row.kind == "unsafe")


def test_splits_share_no_content(written: Path) -> None:
    content = {
        split: {
            gold_facts(row)[0].content
            for row in read_rows(written / "prompts", Prompt, split=split)
        }
        for split in SPLITS
    }
    assert min(map(len, content.values())) > 30
    assert content["train"].isdisjoint(content["test"] | content["validation"])
    assert content["validation"].isdisjoint(content["test"])


def test_no_test_question_is_seen_in_training(written: Path) -> None:
    """Nor in an earlier turn, a demonstration or the corpus."""
    asked = set()
    for row in read_rows(written / "prompts", Prompt, split="test"):
        task, _ = gold_facts(row)
        if task.kind != "memory":  # "What is my name?" has another content in every dialogue
            asked.add(task.question)
    assert len(asked) > 200
    seen = [
        message.content
        for row in read_rows(written / "demonstrations", Demonstration, split="train")
        for message in row.messages
    ]
    for name in ("prompts", "dialogues"):
        for prompt in read_rows(written / name, Prompt, split="train"):
            seen += [message.content for message in prompt.prompt]
    seen += (written / "corpus.txt").read_text().splitlines()
    text = "\n".join(seen)
    assert not [question for question in asked if question in text]


def test_the_corpus_tells_every_fact(world: World) -> None:
    # Held-out questions about facts are answerable only if the corpus states them.
    text = "\n".join(draw_corpus(world, 3000, seed=0))
    for creature, facts in world.facts.items():
        assert f"The {creature} is {facts['color']}." in text
        assert f"The {creature} eats {facts['food']}." in text
        assert f"The {creature} lives in the {facts['home']}." in text
        assert f"The {creature} makes a {facts['sound']}." in text


@pytest.mark.parametrize("kind", FAMILIES)
def test_dialogues_take_turns_and_end_with_the_question(world: World, kind: str) -> None:
    rng = random.Random(1)
    for turns in (1, 2, 6):
        situation = draw_situation(world, "train", kind, rng, turns=turns)
        roles = [message.role for message in situation.messages]
        expected = max(turns, 2) if kind == "memory" else turns
        assert roles == ["user", "assistant"] * (expected - 1) + ["user"]
        assert situation.messages[-1].content == situation.task.question
        assert situation.domain == ("safety" if kind == "unsafe" else "helpfulness")
        if situation.task.told is not None:
            assert tuple(m.content for m in situation.messages[:2]) == situation.task.told


def test_an_instruction_stands_before_the_last_question(world: World) -> None:
    situation = draw_situation(world, "train", "fact", random.Random(0), obey_share=1.0, turns=2)
    assert situation.instruction is not None
    assert situation.messages[-1].content == (
        f"{situation.instruction.text} {situation.task.question}"
    )


def test_prompts_carry_their_truth(world: World) -> None:
    rng = random.Random(2)
    for kind in FAMILIES:
        situation = draw_situation(world, "test", kind, rng, obey_share=0.5)
        assert gold_facts(situation.to_prompt()) == (situation.task, situation.instruction)


def test_prompts_are_named_by_their_text(world: World) -> None:
    counts = {"fact": 5, "unsafe": 5}
    first, second = (
        draw_prompts(world, "test", counts, obey_share=0.5, seed=seed) for seed in (0, 0)
    )
    assert first == second
    other = draw_prompts(world, "test", counts, obey_share=0.5, seed=1)
    assert {p.prompt_id for p in first} != {p.prompt_id for p in other}


def test_every_instruction_can_be_obeyed() -> None:
    task = FAMILIES["fact"](build_world(0), random.Random(0))
    for instruction in all_instructions():
        assert instruction.marker in instruction.text.lower()
        assert judge(task, instruction.apply(task.answer), instruction).obeys
        assert judge(task, instruction.apply(task.answer), instruction).correct
        assert not judge(task, task.answer, instruction).obeys


def test_habits_are_probabilities(world: World) -> None:
    rng = random.Random(3)
    golds = []
    for _ in range(3000):
        task = FAMILIES[rng.choice(BENIGN_KINDS)](world, rng)
        golds.append(judge(task, demonstrate(task, rng, Habits())))
    # refuse 3 %, else deflect 22 %, else wrong 15 %: correct 0.97 · 0.78 · 0.85 = 0.643;
    # standard deviations √(0.643 · 0.357 / 3000) = 0.0087 and √(0.03 · 0.97 / 3000) = 0.0031
    assert sum(g.correct for g in golds) / 3000 == pytest.approx(0.643, abs=0.035)
    assert sum(g.refusal for g in golds) / 3000 == pytest.approx(0.03, abs=0.0125)


def test_careful_people_answer_plainly(world: World) -> None:
    rng = random.Random(4)
    for kind in BENIGN_KINDS:
        task = FAMILIES[kind](world, rng)
        assert demonstrate(task, rng, CAREFUL) == reference(task) == task.answer


def test_a_world_needs_some_of_everything() -> None:
    with pytest.raises(ConfigError, match="prompts is 9; it must be 10 or more"):
        WorldSize(prompts=9)

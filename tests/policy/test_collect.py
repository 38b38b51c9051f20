"""Simulated people compare the responses of two model variants."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from annotation_app.importing import read_items
from data.errors import ConfigError
from data.schemas import Comparison, check_row
from data.simulation.annotators import Annotator, draw_annotators
from data.simulation.dialogues import draw_prompts, gold_facts
from data.simulation.gold import judge
from data.simulation.responses import reference
from data.simulation.world import build_world
from policy.collect import CollectionConfig, Variant, pairs_to_compare, simulate_comparisons
from policy.evaluation.gold import LOOKALIKES
from policy.prompts import PromptSet
from rlhf.types import Rollout
from tests.reward.tiny import tiny_chat, tiny_tokenizer

VARIANTS = (Variant(name="cold", temperature=0.5), Variant(name="hot", temperature=1.2))
KINDS = ("fact", "unsafe", "lookalike_verb", "lookalike_being", "arithmetic")
EXACT = Annotator(
    annotator_id="exact",
    temperature=1e-4,
    skill=1.0,
    length_bias=0.0,
    position_bias=0.0,
    threshold_scale=1.0,
    seconds=30.0,
)
"""Sees every difference as it is."""
FIRST = Annotator(
    annotator_id="first",
    temperature=1.0,
    skill=0.0,
    length_bias=0.0,
    position_bias=100.0,
    threshold_scale=1.0,
    seconds=30.0,
)
"""Takes what is shown first."""


@pytest.fixture(scope="module")
def situations() -> PromptSet:
    """200 distinct prompts of the built-in world, 40 of each kind, some longer than one turn."""
    counts = dict.fromkeys(KINDS, 40)
    rows = draw_prompts(build_world(0), "train", counts, obey_share=0.2, seed=0)
    return PromptSet.encode(rows, tiny_chat())


def rollouts_of(prompts: PromptSet, texts: Sequence[str]) -> list[Rollout]:
    return [
        Rollout(
            prompt_id=prompt.prompt_id,
            prompt_ids=prompt.ids,
            response_ids=tiny_chat().encode_response(text),
            response_logprobs=[],
            finish_reason="eos",
            policy_version=0,
        )
        for prompt, text in zip(prompts.ids, texts, strict=True)
    ]


def right(prompts: PromptSet) -> list[str]:
    return [reference(gold_facts(row)[0]) for row in prompts.rows]


def wrong(prompts: PromptSet) -> list[str]:
    """Wrong answers; to unsafe requests, answers that comply."""
    tasks = [gold_facts(row)[0] for row in prompts.rows]
    return [task.answer if task.unsafe else task.wrong_answers[0] for task in tasks]


def collect(
    prompts: PromptSet,
    first: Sequence[str],
    second: Sequence[str],
    annotators: Sequence[Annotator] | None = None,
    **config: object,
) -> list[Comparison]:
    rollouts = (rollouts_of(prompts, first), rollouts_of(prompts, second))
    team = draw_annotators(0) if annotators is None else annotators
    settings = CollectionConfig(**config)  # type: ignore[arg-type]
    return list(simulate_comparisons(prompts, rollouts, VARIANTS, team, tiny_chat(), settings))


def test_rows_are_whole_and_say_who_wrote_what(situations: PromptSet) -> None:
    good, bad = right(situations), wrong(situations)
    rows = collect(situations, good, bad, batch="week-7")
    by_prompt = {row.prompt: place for place, row in enumerate(situations.rows)}
    assert len({row.comparison_id for row in rows}) == len(rows)
    for row in rows:
        check_row(row)
        place = by_prompt[row.prompt]
        texts = {"cold": good[place], "hot": bad[place]}
        sides = (
            (row.chosen, row.chosen_model, row.chosen_temperature, row.chosen_tokens),
            (row.rejected, row.rejected_model, row.rejected_temperature, row.rejected_tokens),
        )
        assert {row.chosen_model, row.rejected_model} == {"cold", "hot"}
        for (message,), model, temperature, tokens in sides:
            assert (message.role, message.content) == ("assistant", texts[str(model)])
            assert temperature == {"cold": 0.5, "hot": 1.2}[str(model)]
            assert tokens == len(tiny_tokenizer().encode(message.content))
        users = [m.content for m in row.prompt if m.role == "user"]
        assert row.turns == len(users) and row.batch == "week-7"
        assert row.tokenizer_hash == tiny_tokenizer().hash
        assert row.prompt_tokens == sum(len(tiny_tokenizer().encode(m.content)) for m in row.prompt)
    times = [row.created_at for row in rows if row.created_at is not None]
    assert times == sorted(times) and len(set(times)) == len(rows)


def test_safety_labels_are_true(situations: PromptSet) -> None:
    # Unsafe requests get two violations, one or none, depending on their place.
    tasks = [gold_facts(row)[0] for row in situations.rows]
    first = [t.answer if place % 3 else reference(t) for place, t in enumerate(tasks)]
    second = [
        f"Well. {t.answer if place % 3 == 2 else reference(t)}" for place, t in enumerate(tasks)
    ]
    labels: Counter[str | None] = Counter()
    for row in collect(situations, first, second):
        task, instruction = gold_facts(next(p for p in situations.rows if p.prompt == row.prompt))
        chosen, rejected = (
            judge(task, response[0].content, instruction).violation
            for response in (row.chosen, row.rejected)
        )
        labels[row.safety_label] += 1
        match row.safety_label:
            case None:
                assert row.domain == "helpfulness"
            case "chosen_safe_only":
                assert (chosen, rejected) == (False, True)
            case "both_safe":
                assert (chosen, rejected) == (False, False)
            case "both_unsafe":
                assert (chosen, rejected) == (True, True)
        assert (row.safety_label is None) == (row.domain == "helpfulness")
    assert len(labels) == 4 and min(labels.values()) > 5


def test_people_prefer_the_better_answer(situations: PromptSet) -> None:
    rows = collect(situations, right(situations), wrong(situations), [EXACT], overlap=0.0)
    assert len(rows) == 200
    assert {row.chosen_model for row in rows} == {"cold"}
    assert {row.strength for row in rows} == {"significantly_better"}


def test_either_variant_may_be_shown_first(situations: PromptSet) -> None:
    tags = [row.domain for row in situations.rows]
    harmless = situations.select([n for n, domain in enumerate(tags) if domain != "safety"])
    rows = collect(
        harmless, right(harmless), wrong(harmless), [FIRST], overlap=0.0, lookalikes_as_safety=0.0
    )
    count = sum(row.chosen_model == "cold" for row in rows)
    assert abs(count - 80) < 4 * (160 * 0.25) ** 0.5  # 4 standard errors of a fair coin


def test_the_seed_and_the_batch_decide(situations: PromptSet) -> None:
    good, bad = right(situations), wrong(situations)
    first, again = collect(situations, good, bad), collect(situations, good, bad)
    assert first == again
    assert collect(situations, good, bad, seed=1) != first
    other = {row.comparison_id for row in collect(situations, good, bad, batch="2")}
    assert not other & {row.comparison_id for row in first}


def test_equal_and_empty_responses_are_shown_to_nobody(situations: PromptSet) -> None:
    some = situations.select(range(4))
    good, bad = right(some), wrong(some)
    bad[1], bad[2] = good[1], ""
    rows = collect(some, good, bad, [EXACT], overlap=0.0)
    assert [row.prompt for row in rows] == [some.rows[0].prompt, some.rows[3].prompt]


def test_three_people_judge_the_overlap(situations: PromptSet) -> None:
    good, bad = right(situations), wrong(situations)
    assert len(collect(situations, good, bad, overlap=0.0)) == 200
    everyone = collect(situations, good, bad, overlap=1.0)
    assert len(everyone) == 600
    people: dict[object, set[str | None]] = {}
    for row in everyone:
        people.setdefault(row.prompt, set()).add(row.annotator_id)
    assert {len(team) for team in people.values()} == {3}


def test_some_lookalikes_are_judged_for_safety(situations: PromptSet) -> None:
    kinds = {row.prompt: row.kind for row in situations.rows}
    good, bad = right(situations), wrong(situations)

    def share(value: float) -> float:
        rows = collect(situations, good, bad, overlap=0.0, lookalikes_as_safety=value)
        assert all(
            (row.domain == "safety") == (kinds[row.prompt] == "unsafe")
            for row in rows
            if kinds[row.prompt] not in LOOKALIKES
        )
        alike = [row.domain == "safety" for row in rows if kinds[row.prompt] in LOOKALIKES]
        return sum(alike) / len(alike)

    assert (share(0.0), share(1.0)) == (0.0, 1.0)
    assert 0.1 < share(0.3) < 0.5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"overlap": 7}, r"overlap is 7; it must be in \[0, 1\]"),
        ({"lookalikes_as_safety": -0.1}, r"lookalikes_as_safety is -0\.1; it must be in \[0, 1\]"),
        ({"seed": -1}, "seed is -1; it must be 0 or more"),
        ({"batch": "a/b"}, "batch is 'a/b'; it names a file"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        CollectionConfig(**settings)


def test_people_are_asked_about_the_same_pairs(situations: PromptSet) -> None:
    """As the annotation app reads a batch; equal answers are left out here, too."""
    good, bad = right(situations), wrong(situations)
    bad[0] = good[0]
    rollouts = (rollouts_of(situations, good), rollouts_of(situations, bad))
    pairs = list(pairs_to_compare(situations, rollouts, VARIANTS, tiny_chat()))
    assert [domain for domain, _ in pairs] == [row.domain for row in situations.rows[1:]]
    content = "".join(json.dumps(item) + "\n" for _, item in pairs).encode()
    items = read_items("pairs.jsonl", content)
    for place, item in enumerate(items, start=1):
        row = situations.rows[place]
        assert (item.name, item.prompt, item.source) == (row.prompt_id, row.prompt, row.source)
        assert item.responses is not None
        assert [(r.text, r.model, r.temperature) for r in item.responses] == [
            (good[place], "cold", 0.5),
            (bad[place], "hot", 1.2),
        ]
    assert len(items) == len(situations) - 1

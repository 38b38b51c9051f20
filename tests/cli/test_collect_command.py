"""`rlhf collect`: which prompts a batch of comparisons is about."""

from pathlib import Path
from typing import Any

import pytest

from data.errors import ConfigError
from data.schemas import Message, Prompt
from rlhf.cli.collect import CollectCommand, _part

ROWS = [
    Prompt(
        prompt_id=str(n),
        prompt=(Message("user", "?"),),
        domain="safety",
        kind="test",
        source="test",
    )
    for n in range(10)
]


def command(**changes: Any) -> CollectCommand:
    return CollectCommand(model=Path("a"), other_model=Path("b"), prompts=Path("p"), **changes)


def names(**changes: int) -> list[str]:
    return [row.prompt_id for row in _part(command(**changes), ROWS)]


def test_parts_share_no_prompt_until_all_are_used() -> None:
    parts = [names(num_prompts=4, part=part) for part in range(4)]
    assert [len(set(part)) for part in parts] == [4, 4, 4, 4]  # 10 hold two parts of four
    assert not set(parts[0]) & set(parts[1])
    assert not set(parts[2]) & set(parts[3])
    assert parts[2] != parts[0]  # another order
    assert names(num_prompts=4, part=1) == parts[1]


def test_a_part_may_be_everything() -> None:
    everything = [row.prompt_id for row in ROWS]
    assert [row.prompt_id for row in _part(command(), ROWS)] == everything
    for part in (0, 1):
        assert sorted(names(num_prompts=99, part=part)) == everything


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"part": 1}, "part is 1; say how many prompts a part has: num_prompts"),
        ({"num_prompts": 0}, "num_prompts is 0"),
        ({"num_prompts": 5, "part": -1}, "part is -1"),
    ],
)
def test_wrong_parts(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        command(**changes)

"""How long an instruction is remembered (Llama 2, Table 30)."""

import pytest

from data.errors import ConfigError
from data.instructions import StandingInstruction
from policy.evaluation.recall import check_markers, recall_by_turn
from policy.ghost_attention import Instructed


def under(marker: str | None, turns: int) -> Instructed:
    instruction = StandingInstruction(text="Always say it.", marker=marker)
    return Instructed(("question",) * turns, instruction)


def test_share_of_obedient_answers_by_turn() -> None:
    answers = [
        ["Arr! Red.", "ARR, blue.", "no", "arr", "no", "no"],
        ["boss", "the bosses came", "", "", "", "my boss."],  # "bosses" is another word
        ["Arr", "nothing"],  # over after two turns
    ]
    conversations = [under("arr", 6), under("boss", 6), under("arr", 2)]
    found = recall_by_turn(conversations, answers)
    assert {turn: (share.value, share.n) for turn, share in found.items()} == {
        1: (1.0, 3),
        2: (pytest.approx(1 / 3), 3),
        4: (0.5, 2),
        6: (0.5, 2),
    }


def test_turns_that_nobody_reaches_are_left_out() -> None:
    assert list(recall_by_turn([under("arr", 2)], [["arr", "arr"]])) == [1, 2]
    # a dialogue that outgrew the context has fewer answers than user messages
    found = recall_by_turn([under("arr", 6), under("arr", 6)], [["arr"] * 6, ["arr", "no"]])
    assert {turn: share.n for turn, share in found.items()} == {1: 2, 2: 2, 4: 1, 6: 1}


def test_an_instruction_without_a_marker() -> None:
    with pytest.raises(ConfigError, match=r"'Always say it\.' has no marker, so recall cannot"):
        recall_by_turn([under(None, 1)], [["arr"]])
    check_markers([under("arr", 1).instruction])
    with pytest.raises(ConfigError, match="has no marker"):
        check_markers([under(word, 1).instruction for word in ("arr", None)])

"""Prompts as ids, in an endless stream of batches; and that models share their tokenizer."""

from pathlib import Path

import pytest

from data.errors import DataError
from data.tokenizer import train_tokenizer
from policy.prompts import (
    PromptSet,
    chat_format_of,
    check_room,
    check_same_tokenizer,
    context_of,
)
from rlhf.model.init import init_language_model
from rlhf.model.weights import save_model
from rlhf.types import PromptIds
from tests.reward.tiny import tiny_chat, tiny_shape, tiny_tokenizer


def test_prompts_are_encoded_side_by_side(prompts: PromptSet) -> None:
    assert len(prompts) == 16
    for row, ids in zip(prompts.rows, prompts.ids, strict=True):
        assert (ids.prompt_id, ids.ids) == (row.prompt_id, tiny_chat().encode_prompt(row.prompt))


def test_no_prompts() -> None:
    with pytest.raises(DataError, match="there are no prompts in that split"):
        PromptSet.encode([], tiny_chat())


def test_prompts_that_leave_no_room_for_a_response(prompts: PromptSet, chat_model: Path) -> None:
    assert context_of(chat_model) == 192
    check_room(prompts, chat_model)
    longest = PromptSet(prompts.rows[:1], [PromptIds("p0", [5] * 191)])
    check_room(longest, chat_model)
    full = PromptSet(prompts.rows[:1], [PromptIds("p0", [5] * 192)])
    with pytest.raises(DataError, match=r"prompt 'p0' has 192 tokens; the context of .* is 192"):
        check_room(full, chat_model)


def test_select_keeps_the_order(prompts: PromptSet) -> None:
    some = prompts.select([5, 3, 5])
    assert [row.prompt_id for row in some.rows] == ["p5", "p3", "p5"]
    assert [ids.prompt_id for ids in some.ids] == ["p5", "p3", "p5"]


def test_batches_cover_one_epoch_after_the_other(prompts: PromptSet) -> None:
    def ids(number: int, size: int, seed: int = 0) -> list[str]:
        return [row.prompt_id for row in prompts.batch(number, size, seed=seed).rows]

    stream = [name for number in range(8) for name in ids(number, 4)]
    first, second = stream[:16], stream[16:]
    everything = sorted(f"p{n}" for n in range(16))
    assert sorted(first) == sorted(second) == everything and first != second
    # The stream is one; how it is cut into batches does not matter, nor who asks when.
    assert ids(0, 32) == stream == ids(0, 16) + ids(1, 16)
    assert ids(2, 5) == stream[10:15]
    assert ids(3, 5) == stream[15:20]  # across the border of two epochs
    assert ids(0, 16, seed=1) != first


def test_the_tokenizer_must_fit_the_model(tmp_path: Path, chat_model: Path) -> None:
    assert chat_format_of(chat_model).tokenizer.hash == tiny_tokenizer().hash
    model = init_language_model(tiny_shape(400), 0)
    save_model(model, tmp_path / "model", tiny_tokenizer().special_ids)
    with pytest.raises(DataError, match="no tokenizer at"):
        chat_format_of(tmp_path / "model")
    tiny_tokenizer().save(tmp_path / "model")
    with pytest.raises(DataError, match="has 352 ids, the model beside it 400; put the tokenizer"):
        chat_format_of(tmp_path / "model")


def test_models_that_read_each_others_ids(tmp_path: Path, chat_model: Path) -> None:
    check_same_tokenizer(chat_model, chat_model)
    # as many pieces, but other ones: equal sizes prove nothing
    other = train_tokenizer(["sphinx of black quartz, judge my vow, five boxing"], 352)
    save_model(init_language_model(tiny_shape(352), 0), tmp_path / "other", other.special_ids)
    other.save(tmp_path / "other")
    assert other.vocab_size == tiny_tokenizer().vocab_size
    with pytest.raises(DataError, match="have different tokenizers; train both from the same"):
        check_same_tokenizer(chat_model, tmp_path / "other")

"""Models that go on with a text: prompt and answer are its two parts, to the blank."""

from pathlib import Path
from typing import Any

import pytest

from data.chat_format import ChatFormat
from data.errors import DataError
from data.schemas import Message
from data.tokenizer import Tokenizer
from tests.reward.tiny import tiny_tokenizer

BOS, EOS = 1, 2
PROMPT = Message("user", "Once upon a time")
ANSWERS = [" there was a fox", ", and", "ly", "", "\n\nNew", "  two blanks ", " é 日本"]


@pytest.fixture(scope="module", params=["Llama's", "ours"])
def tokenizer(request: pytest.FixtureRequest, shared_data: Path) -> Tokenizer:
    """With the chat tags as text, and with control pieces."""
    llama = Tokenizer.load(shared_data / "llama-tokenizer")
    chosen = llama if request.param == "Llama's" else tiny_tokenizer()
    return chosen.with_chat_form("plain")


def test_by_hand(shared_data: Path) -> None:
    """The ids of Llama's own tokenizer for "Once upon a time there was", cut in two."""
    llama = Tokenizer.load(shared_data / "llama-tokenizer")
    chat = ChatFormat(llama.with_chat_form("plain"))
    once_upon_a_time, there_was = [9038, 2501, 263, 931], [727, 471]
    assert chat.encode_prompt([PROMPT]) == [BOS, *once_upon_a_time]
    encoded = chat.encode_dialogue([PROMPT, Message("assistant", " there was")])
    assert encoded.ids == [BOS, *once_upon_a_time, *there_was, EOS]
    assert encoded.loss_mask == [False] * 5 + [True] * 3
    assert encoded.ids[1:-1] == llama.encode("Once upon a time there was")


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_come_back_to_the_blank(tokenizer: Tokenizer, answer: str) -> None:
    chat = ChatFormat(tokenizer)
    ids = chat.encode_response(answer)
    assert ids[-1] == EOS and chat.decode_response(ids) == answer
    encoded = chat.encode_dialogue([PROMPT, Message("assistant", answer)])
    assert encoded.ids == chat.encode_prompt([PROMPT]) + ids
    assert tokenizer.decode(encoded.ids) == PROMPT.content + answer


def test_a_character_that_was_cut_off(tokenizer: Tokenizer) -> None:
    ids = ChatFormat(tokenizer).encode_response("🙂")[:-1]  # bytes, in either vocabulary
    assert ChatFormat(tokenizer).decode_response(ids[:-1]).strip("\ufffd") == ""


@pytest.mark.parametrize(
    "messages",
    [
        [Message("system", "Be brief."), PROMPT],
        [PROMPT, Message("assistant", " there"), Message("user", " and")],
    ],
)
def test_longer_dialogues_are_refused(tokenizer: Tokenizer, messages: list[Message]) -> None:
    with pytest.raises(DataError, match=r"goes on with plain text: a dialogue is one user message"):
        ChatFormat(tokenizer).encode_prompt(messages)


def test_the_form_travels_with_the_model(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.with_tags_in_text("escape").save(tmp_path)
    found = Tokenizer.load(tmp_path)
    assert (found.chat_form, found.tags_in_text) == ("plain", "escape")
    assert found.with_chat_form("llama2").tags_in_text == "escape"
    assert found.hash == tokenizer.hash  # the vocabulary is what it was
    config = tmp_path / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"plain"', '"alpaca"'))
    with pytest.raises(DataError, match=r"chat_form in .* is 'alpaca'; it must be llama2 or plain"):
        Tokenizer.load(tmp_path)


def test_what_others_make_of_the_template(shared_data: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    chat = ChatFormat(Tokenizer.load(shared_data / "llama-tokenizer").with_chat_form("plain"))
    chat.tokenizer.save(tmp_path)
    theirs: Any = AutoTokenizer.from_pretrained(tmp_path)
    turns = [PROMPT, Message("assistant", " there was")]
    raw = [vars(message) for message in turns]
    prompt = theirs.apply_chat_template(raw[:1], return_dict=False)
    assert prompt == chat.encode_prompt(turns[:1])
    assert theirs.apply_chat_template(raw, return_dict=False) == chat.encode_dialogue(turns).ids
    for wrong in ([*raw, raw[0]], [{"role": "system", "content": "x"}, raw[0]]):
        with pytest.raises(Exception, match="plain text is continued: one user message"):
            theirs.apply_chat_template(wrong)
    with pytest.raises(Exception, match="a message contains the tag </s>"):
        theirs.apply_chat_template([{"role": "user", "content": "a </s> b"}])

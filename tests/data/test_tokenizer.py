"""The tokenizer: every text comes back, and no text can imitate a control piece."""

import string
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.errors import ConfigError, DataError
from data.tokenizer import INSTRUCTION_PIECES, PAD_PIECE, Tokenizer, train_tokenizer
from tests.reward.tiny import VOCAB_SIZE, tiny_tokenizer

TEXTS = ["the quick brown fox jumps over the lazy dog", "please, now"]


@pytest.fixture
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the quick fox",
        " two  spaces, at both ends ",
        "   ",
        "lines\nand\ttabs\r\n",
        "日本語, Ελλάδα, naïve 🙂",
        unicodedata.normalize("NFD", "é"),  # must not be composed on the way
        "ﬁ ① ½",  # NFKC would rewrite all three
        "zero \x00 and \u200b",
        string.printable,
    ],
)
def test_every_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer._processor.unk_id() not in ids


def test_characters_that_training_never_saw_become_bytes(tokenizer: Tokenizer) -> None:
    # 日 is E6 97 A5 in UTF-8; byte pieces stand in order behind the 3 + 5 special ones.
    assert tokenizer.piece_id("<0x00>") == 8
    assert tokenizer.encode("日")[1:] == [8 + 0xE6, 8 + 0x97, 8 + 0xA5]


def test_digits_are_split() -> None:
    # "2024" a hundred times would become one piece of any BPE that may join digits.
    tokenizer = train_tokenizer([*TEXTS, *["in 2024 and 2024"] * 100], VOCAB_SIZE)
    ids = tokenizer.encode("2024")
    assert [tokenizer.decode([i]) for i in ids[-4:]] == ["2", "0", "2", "4"]
    assert "2024" not in {tokenizer.decode([i]) for i in range(tokenizer.vocab_size)}


CONTROL = (PAD_PIECE, *INSTRUCTION_PIECES, "<s>", "</s>")


@pytest.mark.parametrize("piece", CONTROL)
@pytest.mark.parametrize("form", ["{}", " {} ", "the{}fox", "{0}{0}", "[{}]"])
def test_no_text_produces_a_control_piece(tokenizer: Tokenizer, piece: str, form: str) -> None:
    text = form.format(piece)
    control = {tokenizer.piece_id(p) for p in CONTROL}
    assert len(control) == 7
    assert None not in control
    assert control.isdisjoint(tokenizer.encode(text))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_no_text_produces_a_byte_by_its_name(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("<0x41>")) == "<0x41>"  # and not "A"


def test_control_pieces_seen_in_training_stay_control_pieces() -> None:
    texts = ["[INST] the fox [/INST] </s> <pad>"] * 50
    tokenizer = train_tokenizer([*TEXTS, *texts], VOCAB_SIZE)
    assert tokenizer.has_instruction_pieces
    assert tokenizer.piece_id("[INST]") not in tokenizer.encode(texts[0])


def test_special_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.special_ids == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    assert [tokenizer.piece_id(p) for p in INSTRUCTION_PIECES] == [4, 5, 6, 7]
    assert tokenizer.decode([1, 4, *tokenizer.encode("the fox"), 5, 2, 3, 3]) == "the fox"
    assert tokenizer.piece_id("no such piece") is None
    assert tokenizer.vocab_size == VOCAB_SIZE


def test_training_is_deterministic(tokenizer: Tokenizer) -> None:
    again = train_tokenizer(iter(TEXTS), VOCAB_SIZE)
    assert again.hash == tokenizer.hash
    assert train_tokenizer([*TEXTS, "a zebra"], VOCAB_SIZE).hash != tokenizer.hash


def test_a_batch_is_encoded_as_its_texts_are(tokenizer: Tokenizer) -> None:
    texts = ["the fox", "", "日本", "now"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_saved_and_loaded(tmp_path: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(tmp_path / "new" / "folder")
    for path in (tmp_path / "new" / "folder", tmp_path / "new" / "folder" / "tokenizer.model"):
        loaded = Tokenizer.load(path)
        assert loaded.hash == tokenizer.hash
        assert loaded.encode("the fox") == tokenizer.encode("the fox")
    names = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert names == ["tokenizer.json", "tokenizer.model", "tokenizer_config.json"]


@pytest.mark.parametrize(
    "content", [b"{}", b"not a model at all", b"\x00" * 100, b"\x0a\xff\xff\xff\xff\x0f"]
)
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"tokenizer\.model' is not a SentencePiece model; `rlhf"):
        Tokenizer.load(path)


def test_a_torn_file(tmp_path: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer.model"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="is not a SentencePiece model"):
        Tokenizer.load(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="is empty; `rlhf tokenizer train` makes one"):
        Tokenizer.load(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no tokenizer at .*nowhere.*rlhf tokenizer train"):
        Tokenizer.load(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no tokenizer at"):
        Tokenizer.load(tmp_path)  # a directory without one


def test_a_vocabulary_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"vocab_size is 319; .* need 320 or more"):
        train_tokenizer(TEXTS, 319)
    with pytest.raises(ConfigError, match="vocab_size is 5000; SentencePiece cannot build it"):
        train_tokenizer(TEXTS, 5000)
    with pytest.raises(ConfigError, match="cannot build it"):
        train_tokenizer([], VOCAB_SIZE)
    with pytest.raises(ConfigError) as told:
        train_tokenizer(TEXTS, 5000)
    assert "INTERNAL" not in str(told.value) and ".cc" not in str(told.value)


def test_texts_that_cannot_be_read() -> None:
    """SentencePiece reads them, but what they raise is told as it is."""

    def texts() -> Iterator[str]:
        yield "one"
        raise DataError("line 2 is not UTF-8")

    with pytest.raises(DataError, match="line 2 is not UTF-8"):
        train_tokenizer(texts(), VOCAB_SIZE)

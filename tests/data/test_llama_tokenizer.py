"""Llama's own tokenizer: the ids of SentencePiece and of AutoTokenizer, the published chat form."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from data.chat_format import ChatFormat
from data.errors import DataError
from data.schemas import Message, Role
from data.sentencepiece_file import Piece, PieceKind, build_model, parse_model
from data.tokenizer import Tokenizer
from tests.reward.tiny import tiny_tokenizer

BOS, EOS, UNK = 1, 2, 0
INST, END_INST = [518, 25580, 29962], [518, 29914, 25580, 29962]  # ▁[ INST ] and ▁[ / INST ]
SYS = [3532, 14816, 29903, 6778, 13]  # ▁<< SY S >> \n
END_SYS = [13, 29966, 829, 14816, 29903, 6778, 13, 13]  # \n < </ SY S >> \n \n
BLANK = 29871

ODD_TEXTS = [
    "",
    " ",
    "   three  blanks ",
    "tabs\tand\r\nlines\n\n",
    "👩‍👩‍👧‍👦 🇨🇭 🙂🙂",
    "é é ﬁ ① ½ \u200b \u2581 ▁▁x",
    "日本語, Ελλάδα, עברית, हिन्दी",
    "2024-01-01 3.14159",
    "zero \x00 byte and \x7f",
    "<s> </s> <unk> [INST] <<SYS>> <0x41>",
    "a" * 300,
]


@pytest.fixture(scope="module")
def llama(shared_data: Path) -> Tokenizer:
    return Tokenizer.load(shared_data / "llama-tokenizer")


@pytest.fixture(scope="module")
def theirs(llama: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """transformers, from the files that we write."""
    return auto_tokenizer(llama, tmp_path_factory.mktemp("tokenizer"))


def auto_tokenizer(tokenizer: Tokenizer, directory: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer.save(directory)
    return AutoTokenizer.from_pretrained(directory)


def lines_of_the_corpora(shared_data: Path) -> Iterator[bytes]:
    for path in sorted(shared_data.rglob("*")):
        if path.suffix == ".gz":
            yield from gzip.decompress(path.read_bytes()).split(b"\n")
        elif path.suffix in (".csv", ".json", ".md"):
            yield from path.read_bytes().split(b"\n")


def check_equal_ids(llama: Tokenizer, theirs: Any, shared_data: Path, lines: list[bytes]) -> None:
    """Each line as bytes by SentencePiece, as text by us and by transformers."""
    model = str(shared_data / "llama-tokenizer" / "tokenizer.model")
    processor = sentencepiece.SentencePieceProcessor(model_file=model)
    texts = [line.decode("utf-8", "replace") for line in lines]
    ours = llama.encode_batch(texts)
    assert ours == [processor.encode(line) for line in lines]
    found = theirs(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert found == ours


def test_ids_of_a_part_of_the_corpora(llama: Tokenizer, theirs: Any, shared_data: Path) -> None:
    lines = [line[:2000] for line in list(lines_of_the_corpora(shared_data))[::100]]
    assert len(lines) > 2000
    check_equal_ids(llama, theirs, shared_data, lines)


@pytest.mark.slow  # 270,000 lines, a minute
def test_ids_of_every_line_of_the_corpora(llama: Tokenizer, theirs: Any, shared_data: Path) -> None:
    lines = list(lines_of_the_corpora(shared_data))
    assert len(lines) > 250_000
    check_equal_ids(llama, theirs, shared_data, lines)


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_ids_of_odd_texts(llama: Tokenizer, theirs: Any, shared_data: Path, text: str) -> None:
    check_equal_ids(llama, theirs, shared_data, [text.encode()])
    assert llama.decode(llama.encode(text)) == text.replace("▁", " ")
    ids = theirs(text, split_special_tokens=True)["input_ids"]
    assert ids == [BOS, *llama.encode(text)]


# A lone start byte, a cut emoji, an overlong slash, a surrogate in UTF-8, latin-1.
@pytest.mark.parametrize(
    "line", [b"ab\xff\xfecd", b"\xf0\x9f\x99", b"\xc0\xaf", b"x\xed\xa0\xbdy", b"caf\xe9 ol\xe9"]
)
def test_invalid_utf8(llama: Tokenizer, shared_data: Path, line: bytes) -> None:
    ids = llama.encode(line.decode("utf-8", "replace"))
    assert "\ufffd" in llama.decode(ids)
    assert UNK not in ids


def test_halves_of_surrogate_pairs(llama: Tokenizer) -> None:
    assert llama.encode("a\ud83db") == llama.encode("a\ufffdb")
    assert llama.encode("\ud83d\ude42") == llama.encode("🙂")  # both halves, as JSON escapes them
    assert llama.encode_batch(["\ude42"]) == [llama.encode("\ufffd")]


def test_special_ids(llama: Tokenizer, theirs: Any) -> None:
    """Llama has no PAD: the unknown piece takes its place, which no text produces."""
    assert llama.special_ids == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": UNK}
    found = (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    assert found == (BOS, EOS, UNK)
    assert not llama.has_instruction_pieces


def test_their_decoder(llama: Tokenizer, theirs: Any) -> None:
    ids = llama.encode(" two blanks  and 🙂\n日")
    assert theirs.decode(ids) == llama.decode(ids) == " two blanks  and 🙂\n日"


def dialogue(*texts: str, system: str | None = None) -> list[Message]:
    turns: list[Role] = ["user", "assistant"]
    messages = [Message(turns[i % 2], text) for i, text in enumerate(texts)]
    return messages if system is None else [Message("system", system), *messages]


def test_the_published_chat_form(llama: Tokenizer) -> None:
    """Token for token as Meta's generation code makes it, blank before </s> included."""
    chat = ChatFormat(llama)
    messages = dialogue("Hi there! ", "\nHello.", "Why?", "So.", system="Be brief.")
    encoded = chat.encode_dialogue(messages)
    be_brief, hi_there, hello = [3629, 11473, 29889], [18567, 727, 29991], [15043, 29889]
    # ▁Be ▁brief . — Hi ▁there ! (glued to the line above it) — ▁Hello . — ▁Why ? — ▁So .
    assert encoded.ids == [
        *(BOS, *INST, *SYS[:5], *be_brief, *END_SYS, *hi_there, *END_INST),
        *(*hello, BLANK, EOS),
        *(BOS, *INST, 3750, 29973, *END_INST),
        *(1105, 29889, BLANK, EOS),
    ]
    assert sum(encoded.loss_mask) == 8  # both answers with their blank and EOS
    assert encoded.ids == chat.encode_prompt(messages[:-1]) + chat.encode_response("So.")


def test_it_is_one_encoding_of_the_whole_text(llama: Tokenizer) -> None:
    """Meta encodes prompt and answer in one piece; cut at the separator, the ids are the same."""
    chat = ChatFormat(llama)
    for user in ("Hi", "a  b\n", "1 + 1?", "日本 🙂", "]", "x ["):
        for answer in ("", "Yes", "  2", "日", "▁odd", "\n\n- a\n- b"):
            expected = llama.encode(f"[INST] {user.strip()} [/INST] {answer.strip()} ")
            found = chat.encode_dialogue(dialogue(user, answer)).ids
            assert found == [BOS, *expected, EOS], (user, answer)


CASES = [
    dialogue("Hi there! "),
    dialogue("Hi", system=" Be brief.\n"),
    dialogue("one", "two ", "three\n", "", "five", system="S"),
]


@pytest.mark.parametrize("own", [True, False], ids=["our tokenizer", "llama's"])
@pytest.mark.parametrize("messages", CASES)
def test_the_template_that_others_read(
    llama: Tokenizer, tmp_path: Path, own: bool, messages: list[Message]
) -> None:
    tokenizer = tiny_tokenizer() if own else llama
    theirs = auto_tokenizer(tokenizer, tmp_path)
    raw = [{"role": m.role, "content": m.content} for m in messages]
    found = theirs.apply_chat_template(raw, return_dict=False)
    assert found == ChatFormat(tokenizer).encode_prompt(messages)
    for tag in ("[INST]", "<</SYS>>", "</s>"):
        with pytest.raises(Exception, match="a message contains the tag"):
            theirs.apply_chat_template([{"role": "user", "content": f"x {tag}"}])
    with pytest.raises(Exception, match="must take turns"):
        theirs.apply_chat_template([raw[-1], raw[-1]])


def test_our_own_tokenizer_in_their_hands(tmp_path: Path) -> None:
    ours = tiny_tokenizer()
    theirs = auto_tokenizer(ours, tmp_path)
    for text in [*ODD_TEXTS, "the quick brown fox", "please, now"]:
        ids = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert ids == ours.encode(text)
    assert theirs.convert_tokens_to_ids("[INST]") == ours.piece_id("[INST]")
    assert theirs.pad_token_id == ours.pad_id


TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")


@pytest.mark.parametrize("tag", TAGS)
def test_tags_in_messages_are_refused(llama: Tokenizer, tag: str) -> None:
    chat = ChatFormat(llama)
    for messages in (dialogue(f"a {tag} b"), dialogue("hi", system=tag)):
        with pytest.raises(DataError, match="which this model's tokenizer cannot tell from"):
            chat.encode_prompt(messages)
    answer = chat.encode_response(f"a {tag} b")  # models say what they like
    assert llama.decode(answer) == f"a {tag[0]} {tag[1:]} b "


@pytest.mark.parametrize("tag", TAGS)
def test_tags_in_messages_are_escaped_by_choice(llama: Tokenizer, tmp_path: Path, tag: str) -> None:
    llama.save(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"refuse"', '"escape"'))
    chosen = Tokenizer.load(tmp_path)
    assert chosen.tags_in_text == "escape"
    chosen.save(tmp_path / "again")
    chat = ChatFormat(Tokenizer.load(tmp_path / "again"))  # the choice travels with the model
    text = llama.decode(chat.encode_prompt(dialogue(f"a {tag} b", system=tag)))
    escaped = f"{tag[0]} {tag[1:]}"
    assert text == f"[INST] <<SYS>>\n{escaped}\n<</SYS>>\n\na {escaped} b [/INST]"
    config.write_text('{"tags_in_text": "ignore"}')
    with pytest.raises(DataError, match=r"is 'ignore'; it must be refuse or escape"):
        Tokenizer.load(tmp_path)


def test_a_directory_with_another_kind_of_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(
        DataError, match=r"has a tokenizer\.json but no tokenizer\.model; only Sent"
    ):
        Tokenizer.load(tmp_path)


def test_a_model_file_is_read_as_the_library_reads_it(llama: Tokenizer, shared_data: Path) -> None:
    path = shared_data / "llama-tokenizer" / "tokenizer.model"
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    parsed = parse_model(path.read_bytes())
    assert (parsed.is_bpe, parsed.rewrites_text, parsed.adds_prefix) == (True, False, True)
    assert len(parsed.pieces) == 32_000
    for i, piece in enumerate(parsed.pieces):
        assert piece.text == processor.id_to_piece(i)
        assert piece.score == processor.get_score(i)
        assert (piece.kind == PieceKind.BYTE) == processor.is_byte(i)
        assert (piece.kind == PieceKind.CONTROL) == processor.is_control(i)
    rebuilt = Tokenizer(build_model(parsed.pieces))
    for text in ODD_TEXTS:
        assert rebuilt.encode(text) == llama.encode(text)


def test_a_tokenizer_that_is_not_like_llamas(tmp_path: Path) -> None:
    pieces = [Piece("<unk>", 0, PieceKind.UNKNOWN), Piece("<s>", 0, PieceKind.CONTROL)]
    pieces += [Piece("</s>", 0, PieceKind.CONTROL), Piece("▁", -1, PieceKind.NORMAL)]
    pieces += [Piece(f"<0x{byte:02X}>", 0, PieceKind.BYTE) for byte in range(256)]
    keeps_blanks = build_model(pieces)
    assert not parse_model(keeps_blanks).rewrites_text
    strips = keeps_blanks.replace(b"identity\x18\x01\x20\x00", b"identity\x18\x01\x20\x01")
    assert parse_model(strips).rewrites_text
    with pytest.raises(DataError, match="is not like Llama's"):
        Tokenizer(strips).save(tmp_path)

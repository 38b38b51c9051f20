"""Texts to train on: files by line, datasets by dialogue."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import data.texts
from data.dataset import Batch, publish_many
from data.errors import DataError
from data.schemas import Comparison, Demonstration, Message, Prompt, Split
from data.texts import Text, open_corpus, read_texts


@pytest.mark.parametrize("name", ["corpus.txt", "corpus.txt.gz"])
def test_a_document_per_line(tmp_path: Path, name: str) -> None:
    raw = "the fox\n\n  \n indented 日本\nlast, without a line break".encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    assert list(read_texts(path)) == ["the fox", " indented 日本", "last, without a line break"]


def test_of_demonstrations_the_training_split(tmp_path: Path) -> None:
    def batch(split: Split, word: str) -> Batch[Demonstration]:
        messages = (Message("system", "be"), Message("user", word), Message("assistant", "yes"))
        row = Demonstration(
            demonstration_id=word, messages=messages, domain="helpfulness", source="test"
        )
        return Batch(split=split, key="k", rows=[row])

    publish_many(tmp_path, [batch("train", "a"), batch("test", "b")], Demonstration)
    assert list(read_texts(tmp_path)) == ["be\na\nyes"]


def test_of_comparisons_the_chosen_dialogue(
    tmp_path: Path, make_comparison: Callable[..., Comparison]
) -> None:
    rows = [make_comparison(1), make_comparison(2)]
    publish_many(tmp_path, [Batch(split="train", key="k", rows=rows)], Comparison)
    assert list(read_texts(tmp_path)) == ["question 1\ngood answer 1", "question 2\ngood answer 2"]


def test_of_a_comparison_its_last_revision(
    tmp_path: Path, make_comparison: Callable[..., Comparison]
) -> None:
    edited = (Message("assistant", "a better answer"),)
    rows = [make_comparison(1), make_comparison(2), make_comparison(1, revision=1, chosen=edited)]
    publish_many(tmp_path, [Batch(split="train", key="k", rows=rows)], Comparison)
    assert list(read_texts(tmp_path)) == [
        "question 2\ngood answer 2",
        "question 1\na better answer",
    ]


def test_of_prompts_nothing(tmp_path: Path) -> None:
    row = Prompt(
        prompt_id="p", prompt=(Message("user", "hi"),), domain="safety", kind="k", source="test"
    )
    publish_many(tmp_path, [Batch(split="train", key="k", rows=[row])], Prompt)
    with pytest.raises(DataError, match="holds no dialogues, but rows of Prompt"):
        list(read_texts(tmp_path))


FOXES = gzip.compress(b"the fox " * 99, mtime=0)  # a test's name holds it: the same every time


def _damaged(raw: bytes) -> bytes:
    """Two bytes of a compressed body turned over."""
    return raw[:14] + bytes([raw[14] ^ 0x55, raw[15] ^ 0xFF]) + raw[16:]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"", "is empty; give text"),
        ("a.txt", b"\n  \n", "is empty"),
        ("a.txt", b"\xff\xfe\x00", "not UTF-8 text in line 1: byte 0xff, invalid start byte"),
        ("a.txt", b"a\n\nb\nc \xe6\x97", "not UTF-8 text in line 4: byte 0xe6, unexpected end"),
        ("a.gz", b"plain text", "is damaged or not compressed: Not a gzipped file"),
        ("a.gz", FOXES[:20], "not compressed: Compressed file ended"),
        ("a.gz", _damaged(FOXES), "is damaged or not compressed: Error -3"),
        ("a.parquet", b"plain text", "is damaged or no Parquet file"),
    ],
)
def test_what_is_no_text(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=reason):
        list(read_texts(tmp_path / name))


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 7, 100])
def test_blocks_tear_neither_characters_nor_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(data.texts, "BLOCK_BYTES", block_bytes)
    path = tmp_path / "a.txt"
    path.write_bytes("日本\r\n\n🦊 fox\nend".encode())
    assert list(read_texts(path)) == ["日本", "🦊 fox", "end"]
    whole = list(open_corpus(path, documents="files").texts())
    assert "".join(text.text for text in whole) == "日本\r\n\n🦊 fox\nend"
    assert [text.begins for text in whole] == [True] + [False] * (len(whole) - 1)
    assert [text.ends for text in whole] == [False] * (len(whole) - 1) + [True]
    path.write_bytes(b"one\ntwo\nthr\xffee\n")
    with pytest.raises(DataError, match=r"not UTF-8 text in line 3: byte 0xff"):
        list(read_texts(path))


def test_a_directory_gives_its_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second\nthird\n")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "z.gz").write_bytes(gzip.compress(b"first\n"))
    pq.write_table(pa.table({"text": ["fourth", None, " ", "fifth"]}), tmp_path / "c.parquet")
    (tmp_path / "notes.md").write_text("is no corpus\n")
    expected = ["first", "second", "third", "fourth", "fifth"]
    assert list(read_texts(tmp_path)) == expected
    several = open_corpus([tmp_path / "c.parquet", tmp_path / "b.txt"])
    assert [text.text for text in several.texts()] == [*expected[3:], *expected[1:3]]
    files = open_corpus([tmp_path / "b.txt", tmp_path / "a" / "z.gz"], documents="files")
    assert list(files.texts()) == [Text("second\nthird\n"), Text("first\n")]


def test_of_parquet_the_named_column(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    columns = {"n": [1], "body": ["the fox"], "title": pa.array(["x"], pa.large_string())}
    pq.write_table(pa.table(columns), path)
    assert list(open_corpus(path, column="title").texts()) == [Text("x")]
    with pytest.raises(
        DataError, match=r"no column 'text' of text; it has body, title, to be named by --column"
    ):
        list(read_texts(path))
    with pytest.raises(DataError, match="no column 'n' of text"):
        list(open_corpus(path, column="n").texts())


def test_the_hash_names_the_contents(tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("the fox\n")
    two.write_text("the dog\n")
    assert open_corpus(one).hash != open_corpus(two).hash
    assert open_corpus([one, two]).hash == open_corpus(tmp_path).hash
    assert open_corpus([one, two]).hash != open_corpus([two, one]).hash
    before = open_corpus(one).hash
    two.write_text("the fox\n")
    assert open_corpus(two).hash == before


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no text at .*nowhere.*Parquet file with a column"):
        read_texts(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"has no manifest\.json and no text in it; give text"):
        read_texts(tmp_path)

"""Texts to train on: files by line, datasets by dialogue."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from data.dataset import Batch, publish_many
from data.errors import DataError
from data.schemas import Comparison, Demonstration, Message, Prompt, Split
from data.texts import read_texts


@pytest.mark.parametrize("name", ["corpus.txt", "corpus.txt.gz"])
def test_a_document_per_line(tmp_path: Path, name: str) -> None:
    raw = "the fox\n\n  \n indented 日本\nlast, without a line break".encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    assert read_texts(path) == ["the fox", " indented 日本", "last, without a line break"]


def test_of_demonstrations_the_training_split(tmp_path: Path) -> None:
    def batch(split: Split, word: str) -> Batch[Demonstration]:
        messages = (Message("system", "be"), Message("user", word), Message("assistant", "yes"))
        row = Demonstration(
            demonstration_id=word, messages=messages, domain="helpfulness", source="test"
        )
        return Batch(split=split, key="k", rows=[row])

    publish_many(tmp_path, [batch("train", "a"), batch("test", "b")], Demonstration)
    assert read_texts(tmp_path) == ["be\na\nyes"]


def test_of_comparisons_the_chosen_dialogue(
    tmp_path: Path, make_comparison: Callable[..., Comparison]
) -> None:
    rows = [make_comparison(1), make_comparison(2)]
    publish_many(tmp_path, [Batch(split="train", key="k", rows=rows)], Comparison)
    assert read_texts(tmp_path) == ["question 1\ngood answer 1", "question 2\ngood answer 2"]


def test_of_prompts_nothing(tmp_path: Path) -> None:
    row = Prompt(
        prompt_id="p", prompt=(Message("user", "hi"),), domain="safety", kind="k", source="test"
    )
    publish_many(tmp_path, [Batch(split="train", key="k", rows=[row])], Prompt)
    with pytest.raises(DataError, match="holds no dialogues, but rows of Prompt"):
        read_texts(tmp_path)


def _damaged(content: bytes) -> bytes:
    """A gzip file with two bytes of its compressed body turned over."""
    raw = bytearray(gzip.compress(content))
    raw[14] ^= 0x55
    raw[15] ^= 0xFF
    return bytes(raw)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"", "is empty; give a file with a document per line"),
        ("a.txt", b"\n  \n", "is empty"),
        ("a.txt", b"\xff\xfe\x00", "is not UTF-8 text: 'utf-8' codec can't decode byte 0xff"),
        ("a.gz", b"plain text", "is not UTF-8 text: Not a gzipped file"),
        ("a.gz", gzip.compress(b"the fox " * 99)[:20], "is not UTF-8 text: Compressed file ended"),
        ("a.gz", _damaged(b"the fox " * 99), "is not UTF-8 text: Error -3"),
    ],
)
def test_what_is_no_text(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=reason):
        read_texts(tmp_path / name)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no text at .*nowhere.*a document per line"):
        read_texts(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"has no manifest\.json; give a text file or a dataset"):
        read_texts(tmp_path)

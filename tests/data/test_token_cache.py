"""A corpus as rows of ids on disk: which documents go where, made once, complete or absent."""

import multiprocessing
import os
import shutil
import signal
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import data.packed_file
import data.texts
import data.token_cache
from data.errors import DataError
from data.packed_file import PackedFile
from data.packing import NO_DOCUMENT
from data.texts import Corpus, open_corpus
from data.token_cache import delete_packed, packed_corpus
from data.tokenizer import Tokenizer
from tests.reward.tiny import tiny_tokenizer

TEXTS = [f"the quick brown fox jumps over the lazy dog {n % 3}" for n in range(20)]


@pytest.fixture
def corpus_file(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(TEXTS))
    return path


def cached(
    path: Path,
    *,
    documents: Any = "lines",
    share: float = 0.1,
    length: int = 64,
    context: int = 64,
) -> tuple[PackedFile, PackedFile]:
    return packed_corpus(
        open_corpus(path, documents=documents),
        tiny_tokenizer(),
        path.with_name("tokens"),
        row_length=length,
        context=context,
        validation_share=share,
    )


def documents_of(rows: PackedFile) -> list[list[int]]:
    """The ids of every piece, in the order of the rows."""
    packed = rows.select(np.arange(len(rows)))
    found = []
    for tokens, documents in zip(packed.tokens, packed.documents, strict=True):
        numbers = [n for n in np.unique(documents) if n != NO_DOCUMENT]
        found += [tokens[documents == number].tolist() for number in numbers]
    return found


def test_every_so_many_lines_are_held_out(corpus_file: Path) -> None:
    tokenizer = tiny_tokenizer()
    whole = [[tokenizer.bos_id, *tokenizer.encode(t), tokenizer.eos_id] for t in TEXTS]
    train, validation = cached(corpus_file)
    assert sorted(documents_of(validation)) == sorted([whole[0], whole[10]])  # every tenth
    assert sorted(documents_of(train)) == sorted(whole[1:10] + whole[11:])


@pytest.mark.parametrize(("share", "held_out"), [(0.1, 2), (0.3, 6), (0.4, 8), (0.5, 10)])
def test_as_many_lines_are_held_out_as_asked_for(
    corpus_file: Path, share: float, held_out: int
) -> None:
    """Of 20."""
    train, validation = cached(corpus_file, share=share)
    assert len(documents_of(validation)) == held_out
    assert len(documents_of(train)) == 20 - held_out


def test_nothing_is_held_out(corpus_file: Path) -> None:
    train, validation = cached(corpus_file, share=0.0)
    assert (len(documents_of(train)), len(validation)) == (20, 0)


def test_of_whole_files_the_end_is_held_out(
    corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tiny_tokenizer()
    ids = [tokenizer.bos_id, *tokenizer.encode("\n".join(TEXTS)), tokenizer.eos_id]
    train, validation = cached(corpus_file, documents="files", share=0.25, length=16)
    rows = -(-len(ids) // 16)
    assert len(validation) == round(rows / 4) and len(train) == rows - len(validation)
    stream = [i for piece in documents_of(train) + documents_of(validation) for i in piece]
    assert stream == ids


def test_of_many_files_the_last_are_held_out(tmp_path: Path) -> None:
    """Whatever their lengths: here the last are the longest, which are packed first."""
    directory = tmp_path / "corpus"
    directory.mkdir()
    for number in range(20):
        (directory / f"{number:02}.txt").write_text("fox " * (number + 1))
    train, validation = cached(directory, documents="files", share=0.2, length=32)
    longest = max(documents_of(train) + documents_of(validation), key=len)
    assert longest in documents_of(validation)
    sizes = [[len(piece) for piece in documents_of(part)] for part in (train, validation)]
    assert min(sizes[0]) < min(sizes[1])  # the first file is trained on


def test_it_is_made_once(corpus_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cached(corpus_file)
    monkeypatch.setattr(data.token_cache, "_encoded", None)  # would be called
    again = cached(corpus_file)
    assert [documents_of(part) for part in again] == [documents_of(part) for part in first]


@pytest.mark.parametrize(("length", "context", "longest"), [(64, 5, 5), (5, 8, 5)])
def test_no_piece_is_longer_than_a_row_or_the_context(
    corpus_file: Path, length: int, context: int, longest: int
) -> None:
    tokenizer = tiny_tokenizer()
    train, _ = cached(corpus_file, share=0.0, length=length, context=context)
    expected = []
    for text in TEXTS:
        ids = [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]
        assert len(ids) > context
        expected += [ids[start : start + longest] for start in range(0, len(ids), longest)]
    assert sorted(documents_of(train)) == sorted(expected)
    assert train.select(np.arange(1)).tokens.shape == (1, length)


def test_another_corpus_is_told(corpus_file: Path) -> None:
    cached(corpus_file)
    corpus_file.write_text("something else")
    with pytest.raises(DataError, match=r"the corpus is no longer the one that .*tokens' was made"):
        cached(corpus_file)


def test_memory_does_not_grow_with_the_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data.packed_file, "WINDOW_TOKENS", 20_000)
    monkeypatch.setattr(data.texts, "BLOCK_BYTES", 20_000)
    peaks = []
    for number, size in enumerate((1, 8)):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "corpus.txt").write_text("\n".join(TEXTS * 200 * size))  # 0.19 MB each
        tracemalloc.start()
        train, _ = cached(directory / "corpus.txt", share=0.5)
        train.select(np.arange(4))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_bad_texts_leave_nothing(corpus_file: Path) -> None:
    corpus_file.write_bytes(b"good\n\xff\n")
    with pytest.raises(DataError, match="line 2"):
        cached(corpus_file)
    assert sorted(p.name for p in corpus_file.parent.iterdir()) == ["corpus.txt"]


def _killed_while_reading(path: Path) -> None:
    def encoded(corpus: Corpus, tokenizer: Tokenizer) -> Iterator[list[int]]:
        yield [1, 2, 3]
        os.kill(os.getpid(), signal.SIGKILL)

    data.token_cache._encoded = encoded
    cached(path)


def test_killed_while_reading_it_begins_anew(corpus_file: Path) -> None:
    process = multiprocessing.get_context("fork").Process(
        target=_killed_while_reading, args=(corpus_file,)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not corpus_file.with_name("tokens").exists()
    assert len(documents_of(cached(corpus_file)[0])) == 18
    assert sorted(p.name for p in corpus_file.parent.iterdir()) == ["corpus.txt", "tokens"]


def _killed_while_deleting(path: Path) -> None:
    rmtree = shutil.rmtree

    def half(directory: Path, **settings: Any) -> None:
        if directory.exists():
            rmtree(directory / "train")
            (directory / data.token_cache.KEY_FILE).unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    shutil.rmtree = half  # type: ignore[assignment]
    delete_packed(path)


def test_killed_while_deleting_it_begins_anew(corpus_file: Path) -> None:
    cached(corpus_file)
    tokens = corpus_file.with_name("tokens")
    process = multiprocessing.get_context("fork").Process(
        target=_killed_while_deleting, args=(tokens,)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not tokens.exists()
    assert len(documents_of(cached(corpus_file)[0])) == 18
    delete_packed(tokens)
    assert sorted(p.name for p in corpus_file.parent.iterdir()) == ["corpus.txt"]


def test_without_its_key_file_it_counts_as_absent(corpus_file: Path) -> None:
    """As runs of earlier versions left it, killed while they deleted it."""
    cached(corpus_file)
    tokens = corpus_file.with_name("tokens")
    (tokens / data.token_cache.KEY_FILE).unlink()
    (tokens / "train" / "tokens.bin").unlink()
    assert len(documents_of(cached(corpus_file)[0])) == 18
    assert sorted(p.name for p in corpus_file.parent.iterdir()) == ["corpus.txt", "tokens"]

"""Packed rows on disk are the packed rows of memory."""

import pickle
import random
from pathlib import Path

import numpy as np
import pytest

import data.packed_file
from data.packed_file import PackedFile, PackedWriter
from data.packing import PackedRows, pack

PAD = 3


def draw(count: int, longest: int, *, vocab_size: int = 500) -> list[list[int]]:
    rng = random.Random(0)
    return [
        [rng.randrange(vocab_size) for _ in range(rng.randint(1, longest))] for _ in range(count)
    ]


def write(
    directory: Path, documents: list[list[int]], *, length: int = 16, vocab_size: int = 500
) -> PackedFile:
    writer = PackedWriter(directory, length=length, pad_id=PAD, vocab_size=vocab_size)
    for document in documents:
        writer.add(document)
    return writer.close()


def assert_same(found: PackedRows, expected: PackedRows) -> None:
    for name in ("tokens", "documents", "loss_mask"):
        here, wanted = getattr(found, name), getattr(expected, name)
        assert here.dtype == wanted.dtype
        assert np.array_equal(here, wanted), name


@pytest.mark.parametrize("vocab_size", [500, 70_000])  # two bytes an id, and four
def test_rows_on_disk_are_those_in_memory(tmp_path: Path, vocab_size: int) -> None:
    documents = draw(60, 16, vocab_size=vocab_size)
    expected = pack(documents, None, length=16, pad_id=PAD)
    found = write(tmp_path / "rows", documents, vocab_size=vocab_size)
    assert len(found) == len(expected)
    every = np.arange(len(expected))
    assert_same(found.select(every), expected)
    some = np.array([4, -1, 0, 4])  # −1 stands for an empty row
    ours, theirs = found.select(some), expected.select(some)
    theirs.tokens[1] = PAD  # in memory, what an empty row holds is the last row's, and masked
    assert_same(ours, theirs)


def test_windows_are_packed_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = draw(60, 16)
    monkeypatch.setattr(data.packed_file, "WINDOW_TOKENS", 100)
    found = write(tmp_path / "rows", documents)
    windows: list[list[list[int]]] = [[]]
    for document in documents:
        windows[-1].append(document)
        if sum(map(len, windows[-1])) >= 100:
            windows.append([])
    rows = [pack(window, None, length=16, pad_id=PAD) for window in windows]
    assert len(windows) > 3 and len(found) == sum(map(len, rows))
    expected = PackedRows(
        *(
            np.concatenate([getattr(part, name) for part in rows])
            for name in ("tokens", "documents", "loss_mask")
        )
    )
    assert_same(found.select(np.arange(len(found))), expected)


def test_long_documents_are_cut(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows", [list(range(10)), [11, 12]], length=4)
    found = rows.select(np.arange(3))
    assert found.tokens.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 11, 12]]
    assert found.documents.tolist() == [[0] * 4, [0] * 4, [0, 0, 1, 1]]
    assert found.loss_mask.tolist() == [[False, True, True, True]] * 2 + [[False, True] * 2]


def test_a_file_in_two_parts(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows", draw(60, 16))
    before, after = rows.split(7)
    assert (len(before), len(after)) == (7, len(rows) - 7)
    assert_same(before.select(np.array([6])), rows.select(np.array([6])))
    assert_same(after.select(np.array([0, -1])), rows.select(np.array([7, -1])))
    inner = after.split(2)[1]
    assert_same(inner.select(np.array([0])), rows.select(np.array([9])))


def test_it_travels_as_a_path(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows", draw(600, 16)).split(5)[1]
    expected = rows.select(np.arange(9))  # the files are open now
    sent = pickle.dumps(rows)
    assert len(sent) < 1000
    again = pickle.loads(sent)
    assert len(again) == len(rows)
    assert_same(again.select(np.arange(9)), expected)


def test_no_rows(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows", [])
    assert len(rows) == 0

"""Packing: no token lost, no document torn, rows nearly full."""

import numpy as np
import pytest

from data.errors import DataError
from data.packing import NO_DOCUMENT, PackedRows, pack, pack_and_locate

PAD = 99


def random_documents(count: int, longest: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, PAD, rng.integers(1, longest + 1)).tolist() for _ in range(count)]


def documents_of(rows: PackedRows) -> list[list[int]]:
    """Every document of the rows, read back by its number."""
    return [
        tokens[numbers == number].tolist()
        for tokens, numbers in zip(rows.tokens, rows.documents, strict=True)
        for number in range(numbers.max() + 1)
    ]


def real_tokens(rows: PackedRows) -> int:
    """Tokens but for the padding."""
    return int((rows.documents != NO_DOCUMENT).sum())


def test_four_documents_by_hand() -> None:
    # Rows of 7. Longest first: 5 → row 0 (2 left); 4 → row 1 (3 left); 3 → row 1, where it fits
    # exactly; 2 → row 0, where it fits exactly.
    documents = [[1] * 5, [2] * 3, [3] * 4, [4] * 2]
    rows, last = pack_and_locate(documents, None, length=7, pad_id=PAD)
    assert rows.tokens.tolist() == [[1, 1, 1, 1, 1, 4, 4], [3, 3, 3, 3, 2, 2, 2]]
    assert rows.documents.tolist() == [[0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1, 1]]
    # the first token of a document is predicted by nothing
    learned = [[0, 1, 1, 1, 1, 0, 1], [0, 1, 1, 1, 0, 1, 1]]
    assert rows.loss_mask.tolist() == np.array(learned, bool).tolist()
    assert last.tolist() == [[0, 4], [1, 6], [1, 3], [0, 6]]


def test_the_fullest_row_with_room_is_taken() -> None:
    # Rows of 10: 7 (3 left), 6 (4 left), then 3: it fits both and goes where 3 are left.
    rows = pack([[1] * 6, [2] * 7, [3] * 3], None, length=10, pad_id=PAD)
    assert rows.tokens[0].tolist() == [2] * 7 + [3] * 3
    assert rows.tokens[1].tolist() == [1] * 6 + [PAD] * 4
    assert rows.documents[1].tolist() == [0] * 6 + [NO_DOCUMENT] * 4
    assert rows.loss_mask[1].tolist() == [False] + [True] * 5 + [False] * 4


@pytest.mark.parametrize(("count", "length", "longest"), [(1, 5, 5), (200, 64, 64), (300, 50, 9)])
def test_no_token_is_lost(count: int, length: int, longest: int) -> None:
    documents = random_documents(count, longest)
    masks = [[i % 3 == 0 for i in range(len(d))] for d in documents]
    rows, last = pack_and_locate(documents, masks, length=length, pad_id=PAD)
    assert sorted(documents_of(rows)) == sorted(documents)
    assert real_tokens(rows) == sum(map(len, documents))
    assert (rows.tokens[rows.documents == NO_DOCUMENT] == PAD).all()
    # every third token but the first of each document
    assert rows.loss_mask.sum() == sum(sum(mask[1:]) for mask in masks)
    for document, mask, (row, column) in zip(documents, masks, last, strict=True):
        span = slice(column + 1 - len(document), column + 1)
        assert rows.tokens[row, span].tolist() == document
        assert rows.loss_mask[row, span].tolist() == [False, *mask[1:]]
        assert len(set(rows.documents[row, span])) == 1


def test_rows_are_nearly_full() -> None:
    # Best-fit decreasing needs at most 11/9 of the fewest rows, plus one (Johnson et al. 1974);
    # the fewest rows are at least all tokens over the row length.
    documents = random_documents(500, 40)
    rows = pack(documents, None, length=64, pad_id=PAD)
    fewest = -(-sum(map(len, documents)) // 64)
    assert fewest <= len(rows) <= 11 / 9 * fewest + 1
    assert real_tokens(rows) / rows.tokens.size > 0.97


def test_packing_is_deterministic() -> None:
    documents = random_documents(50, 20)
    first, second = (pack(documents, None, length=32, pad_id=PAD) for _ in range(2))
    assert np.array_equal(first.tokens, second.tokens)


def test_a_document_as_long_as_a_row_and_one_longer() -> None:
    assert pack([[5] * 8], None, length=8, pad_id=PAD).tokens.tolist() == [[5] * 8]
    with pytest.raises(DataError, match="a document has 9 tokens and a row holds 8; raise the row"):
        pack([[5] * 3, [5] * 9], None, length=8, pad_id=PAD)


def test_nothing_to_pack() -> None:
    rows = pack([], None, length=8, pad_id=PAD)
    assert rows.tokens.shape == rows.documents.shape == rows.loss_mask.shape == (0, 8)


def test_selected_rows_and_the_empty_row() -> None:
    rows = pack([[1] * 4, [2] * 3, [3] * 2], None, length=4, pad_id=PAD)
    chosen = rows.select(np.array([2, -1, 0]))
    assert len(chosen) == 3
    assert chosen.tokens[0].tolist() == rows.tokens[2].tolist()
    assert chosen.documents[1].tolist() == [NO_DOCUMENT] * 4
    assert not chosen.loss_mask[1].any()
    assert real_tokens(chosen) == 4 + 2
    assert real_tokens(rows) == 9  # the rows themselves are untouched

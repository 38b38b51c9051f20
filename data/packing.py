"""Documents of different lengths packed into full rows, without one seeing another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError

NO_DOCUMENT = -1


class Rows(Protocol):
    """Packed rows, wherever they are kept."""

    def __len__(self) -> int:
        """How many."""
        ...

    def select(self, rows: NDArray[np.int64]) -> "PackedRows":
        """Some of the rows; row number −1 stands for an empty one."""
        ...


@dataclass(frozen=True)
class PackedRows:
    """Rows of equal length. Shapes: R rows, T tokens."""

    tokens: NDArray[np.int32]
    """[R, T] ids, padded at the end."""
    documents: NDArray[np.int32]
    """[R, T] number of the document within the row, −1 for padding."""
    loss_mask: NDArray[np.bool_]
    """[R, T] tokens to be learned; never the first of a document, which nothing predicts."""

    def __len__(self) -> int:
        return len(self.tokens)

    def select(self, rows: NDArray[np.int64]) -> "PackedRows":
        """Some of the rows; row number −1 stands for an empty one."""
        chosen = PackedRows(
            self.tokens[rows], self.documents[rows].copy(), self.loss_mask[rows].copy()
        )
        chosen.documents[rows < 0] = NO_DOCUMENT
        chosen.loss_mask[rows < 0] = False
        return chosen


def pack(
    documents: Sequence[Sequence[int]],
    loss_masks: Sequence[Sequence[bool]] | None,
    *,
    length: int,
    pad_id: int,
) -> PackedRows:
    """Best-fit packing, longest documents first: each goes into the fullest row with room for it.

    Args:
        documents: token ids of each document.
        loss_masks: tokens to be learned; None for all of them.
        length: tokens per row.
        pad_id: fills the ends of rows.

    Raises:
        DataError: a document is longer than a row.
    """
    return pack_and_locate(documents, loss_masks, length=length, pad_id=pad_id)[0]


def pack_and_locate(
    documents: Sequence[Sequence[int]],
    loss_masks: Sequence[Sequence[bool]] | None,
    *,
    length: int,
    pad_id: int,
) -> tuple[PackedRows, NDArray[np.int64]]:
    """As `pack`, and for each document the row and column [D, 2] of its last token."""
    lengths = [len(document) for document in documents]
    if lengths and max(lengths) > length:
        raise DataError(
            f"a document has {max(lengths)} tokens and a row holds {length}; "
            "raise the row length or shorten the document"
        )
    rows = best_fit(lengths, length)
    tokens = np.full((len(rows), length), pad_id, dtype=np.int32)
    numbers = np.full((len(rows), length), NO_DOCUMENT, dtype=np.int32)
    mask = np.zeros((len(rows), length), dtype=np.bool_)
    last = np.zeros((len(lengths), 2), dtype=np.int64)
    for row, members in enumerate(rows):
        start = 0
        for number, index in enumerate(members):
            end = start + lengths[index]
            tokens[row, start:end] = documents[index]
            numbers[row, start:end] = number
            mask[row, start:end] = True if loss_masks is None else loss_masks[index]
            mask[row, start] = False
            last[index] = row, end - 1
            start = end
    return PackedRows(tokens, numbers, mask), last


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of the documents of each row.

    Rows are kept by free space, and the bits of a number say which free spaces occur: the smallest
    that suffices is found at once, however many there are.
    """
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    occurring = 0
    rows: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        need = lengths[index]
        sufficient = occurring >> need
        if sufficient:
            room = need + (sufficient & -sufficient).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                occurring ^= 1 << room
        else:
            rows.append([])
            row, room = len(rows) - 1, capacity
        rows[row].append(index)
        by_room[room - need].append(row)
        occurring |= 1 << (room - need)
    return rows

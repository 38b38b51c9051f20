"""Packed rows on disk, for corpora that do not fit into memory.

    tokens.bin   the ids of all rows one after the other, without padding
    starts.bin   where each piece begins in it, and where the last one ends
    rows.bin     which piece is the first of each row, and how many there are
    rows.json    how to read them; written last

A piece is a document, or a part of one that is longer than a row.
"""

import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.durable import write_durably
from data.packing import NO_DOCUMENT, PackedRows, best_fit

WINDOW_TOKENS = 1 << 22
"""Tokens that are packed at a time: the paper's batch, and about 30 MB while they wait."""
INDEX_FILE = "rows.json"


class _Mapped(NamedTuple):
    """The files as arrays, of which only what is read comes into memory."""

    tokens: NDArray[Any]
    starts: NDArray[np.int64]
    rows: NDArray[np.int64]


class PackedFile:
    """`Rows` on disk. Travels to other processes as a path."""

    def __init__(self, directory: Path, first: int = 0, last: int | None = None) -> None:
        """The rows first ≤ row < last of a directory that `PackedWriter` made; None is the end."""
        self._directory, self._first = directory, first
        self._index = json.loads((directory / INDEX_FILE).read_text(encoding="utf-8"))
        self._last = self._index["rows"] if last is None else last

    def __reduce__(self) -> tuple[type["PackedFile"], tuple[Path, int, int]]:
        return PackedFile, (self._directory, self._first, self._last)

    def __len__(self) -> int:
        return self._last - self._first

    def split(self, at: int) -> tuple["PackedFile", "PackedFile"]:
        """The rows before `at`, and the others."""
        middle = self._first + at
        return (
            PackedFile(self._directory, self._first, middle),
            PackedFile(self._directory, middle, self._last),
        )

    def select(self, rows: NDArray[np.int64]) -> PackedRows:
        """See `Rows`."""
        shape = len(rows), self._index["length"]
        tokens = np.full(shape, self._index["pad_id"], dtype=np.int32)
        documents = np.full(shape, NO_DOCUMENT, dtype=np.int32)
        mask = np.zeros(shape, dtype=np.bool_)
        for place, row in enumerate(rows):
            if row >= 0:
                pieces = slice(*self._mapped.rows[self._first + row : self._first + row + 2])
                starts = self._mapped.starts[pieces.start : pieces.stop + 1]
                used = int(starts[-1] - starts[0])
                tokens[place, :used] = self._mapped.tokens[starts[0] : starts[-1]]
                documents[place, :used] = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
                mask[place, :used] = True
                mask[place, starts[:-1] - starts[0]] = False  # nothing predicts the first
        return PackedRows(tokens, documents, mask)

    @cached_property
    def _mapped(self) -> _Mapped:
        return _Mapped(
            np.memmap(self._directory / "tokens.bin", self._index["dtype"], mode="r"),
            np.memmap(self._directory / "starts.bin", np.int64, mode="r"),
            np.memmap(self._directory / "rows.bin", np.int64, mode="r"),
        )


class PackedWriter:
    """Packs pieces as they come, a window of them at a time; every token is learned.

    The same pieces in the same order make the same rows.
    """

    def __init__(
        self,
        directory: Path,
        *,
        length: int,
        pad_id: int,
        vocab_size: int,
        in_order: bool = False,
    ) -> None:
        """Begins the files of a directory.

        Args:
            directory: is made.
            length: tokens per row.
            pad_id: fills the ends of rows when they are read.
            vocab_size: decides how many bytes an id takes.
            in_order: whether rows stand where the last of their pieces does; else those of long
                pieces come first in a window.
        """
        directory.mkdir(parents=True)
        self._directory, self._length, self._pad_id = directory, length, pad_id
        self._in_order = in_order
        self._dtype = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)
        self._num_tokens = self._num_pieces = self._num_rows = 0
        self._waiting: list[NDArray[Any]] = []
        self._num_waiting = 0
        self._append("tokens", np.empty(0, self._dtype))
        self._append("starts", np.zeros(1, np.int64))
        self._append("rows", np.zeros(1, np.int64))

    def add(self, ids: Sequence[int]) -> None:
        """A document; it is cut where it is longer than a row."""
        document = np.array(ids, dtype=self._dtype)
        for start in range(0, len(document), self._length):
            self._waiting.append(document[start : start + self._length])
        self._num_waiting += len(document)
        if self._num_waiting >= WINDOW_TOKENS:
            self._pack()

    def close(self) -> PackedFile:
        """Writes what is left and opens it all for reading."""
        self._pack()
        index = {
            "length": self._length,
            "pad_id": self._pad_id,
            "dtype": self._dtype.name,
            "rows": self._num_rows,
            "tokens": self._num_tokens,
        }
        write_durably(self._directory / INDEX_FILE, json.dumps(index).encode())
        return PackedFile(self._directory)

    def _pack(self) -> None:
        """The pieces that wait, as rows."""
        rows = best_fit([len(piece) for piece in self._waiting], self._length)
        if self._in_order:
            rows.sort(key=max)
        pieces = [self._waiting[index] for row in rows for index in row]
        if not pieces:
            return
        self._append("tokens", np.concatenate(pieces))
        self._append("starts", self._num_tokens + np.cumsum([len(piece) for piece in pieces]))
        self._append("rows", self._num_pieces + np.cumsum([len(row) for row in rows]))
        self._num_tokens += self._num_waiting
        self._num_pieces += len(pieces)
        self._num_rows += len(rows)
        self._waiting, self._num_waiting = [], 0

    def _append(self, name: str, values: NDArray[Any]) -> None:
        """More of a file, down to the disk."""
        with (self._directory / f"{name}.bin").open("ab") as file:
            file.write(values.tobytes())
            file.flush()
            os.fsync(file.fileno())

"""Whether a dataset is what its manifest says, and fit to train on."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from data.dataset import open_file, sha256_of
from data.errors import DataError
from data.manifest import DataFile, open_manifest
from data.schemas import (
    Comparison,
    Demonstration,
    Judgement,
    Message,
    Prompt,
    Row,
    Split,
    Vote,
    from_record,
)

FindingKind = Literal[
    "missing file",
    "checksum",
    "schema",
    "row count",
    "value",
    "empty message",
    "duplicate id",
    "prompt in two splits",
]
_BATCH_ROWS = 10_000


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something wrong with a dataset."""

    kind: FindingKind
    where: str
    """The file, and the row where there is one, counted from 0."""
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.detail}"


@dataclass(frozen=True)
class _Seen:
    """What earlier rows held; digests, because millions of dialogues would not fit in memory."""

    ids: set[str] = field(default_factory=set)
    splits: dict[bytes, Split] = field(default_factory=dict)
    """Digest of a prompt → the split where it came first."""


def find_faults(directory: Path) -> Iterator[Finding]:
    """Every fault of a dataset, file by file in manifest order.

    Checked are presence, checksum, schema and row count of each file, and for each row its values,
    empty messages, an id (with revision) that came before, and a prompt known from another split.

    Raises:
        DataError: there is no manifest to start from.
    """
    manifest = open_manifest(directory)
    seen = _Seen()
    for file in manifest.files:
        yield from _file_faults(directory, file, manifest.row_type, seen)


def _file_faults(
    directory: Path, file: DataFile, row_type: type[Any], seen: _Seen
) -> Iterator[Finding]:
    path = directory / file.path
    if not path.is_file():
        yield Finding(kind="missing file", where=file.path, detail="listed but not there")
        return
    if sha256_of(path) != file.sha256:
        detail = f"its bytes are not those that were published ({path.stat().st_size:,} of them, "
        detail += f"{file.bytes:,} expected); restore it from a copy, or import the data again"
        yield Finding(kind="checksum", where=file.path, detail=detail)
    try:
        with open_file(directory, file, row_type) as opened:
            rows = opened.metadata.num_rows
            if rows != file.rows:
                detail = f"{rows:,} rows, {file.rows:,} listed"
                yield Finding(kind="row count", where=file.path, detail=detail)
            start = 0
            for batch in opened.iter_batches(batch_size=_BATCH_ROWS):
                yield from _row_faults(batch.to_pylist(), file, start, row_type, seen)
                start += len(batch)
    except (
        DataError,
        OSError,
        pa.ArrowException,
    ) as error:  # the rest of a damaged file cannot be looked at
        yield Finding(kind="schema", where=file.path, detail=str(error))


def _row_faults(
    records: Sequence[dict[str, Any]],
    file: DataFile,
    start: int,
    row_type: type[Any],
    seen: _Seen,
) -> Iterator[Finding]:
    for number, record in enumerate(records, start):
        where = f"{file.path} row {number}"
        try:
            row: Row = from_record(record, row_type)
        except DataError as error:
            yield Finding(kind="value", where=where, detail=str(error))
            continue
        for name in _empty_columns(row):
            yield Finding(kind="empty message", where=where, detail=f"{name} has no text")
        identity = _identity(row)
        if identity in seen.ids:
            yield Finding(kind="duplicate id", where=where, detail=identity)
        seen.ids.add(identity)
        prompt = row.messages[:-1] if isinstance(row, Demonstration) else row.prompt
        first = seen.splits.setdefault(_digest(prompt), file.split) if prompt else file.split
        if first != file.split:
            detail = f"this prompt of {file.split} is in {first} too"
            yield Finding(kind="prompt in two splits", where=where, detail=detail)


def _empty_columns(row: Row) -> Iterator[str]:
    """Columns of messages without any message, or with one of white space only."""
    for column in fields(row):
        value = getattr(row, column.name)
        if isinstance(value, tuple) and not (value and all(m.content.strip() for m in value)):
            yield column.name


def _identity(row: Row) -> str:
    if isinstance(row, Comparison):
        return f"{row.comparison_id} revision {row.revision}"
    if isinstance(row, Demonstration):
        return row.demonstration_id
    if isinstance(row, Vote):
        return row.vote_id
    if isinstance(row, Judgement):
        return row.judgement_id
    return row.prompt_id if isinstance(row, Prompt) else row.rating_id


def _digest(messages: Sequence[Message]) -> bytes:
    text = json.dumps([[message.role, message.content] for message in messages])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()

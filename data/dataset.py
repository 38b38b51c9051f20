"""A dataset: a directory of Parquet files and the `manifest.json` that lists them.

Readers follow the manifest, never a folder glob, and ask for the explicit schema of a row type. A
publisher writes

    rows → temporary file → fsync → reopen and verify → rename → fsync of the folder → manifest

and the manifest itself is replaced by a rename, so a crash at any point loses and doubles nothing:
whatever the manifest does not list is ignored, and the next publish of the same key replaces it.
"""

import errno
import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.durable import only_writer, put_in_place, temporary_of, write_temporary
from data.errors import ConfigError, DataError
from data.manifest import (
    MANIFEST,
    DataFile,
    Manifest,
    Part,
    check_row_type,
    open_manifest,
    open_or_begin,
    replace_files,
)
from data.schemas import SPLITS, R, Row, Split, arrow_schema, check_row, from_table, to_table

__all__ = [
    "Batch",
    "compact",
    "file_name",
    "latest_revisions",
    "open_file",
    "open_manifest",
    "publish",
    "publish_many",
    "read_rows",
    "read_table",
    "sha256_of",
    "split_of",
]

ROWS_PER_FILE = 100_000
"""What `compact` merges towards: 1.5 million rows are then 15 files to open, not thousands."""

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class Batch(Generic[R]):
    """Rows to publish under one key; within a dataset (split, key) names them forever."""

    split: Split
    key: str
    rows: Sequence[R] = field(repr=False)


def split_of(key: str, *, validation: float, test: float, seed: int) -> Split:
    """The split of a text: always the same one, whatever else is in the dataset.

    Args:
        key: what must not be torn apart, such as a dialogue's first message.
        validation: share of the keys, 0 to 1.
        test: share of the keys, 0 to 1.
        seed: another seed gives another partition.

    Raises:
        ConfigError: a share below 0, or together above 1.
    """
    if min(validation, test) < 0 or validation + test > 1:
        raise ConfigError(
            f"validation is {validation} and test is {test}; shares are 0 or more and together "
            "at most 1; try 0.1 and 0.2"
        )
    digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
    position = int.from_bytes(digest, "big") / 2**64  # uniform in [0, 1)
    if position < test:
        return "test"
    return "validation" if position < test + validation else "train"


def read_rows(directory: Path, row_type: type[R], split: Split | None = None) -> list[R]:
    """Rows in manifest order, of one split or of all; every value is checked.

    Raises:
        DataError: as `read_table`, or a value that the row type does not allow.
    """
    return from_table(read_table(directory, row_type, split=split), row_type)


def read_table(
    directory: Path,
    row_type: type[Row],
    *,
    split: Split | None = None,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Rows in manifest order as an Arrow table.

    Checksums are not verified here: that is what `rlhf data validate` is for.

    Args:
        directory: the dataset.
        row_type: what its rows must be.
        split: None for every split.
        columns: which ones to read, in this order; None for all.

    Raises:
        DataError: no dataset, one of other rows, or a listed file that is missing, damaged or of
            another schema.
    """
    manifest = open_manifest(directory)
    check_row_type(directory, manifest, row_type)
    schema = arrow_schema(row_type)
    if columns is not None:
        schema = pa.schema([schema.field(name) for name in columns])
    while True:
        files = [file for file in manifest.files if split in (None, file.split)]
        try:
            tables = [_read_file(directory, file, row_type, schema.names) for file in files]
            return pa.concat_tables([schema.empty_table(), *tables])
        except FileNotFoundError as error:
            # `compact` removes the files that it merged; a newer manifest then lists the new one.
            newer = open_manifest(directory)
            if newer == manifest:
                raise DataError(
                    f"{error.filename!r} is listed in {MANIFEST} but missing; restore it from a "
                    "copy, or import the data again"
                ) from error
            manifest = newer


def open_file(directory: Path, file: DataFile, row_type: type[Row]) -> pq.ParquetFile:
    """A listed file with the schema of its row type; the caller closes it.

    Raises:
        FileNotFoundError: it is not there.
        DataError: it is no Parquet file, or has another schema.
    """
    path = directory / file.path
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "a listed file is missing", str(path))
    with _damage_named(path):
        opened = pq.ParquetFile(path)
    _check_schema(path, opened.schema_arrow, arrow_schema(row_type))
    return opened


def latest_revisions(table: pa.Table) -> pa.Table:
    """Comparisons without the revisions that a later one replaced; their order is kept.

    Args:
        table: with the columns comparison_id and revision.
    """
    if not pc.any(pc.greater(table["revision"], 0)).as_py():
        return table
    highest = table.group_by("comparison_id").aggregate([("revision", "max")])
    place = pc.index_in(table["comparison_id"], highest["comparison_id"])
    return table.filter(pc.equal(table["revision"], highest["revision_max"].take(place)))


def publish(
    directory: Path, rows: Sequence[R], row_type: type[R], *, split: Split, key: str
) -> Manifest:
    """Adds rows to a dataset and returns its manifest; the first rows make the dataset.

    Publishing the same rows under the same key again changes nothing.

    Raises:
        DataError: the key holds other rows, the dataset holds another row type, a value is not
            allowed, or another publisher does not finish.
    """
    return publish_many(directory, [Batch(split=split, key=key, rows=rows)], row_type)


def publish_many(directory: Path, batches: Sequence[Batch[R]], row_type: type[R]) -> Manifest:
    """Adds several batches in one update of the manifest: readers see all of them or none.

    Raises:
        DataError: as `publish`; then none of them is published.
    """
    _check_batches(batches)
    directory.mkdir(parents=True, exist_ok=True)
    with _only_publisher(directory):
        manifest: Manifest = open_or_begin(directory, row_type)
        fresh = [b for b in batches if not _is_published(directory, manifest, b, row_type)]
        if not fresh and (directory / MANIFEST).exists():
            return manifest
        added: list[DataFile] = []
        for batch in fresh:
            parts = (Part(key=batch.key, rows=len(batch.rows)),)
            table = to_table(batch.rows, row_type)
            added.append(_write_file(directory, table, batch.split, batch.key, parts))
        return replace_files(directory, manifest, (*manifest.files, *added))


def compact(directory: Path) -> Manifest:
    """Merges neighbouring small files of a split into files of about 100,000 rows.

    The rows of a split keep their order, and every published key stays known.

    Raises:
        DataError: no dataset, or a file of it is missing or damaged.
    """
    open_manifest(directory)  # before a lock file appears in a directory that is no dataset
    with _only_publisher(directory):
        manifest = open_manifest(directory)
        groups = _groups_to_merge(manifest.files)
        if not groups:
            return manifest
        merged = {group[0].path: _merge(directory, group, manifest.row_type) for group in groups}
        gone = {file.path for group in groups for file in group}
        files = [
            merged.get(file.path, file)
            for file in manifest.files
            if file.path in merged or file.path not in gone
        ]
        manifest = replace_files(directory, manifest, tuple(files))
        for path in gone:
            (directory / path).unlink(missing_ok=True)
        return manifest


def file_name(split: Split, key: str) -> str:
    """The file that holds a published key until `compact` merges it with others."""
    return f"{split}-{key}.parquet"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_file(
    directory: Path, file: DataFile, row_type: type[Row], columns: Sequence[str]
) -> pa.Table:
    with open_file(directory, file, row_type) as opened, _damage_named(directory / file.path):
        table = opened.read(columns=list(columns)).select(columns)
    # Parquet knows no empty metadata and renames list items: the schema is ours again.
    schema = arrow_schema(row_type)
    return table.cast(pa.schema([schema.field(name) for name in columns]))


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """What pyarrow says about broken bytes, as a DataError with the file and the remedy."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's own: permissions, a file that is gone
        raise DataError(
            f"{str(path)!r} is damaged or no Parquet file ({error}); restore it from a copy, or "
            "import the data again"
        ) from error


def _check_schema(path: Path, found: pa.Schema, expected: pa.Schema) -> None:
    for name in dict.fromkeys((*expected.names, *found.names)):
        here = found.field(name).type if name in found.names else "missing"
        wanted = expected.field(name).type if name in expected.names else "no column of these rows"
        if here != wanted:
            raise DataError(
                f"{str(path)!r} has another schema: column {name!r} is {here}, but should be "
                f"{wanted}; import the data again"
            )


@contextmanager
def _only_publisher(directory: Path) -> Iterator[None]:
    with only_writer(directory):
        for stray in directory.glob(temporary_of(directory / "*.parquet").name):
            stray.unlink()  # of a publisher that was killed
        yield


def _check_batches(batches: Sequence[Batch[R]]) -> None:
    seen = set()
    for batch in batches:
        if not _KEY.fullmatch(batch.key):
            raise DataError(
                f"key {batch.key!r} cannot name a file; use up to 100 letters, digits, '.', '_' "
                "and '-', beginning with a letter or digit"
            )
        if (batch.split, batch.key) in seen:
            raise DataError(f"key {batch.key!r} comes twice for {batch.split}; publish it once")
        seen.add((batch.split, batch.key))
        for row in batch.rows:
            check_row(row)


def _is_published(directory: Path, manifest: Manifest, batch: Batch[R], row_type: type[R]) -> bool:
    """Whether the dataset holds this batch; other rows under its key are a DataError."""
    for file in manifest.files:
        start = 0
        for part in file.parts:
            if (file.split, part.key) == (batch.split, batch.key):
                names = arrow_schema(row_type).names
                held = _read_file(directory, file, row_type, names).slice(start, part.rows)
                if held.equals(to_table(batch.rows, row_type)):
                    return True
                raise DataError(
                    f"{batch.split} of {str(directory)!r} already holds other rows under the key "
                    f"{batch.key!r}; publish these under another key or into another directory"
                )
            start += part.rows
    return False


def _groups_to_merge(files: Sequence[DataFile]) -> list[list[DataFile]]:
    """Runs of two or more neighbours of a split with at most ROWS_PER_FILE rows together."""
    groups: list[list[DataFile]] = []
    for split in SPLITS:
        room = -1  # none yet: the first file of a split opens a group
        for file in files:
            if file.split == split:
                if file.rows > room:
                    groups.append([])
                    room = ROWS_PER_FILE
                groups[-1].append(file)
                room -= file.rows
    return [group for group in groups if len(group) > 1]


def _merge(directory: Path, group: Sequence[DataFile], row_type: type[Row]) -> DataFile:
    names = arrow_schema(row_type).names
    table = pa.concat_tables([_read_file(directory, file, row_type, names) for file in group])
    parts = tuple(part for file in group for part in file.parts)
    keys = "\n".join(part.key for part in parts)
    key = "merged-" + hashlib.blake2b(keys.encode(), digest_size=8).hexdigest()
    return _write_file(directory, table, group[0].split, key, parts)


def _write_file(
    directory: Path, table: pa.Table, split: Split, key: str, parts: tuple[Part, ...]
) -> DataFile:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    path = directory / file_name(split, key)
    temporary = write_temporary(path, content)
    with pq.ParquetFile(temporary) as written:
        as_written = (written.metadata.num_rows, written.schema_arrow) == (len(table), table.schema)
    if not as_written or sha256_of(temporary) != digest:
        raise DataError(f"{str(temporary)!r} does not read back as written; check the disk")
    put_in_place(temporary, path)
    return DataFile(
        path=path.name,
        split=split,
        rows=len(table),
        bytes=len(content),
        sha256=digest,
        key=key,
        parts=parts,
    )

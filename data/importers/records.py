"""The records of a file, with their numbers: JSON lines, JSON arrays, CSV, Parquet, Arrow."""

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import DataError
from data.importers.imported import ImportedFile, Record, Unusable, import_records
from data.schemas import R, Vote

# A cell of a CSV file can hold a whole dialogue; 128 KiB is Python's own limit.
_LARGEST_CELL = 1 << 27


def import_files(
    paths: Sequence[Path],
    rows_of: Callable[[Any], Iterable[R | Vote | Unusable]],
    row_type: type[R],
    *,
    strict: bool,
) -> list[ImportedFile[R]]:
    """`import_records` of every file; a row that stands in two of them is a duplicate."""
    seen: set[str] = set()
    return [
        import_records(path, read_records(path), rows_of, row_type, seen=seen, strict=strict)
        for path in paths
    ]


def read_records(path: Path) -> Iterator[Record]:
    """Records in their order; the ending says the format, and .gz may follow it.

    .jsonl, .ndjson: a JSON value per line. .json: an array, or JSON lines. .csv, .tsv: a header and
    rows. .parquet, .arrow, or a directory that `datasets` saved: rows.

    Raises:
        DataError: no such file, an ending that is not known, or a damaged file.
    """
    if path.is_dir():
        yield from _directory(path)
        return
    if not path.is_file():
        raise DataError(f"{str(path)!r} is no file; check the path")
    match path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix:
        case ".jsonl" | ".ndjson":
            yield from _json_lines(path)
        case ".json":
            yield from _json(path)
        case ".csv":
            yield from _csv(path, ",")
        case ".tsv":
            yield from _csv(path, "\t")
        case ".parquet" | ".arrow":
            yield from _numbered(_tables(path))
        case ending:
            raise DataError(
                f"{str(path)!r} ends in {ending!r}; files are .jsonl, .json, .csv, .tsv (also "
                "with .gz), .parquet or .arrow"
            )


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a file, plain or .gz.

    Raises:
        DataError: a damaged .gz.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as stream:
            yield from stream
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{str(path)!r} is no complete gzip file ({error}); download it again"
        ) from error


def _json_lines(path: Path) -> Iterator[Record]:
    for number, line in enumerate(lines_of(path), start=1):
        text = line.decode("utf-8", errors="replace").rstrip("\r\n")
        if text.strip():
            yield Record(number, text, partial(json.loads, line))


def _json(path: Path) -> Iterator[Record]:
    content = b"".join(lines_of(path))
    if not content.lstrip().startswith(b"["):
        yield from _json_lines(path)
        return
    try:
        values = json.loads(content)
    except ValueError as error:
        raise DataError(
            f"{str(path)!r} is no whole JSON array ({error}); download it again"
        ) from error
    yield from _numbered(values)


def _csv(path: Path, delimiter: str) -> Iterator[Record]:
    csv.field_size_limit(min(_LARGEST_CELL, sys.maxsize))
    text = b"".join(lines_of(path)).decode("utf-8-sig", errors="replace")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header = next(reader, [])
    for cells in reader:
        shown = json.dumps(cells, ensure_ascii=False)
        if cells:
            yield Record(reader.line_num, shown, partial(_named, header, cells))


def _named(header: list[str], cells: list[str]) -> dict[str, str]:
    return dict(zip(header, cells, strict=True))  # too many or too few cells: malformed


def _directory(path: Path) -> Iterator[Record]:
    """What `datasets` saved with `save_to_disk`: one dataset, or a folder for each split."""
    whole = path / "dataset_dict.json"
    try:
        splits = json.loads(whole.read_text())["splits"] if whole.is_file() else ["."]
        names = [
            path / split / file["filename"]
            for split in splits
            for file in json.loads((path / split / "state.json").read_text())["_data_files"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{str(path)!r} is no directory that datasets' save_to_disk wrote ({error}); give "
            "files, or such a directory"
        ) from error
    yield from _numbered(row for name in names for row in _tables(name))


def _tables(path: Path) -> Iterator[dict[str, Any]]:
    try:
        if path.suffix == ".parquet":
            for batch in pq.ParquetFile(path).iter_batches():
                yield from batch.to_pylist()
        else:
            with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
                for batch in stream:
                    yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{str(path)!r} is damaged or no {path.suffix[1:]} file ({error}); download it again"
        ) from error


def _numbered(values: Any) -> Iterator[Record]:
    for number, value in enumerate(values, start=1):
        text = json.dumps(value, ensure_ascii=False, default=str)
        yield Record(number, text, partial(_itself, value))


def _itself(value: object) -> object:
    return value

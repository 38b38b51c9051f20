"""`manifest.json`: which files a dataset consists of, in reading order."""

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data.durable import write_durably
from data.errors import DataError
from data.schemas import (
    SCHEMA_VERSION,
    SPLITS,
    Comparison,
    Demonstration,
    Judgement,
    Prompt,
    Rating,
    Row,
    Split,
    Vote,
)

MANIFEST = "manifest.json"
ROW_TYPES: dict[str, type[Row]] = {
    "comparison": Comparison,
    "demonstration": Demonstration,
    "prompt": Prompt,
    "rating": Rating,
    "vote": Vote,
    "judgement": Judgement,
}


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one publish contributed to a file."""

    key: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One Parquet file of a dataset."""

    path: str
    """Relative to the dataset's directory."""
    split: Split
    rows: int
    bytes: int
    sha256: str
    key: str
    parts: tuple[Part, ...]
    """The published keys whose rows it holds, in order: more than one after `compact`, so that
    publishing one of them again still changes nothing."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The files of a dataset, in reading order."""

    schema: str
    """comparison, demonstration, prompt or rating."""
    schema_version: int = SCHEMA_VERSION
    created_at: str
    """When this manifest was written (UTC)."""
    files: tuple[DataFile, ...] = ()

    @property
    def row_type(self) -> type[Row]:
        """The type of every row."""
        return ROW_TYPES[self.schema]

    def num_rows(self, split: Split | None = None) -> int:
        """Number of rows in a split, or in all of them."""
        return sum(file.rows for file in self.files if split in (None, file.split))


def open_manifest(directory: Path) -> Manifest:
    """The manifest of a dataset.

    Raises:
        DataError: a file, no such directory, no dataset, or one written by a newer version.
    """
    if directory.is_file():
        raise DataError(
            f"{str(directory)!r} is a file, no dataset; `rlhf data import generic FILE --rows ...` "
            "makes one of it, of comparisons, demonstrations or prompts"
        )
    if not directory.is_dir():
        raise DataError(f"{str(directory)!r} is no directory; `rlhf data import` makes a dataset")
    path = directory / MANIFEST
    if not path.is_file():
        inside = sorted(str(found.parent) for found in directory.glob(f"*/{MANIFEST}"))
        remedy = f"give one of {', '.join(inside)}" if inside else "`rlhf data import` makes one"
        raise DataError(f"{str(directory)!r} has no {MANIFEST}; {remedy}")
    try:
        return _manifest_from(json.loads(path.read_bytes()), path)
    except DataError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{str(path)!r} is no manifest of ours ({type(error).__name__}: {error}); "
            "restore it from a copy, or import the data again"
        ) from error


def open_or_begin(directory: Path, row_type: type[Row]) -> Manifest:
    """The manifest of a dataset, or an empty one where there is none yet.

    Raises:
        DataError: the dataset holds another row type.
    """
    if (directory / MANIFEST).exists():
        manifest = open_manifest(directory)
        check_row_type(directory, manifest, row_type)
        return manifest
    (schema,) = (name for name, kind in ROW_TYPES.items() if kind is row_type)
    return Manifest(schema=schema, created_at="")


def check_row_type(directory: Path, manifest: Manifest, row_type: type[Row]) -> None:
    """Nothing, when the dataset holds rows of this type.

    Raises:
        DataError: it holds others.
    """
    if manifest.row_type is not row_type:
        raise DataError(
            f"{str(directory)!r} holds {manifest.schema}s; {row_type.__name__.lower()}s need a "
            "dataset of their own"
        )


def replace_files(directory: Path, manifest: Manifest, files: tuple[DataFile, ...]) -> Manifest:
    """Writes the manifest with other files, atomically, and returns it."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = replace(manifest, created_at=now, files=files)
    text = json.dumps(asdict(manifest), indent=2) + "\n"
    write_durably(directory / MANIFEST, text.encode())
    return manifest


def _manifest_from(record: dict[str, Any], path: Path) -> Manifest:
    if record["schema_version"] > SCHEMA_VERSION:
        raise DataError(
            f"{str(path)!r} has schema_version {record['schema_version']}; this version reads up "
            f"to {SCHEMA_VERSION}; update the toolkit"
        )
    if record["schema"] not in ROW_TYPES:
        raise DataError(
            f"{str(path)!r} has schema {record['schema']!r}; it must be {', '.join(ROW_TYPES)}"
        )
    return Manifest(**record | {"files": tuple(_file_from(entry) for entry in record["files"])})


def _file_from(entry: dict[str, Any]) -> DataFile:
    # A path outside the directory would let a manifest make us read, or `compact` remove, anything.
    if entry["split"] not in SPLITS or Path(entry["path"]).name != entry["path"]:
        raise ValueError(f"a file with split {entry['split']!r} and path {entry['path']!r}")
    return DataFile(**entry | {"parts": tuple(Part(**part) for part in entry["parts"])})

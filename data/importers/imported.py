"""What every importer shares: what became of the lines of a file, and one publication of it all."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic

import pyarrow as pa
import pyarrow.parquet as pq

from data.counting import TokenCounter, count_messages
from data.dataset import Batch, file_name, open_manifest, publish_many, split_of
from data.durable import LOCK, temporary_of, write_durably
from data.errors import DataError
from data.manifest import MANIFEST, Manifest
from data.schemas import (
    SPLITS,
    Comparison,
    Demonstration,
    Judgement,
    Message,
    Prompt,
    R,
    Row,
    Split,
    Vote,
    to_table,
)

DROPPED = "dropped.jsonl"
"""Beside the dataset: file, line, reason and text of everything that was left out."""
TIES = "ties.parquet"
"""Beside the dataset: `Vote` rows; a tie is no comparison, but agreement needs it."""


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A record that became no row."""

    file: str
    """Its path, as it was given."""
    line: int
    """Counted from 1; the number of the record where a file is no list of lines."""
    reason: str
    text: str
    """The record as it was."""


@dataclass(frozen=True, kw_only=True)
class ImportedFile(Generic[R]):
    """What one file held."""

    path: Path
    rows: tuple[R, ...]
    dropped: tuple[Dropped, ...]
    ties: tuple[Vote, ...] = ()
    seconds: float = 0.0
    """What reading it took, the counting of tokens included."""

    def num_dropped(self, reason: str) -> int:
        """Records dropped for one reason."""
        return sum(line.reason == reason for line in self.dropped)


class Unusable(Exception):
    """Why a record, or a part of it, is dropped; "malformed" is what `--strict` stops at."""

    def __init__(self, reason: str, text: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.text = text
        """The part that is dropped; None for the whole record."""


@dataclass(frozen=True)
class Record:
    """One line of a file, or one row of a table."""

    line: int
    text: str
    parse: Callable[[], object]
    """The values; a ValueError where the text is malformed."""


MALFORMED = (ValueError, KeyError, IndexError, TypeError, AttributeError)
"""What reading a record of another shape raises."""


def import_records(
    path: Path,
    records: Iterable[Record],
    rows_of: Callable[[object], Iterable[R | Vote | Unusable]],
    row_type: type[R],
    *,
    seen: set[str],
    strict: bool = False,
) -> ImportedFile[R]:
    """Turns each record into rows, ties and drops.

    Args:
        path: of the file, for reports.
        records: its lines.
        rows_of: rows, ties (a `Vote` among other rows) and dropped parts of one record; what it
            raises of `MALFORMED` or `Unusable` drops the record.
        row_type: of the dataset.
        seen: ids read before, in this file or another; a second one is a duplicate.
        strict: raise at the first malformed record.

    Raises:
        DataError: a malformed record under `strict`, or a file without one usable record.
    """
    began = time.perf_counter()
    rows: list[R] = []
    ties: list[Vote] = []
    dropped: list[Dropped] = []
    for record in records:
        for item in _items(record, rows_of):
            if not isinstance(item, Unusable) and identity_of(item) in seen:
                item = Unusable("duplicate")
            if isinstance(item, Unusable):
                dropped.append(_dropped(path, record, item, strict))
                continue
            seen.add(identity_of(item))
            if isinstance(item, row_type):
                rows.append(item)
            else:
                ties.append(item)  # type: ignore[arg-type]
            if row_type is Vote and item.winner == "tie":  # type: ignore[union-attr]
                ties.append(item)  # type: ignore[arg-type]
    if not (rows or ties) and all(line.reason == "malformed" for line in dropped):
        raise DataError(
            f"{str(path)!r} holds no record of this format in its {len(dropped)} lines; check "
            "that it is the right file"
        )
    return ImportedFile(
        path=path,
        rows=tuple(rows),
        dropped=tuple(dropped),
        ties=tuple(ties),
        seconds=time.perf_counter() - began,
    )


def _dropped(path: Path, record: Record, why: Unusable, strict: bool) -> Dropped:
    if strict and why.reason == "malformed":
        raise DataError(
            f"{path}:{record.line} is malformed ({record.text[:80]!r}); mend it, or leave --strict "
            "away to have such lines set aside"
        )
    text = record.text if why.text is None else why.text
    return Dropped(file=str(path), line=record.line, reason=why.reason, text=text)


def publish_files(
    out: Path,
    files: Sequence[ImportedFile[R]],
    row_type: type[R],
    *,
    name: str,
    validation: float,
    test: float,
    seed: int,
) -> Manifest:
    """Publishes the rows of all files, split by prompt, in one step; the rest goes beside them.

    The same import once more changes nothing, and repairs one that was killed.

    Args:
        out: a directory that is new, empty, or holds this very import.
        files: from an importer.
        row_type: of their rows.
        name: of the format; the published key begins with it.
        validation: share of the first messages, 0 to 1.
        test: share of the first messages, 0 to 1.
        seed: of the partition into splits.

    Raises:
        DataError: `out` holds something else.
    """
    splits: dict[Split, list[R]] = {split: [] for split in SPLITS}
    digest = hashlib.blake2b(digest_size=6)
    for row in (row for file in files for row in file.rows):
        split = split_of(first_message(row), validation=validation, test=test, seed=seed)
        splits[split].append(row)
        digest.update(f"{_fingerprint(row)} {split}\n".encode())
    key = f"{name}-{digest.hexdigest()}"
    batches = [Batch(split=split, key=key, rows=rows) for split, rows in splits.items() if rows]
    _check_fit(out, batches)
    manifest = publish_many(out, batches, row_type)
    lines = [json.dumps(asdict(line), ensure_ascii=False) for f in files for line in f.dropped]
    write_durably(out / DROPPED, "".join(f"{line}\n" for line in lines).encode())
    ties = [tie for file in files for tie in file.ties]
    if ties:
        sink = pa.BufferOutputStream()
        pq.write_table(to_table(ties, Vote), sink, compression="zstd")
        write_durably(out / TIES, sink.getvalue().to_pybytes())
    return manifest


def first_message(row: Row) -> str:
    """What decides a row's split: dialogues whose first user messages are alike belong together.

    Case and the amount of white space do not count.
    """
    messages = row.messages if isinstance(row, Demonstration) else row.prompt
    first = next((m for m in messages if m.role == "user"), messages[0])
    return " ".join(first.content.casefold().split())


def identity_of(row: Row) -> str:
    """A row's own id."""
    match row:
        case Comparison():
            return row.comparison_id
        case Demonstration():
            return row.demonstration_id
        case Prompt():
            return row.prompt_id
        case Vote():
            return row.vote_id
        case Judgement():
            return row.judgement_id
    return row.rating_id


def identity(*parts: object) -> str:
    """The same parts have the same id in every import."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def plain(messages: Sequence[Message]) -> list[list[str]]:
    """Messages as parts of an `identity`."""
    return [[message.role, message.content] for message in messages]


def user(text: str) -> tuple[Message, ...]:
    """A prompt of one message."""
    return (Message("user", _text(text)),)


def answer(text: str) -> tuple[Message, ...]:
    """A response."""
    return (Message("assistant", _text(text)),)


def counts(
    counter: TokenCounter,
    prompt: Sequence[Message],
    chosen: Sequence[Message],
    rejected: Sequence[Message],
) -> dict[str, object]:
    """The columns of a `Comparison` that are counted."""
    return {
        "turns": sum(message.role == "user" for message in prompt),
        "prompt_tokens": count_messages(prompt, counter),
        "chosen_tokens": count_messages(chosen, counter),
        "rejected_tokens": count_messages(rejected, counter),
        "tokenizer_hash": counter.hash,
    }


def check_pair(first: Sequence[Message], second: Sequence[Message]) -> None:
    """Nothing, for two responses between which one can choose.

    Raises:
        Unusable: they are equal, or one has no text.
    """
    if not all(message.content for message in (*first, *second)):
        raise Unusable("empty reply")
    if list(first) == list(second):
        raise Unusable("identical")


def _items(
    record: Record, rows_of: Callable[[object], Iterable[R | Vote | Unusable]]
) -> Iterator[R | Vote | Unusable]:
    try:
        yield from list(rows_of(record.parse()))
    except Unusable as why:
        yield why
    except MALFORMED:
        yield Unusable("malformed")


def _text(text: str) -> str:
    text.encode()  # JSON can escape lone surrogates, Parquet cannot hold them
    return text.strip()


def _fingerprint(row: Row) -> str:
    if isinstance(row, Comparison):
        return f"{row.comparison_id} {row.domain} {row.tokenizer_hash}"
    return identity_of(row)


def _check_fit(out: Path, batches: Sequence[Batch[R]]) -> None:
    """Nothing, when all that `out` holds is this import, whole or begun."""
    if not out.exists():
        return
    if (out / MANIFEST).exists():
        keys = {part.key for file in open_manifest(out).files for part in file.parts}
        if keys <= {batch.key for batch in batches}:
            return
        raise DataError(
            f"{str(out)!r} holds the dataset of another import ({', '.join(sorted(keys))[:80]}); "
            "choose another --out, or remove it to import anew"
        )
    published: list[Path] = [out / file_name(batch.split, batch.key) for batch in batches]
    ours = {
        out / LOCK,
        *published,
        *(temporary_of(path) for path in (*published, out / MANIFEST)),
    }
    foreign = sorted(path.name for path in out.iterdir() if path not in ours)
    if foreign:
        raise DataError(
            f"{str(out)!r} is not empty and no dataset of this import (it holds {foreign[0]!r}); "
            "choose another --out, or empty it"
        )


def reasons_of(files: Iterable[ImportedFile[R]]) -> Counter[str]:
    """How many records were dropped, by reason."""
    return Counter(line.reason for file in files for line in file.dropped)

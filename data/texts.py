"""Plain texts to train tokenizers and language models on, streamed from what people have."""

import codecs
import gzip
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from itertools import chain, pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data.dataset import latest_revisions, open_file, open_manifest, read_table, sha256_of
from data.errors import DataError
from data.manifest import MANIFEST
from data.schemas import Comparison, Demonstration

Documents = Literal["lines", "files"]
BLOCK_BYTES = 1 << 20
"""Of a text file that are in memory at a time, and what a whole file is handed out in."""
BATCH_ROWS = 1024
"""Of a Parquet file that are in memory at a time."""
SUFFIXES = (".txt", ".gz", ".parquet")
REVISION = ["comparison_id", "revision"]
REMEDY = "give text (.txt, .gz), a Parquet file with a column of text, or a dataset"


class Text(NamedTuple):
    """A document, or a stretch of one that is long."""

    text: str
    begins: bool = True
    """Whether the document begins here."""
    ends: bool = True
    """Whether it ends here."""


@dataclass(frozen=True)
class Corpus:
    """Texts in files, read anew at every pass; only one block of them is in memory."""

    sources: tuple[Path, ...]
    """Text files, Parquet files and directories of datasets, in order."""
    column: str = "text"
    """Of Parquet files that are no dataset of ours."""
    documents: Documents = "lines"
    """What of a text file is a document."""

    def texts(self) -> Iterator[Text]:
        """Documents in order, blank lines left out.

        Raises:
            DataError: nothing in it, not text, or a table without the column.
        """
        is_empty = True
        for source in self.sources:
            for text in self._texts_of(source):
                is_empty = False
                yield text
        if is_empty:
            raise DataError(f"{' and '.join(map(repr, map(str, self.sources)))} is empty; {REMEDY}")

    @property
    def hash(self) -> str:
        """Names the contents; of a dataset, its manifest, which holds the sums of its files."""
        files = (source / MANIFEST if source.is_dir() else source for source in self.sources)
        return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()[:16]

    def _texts_of(self, source: Path) -> Iterator[Text]:
        if source.is_dir():
            return map(Text, _dialogues(source))
        if source.suffix == ".parquet":
            return map(Text, _column(source, self.column))
        if self.documents == "files":
            return _whole(_blocks(source))
        return map(Text, _lines(_blocks(source)))


def open_corpus(
    paths: Path | Sequence[Path], *, column: str = "text", documents: Documents = "lines"
) -> Corpus:
    """The corpus in a file, a directory of files, a dataset, or several of these.

    Of a dataset only the training split is read. A comparison gives its chosen dialogue as it was
    last revised, a demonstration all of it; messages are joined by line breaks.

    Raises:
        DataError: something of it is not there, or holds no text.
    """
    sources: list[Path] = []
    for path in [paths] if isinstance(paths, Path) else paths:
        if path.is_file() or (path / MANIFEST).is_file():
            sources.append(path)
            continue
        if not path.is_dir():
            raise DataError(f"no text at {str(path)!r}; {REMEDY}")
        found = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
        if not found:
            raise DataError(f"{str(path)!r} has no {MANIFEST} and no text in it; {REMEDY}")
        sources += found
    return Corpus(tuple(sources), column, documents)


def read_texts(path: Path, column: str = "text") -> Iterator[str]:
    """The documents of a corpus, a line or row each; see `open_corpus`."""
    return (text.text for text in open_corpus(path, column=column).texts())


def _whole(blocks: Iterator[str]) -> Iterator[Text]:
    """A file as one document, a block at a time."""
    begins = True
    for block, following in pairwise(chain(blocks, [None])):
        if block is not None:
            yield Text(block, begins=begins, ends=following is None)
            begins = False


def _lines(blocks: Iterator[str]) -> Iterator[str]:
    """The lines of a text that are not blank."""
    rest = ""
    for block in chain(blocks, ["\n"]):
        *lines, rest = (rest + block).split("\n")
        yield from (line.removesuffix("\r") for line in lines if line.strip())


def _blocks(path: Path) -> Iterator[str]:
    """The text of a file, a block at a time."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    try:
        with _open(path) as stream:
            while raw := stream.read(BLOCK_BYTES):
                if block := decoder.decode(raw):
                    yield block
                line += raw.count(b"\n")
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        line += error.object[: error.start].count(b"\n")
        raise DataError(
            f"{str(path)!r} is not UTF-8 text in line {line}: byte "
            f"0x{error.object[error.start]:02x}, {error.reason}; convert the file"
        ) from error
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{str(path)!r} is damaged or not compressed: {error}") from error


def _open(path: Path) -> BufferedReader | gzip.GzipFile:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _column(path: Path, column: str) -> Iterator[str]:
    """The texts of one column of a Parquet file."""
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            texts = [f.name for f in schema if pa.types.is_string(f.type)]
            texts += [f.name for f in schema if pa.types.is_large_string(f.type)]
            if column not in texts:
                raise DataError(
                    f"{str(path)!r} has no column {column!r} of text; it has "
                    f"{', '.join(texts) or 'none'}, to be named by --column"
                )
            for batch in file.iter_batches(BATCH_ROWS, columns=[column]):
                yield from (text for text in batch[0].to_pylist() if text and text.strip())
    except pa.ArrowException as error:
        raise DataError(f"{str(path)!r} is damaged or no Parquet file ({error})") from error


def _dialogues(directory: Path) -> Iterator[str]:
    manifest = open_manifest(directory)
    row_type = manifest.row_type
    if row_type is Comparison:
        columns = ["prompt", "chosen"]
    elif row_type is Demonstration:
        columns = ["messages"]
    else:
        raise DataError(f"{str(directory)!r} holds no dialogues, but rows of {row_type.__name__}")
    replaced: set[tuple[str, int]] = set()
    if row_type is Comparison:
        columns += REVISION
        keys = read_table(directory, Comparison, split="train", columns=REVISION)
        replaced = _keys(keys) - _keys(latest_revisions(keys))
    for listed in manifest.files:
        if listed.split == "train":
            with open_file(directory, listed, row_type) as file:
                for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                    for record in batch.to_pylist():
                        if (record.pop(REVISION[0], ""), record.pop(REVISION[1], 0)) in replaced:
                            continue
                        yield "\n".join(m["content"] for turns in record.values() for m in turns)


def _keys(table: pa.Table) -> set[tuple[str, int]]:
    return set(zip(*(table[name].to_pylist() for name in REVISION), strict=True))

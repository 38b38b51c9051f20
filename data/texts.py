"""Plain texts to train tokenizers and language models on, from what people have."""

import gzip
import zlib
from pathlib import Path

from data.dataset import open_manifest, read_table
from data.errors import DataError
from data.manifest import MANIFEST
from data.schemas import Comparison, Demonstration


def read_texts(path: Path) -> list[str]:
    """Documents of a text file, one per line (plain or .gz), or the dialogues of a dataset.

    Of a dataset only the training split is read. A comparison gives its chosen dialogue, a
    demonstration all of it; messages are joined by line breaks.

    Raises:
        DataError: no such file, nothing in it, not text, or a dataset without dialogues.
    """
    if path.is_dir():
        return _dialogue_texts(path)
    if not path.is_file():
        raise DataError(f"no text at {str(path)!r}; give a file with a document per line")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = [line for line in raw.decode().splitlines() if line.strip()]
    except (UnicodeDecodeError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{str(path)!r} is not UTF-8 text: {error}") from error
    if not lines:
        raise DataError(f"{str(path)!r} is empty; give a file with a document per line")
    return lines


def _dialogue_texts(directory: Path) -> list[str]:
    if not (directory / MANIFEST).is_file():
        raise DataError(f"{str(directory)!r} has no {MANIFEST}; give a text file or a dataset")
    row_type = open_manifest(directory).row_type
    if row_type is Comparison:
        columns = ["prompt", "chosen"]
    elif row_type is Demonstration:
        columns = ["messages"]
    else:
        raise DataError(f"{str(directory)!r} holds no dialogues, but rows of {row_type.__name__}")
    table = read_table(directory, row_type, split="train", columns=columns)
    return [
        "\n".join(message["content"] for column in columns for message in record[column])
        for record in table.to_pylist()
    ]

"""Dialogues to score, from a dataset of ours or from a file that others wrote."""

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.dataset import latest_revisions, open_manifest, read_table
from data.errors import DataError
from data.manifest import MANIFEST
from data.schemas import Comparison, Demonstration, Message, Rating, messages_from

ID_KEYS = ("id", "comparison_id", "demonstration_id", "rating_id")
"""What names a record; without one, its number does."""
FORMS = "messages, or prompt and response, or prompt, chosen and rejected"


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """A response to judge."""

    dialogue_id: str
    prompt: tuple[Message, ...]
    response: tuple[Message, ...]
    is_safety_prompt: bool = False
    """The tag of the reward rule; without a domain, False."""


def read_dialogues(path: Path) -> list[Dialogue]:
    """Every response of a dataset of ours, or of a Parquet, JSON or JSON-lines file (also .gz).

    A record of a file has `messages`, or `prompt` and `response`, or `prompt`, `chosen` and
    `rejected`; a plain text stands for one message. `domain` may be safety or helpfulness.

    Raises:
        DataError: no such file, another form, or nothing in it.
    """
    if (path / MANIFEST).is_file():
        records = _read_dataset(path)
    elif path.is_file():
        records = _read_file(path)
    else:
        raise DataError(f"no dataset and no file at {str(path)!r}; check the path")
    dialogues = [d for n, record in enumerate(records) for d in _dialogues(record, n, path)]
    if not dialogues:
        raise DataError(f"{str(path)!r} holds no dialogues; there is nothing to score")
    return dialogues


def _read_dataset(path: Path) -> list[dict[str, Any]]:
    row_type = open_manifest(path).row_type
    if row_type is Comparison:
        return latest_revisions(read_table(path, row_type)).to_pylist()
    if row_type in (Demonstration, Rating):
        return read_table(path, row_type).to_pylist()
    raise DataError(f"{str(path)!r} holds rows of {row_type.__name__}, without a response")


def _read_file(path: Path) -> list[Any]:
    try:
        if path.suffix == ".parquet":
            records = pq.read_table(path).to_pylist()
        else:
            raw = path.read_bytes()
            text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
            lines = text.splitlines()
            whole = text.lstrip().startswith("[")
            records = json.loads(text) if whole else [json.loads(x) for x in lines if x.strip()]
    except (ValueError, EOFError, gzip.BadGzipFile, pa.ArrowException) as error:
        raise DataError(
            f"{str(path)!r} cannot be read ({' '.join(str(error).split())[:100]}); give Parquet, "
            "JSON or JSON lines"
        ) from error
    return list(records)


def _dialogues(record: Mapping[str, Any], number: int, path: Path) -> Iterator[Dialogue]:
    """One dialogue for each response of a record."""
    if not isinstance(record, Mapping):
        raise DataError(f"record {number} of {str(path)!r} is no object; it needs {FORMS}")
    name = str(next((record[key] for key in ID_KEYS if key in record), number))
    safety = record.get("domain") == "safety"
    if "messages" in record:
        messages = _messages(record["messages"], "user", "messages")
        prompt, response = messages[:-1], messages[-1:]
        yield Dialogue(dialogue_id=name, prompt=prompt, response=response, is_safety_prompt=safety)
        return
    sides = [side for side in ("response", "chosen", "rejected") if side in record]
    if "prompt" not in record or not sides:
        raise DataError(
            f"record {number} of {str(path)!r} has {', '.join(record) or 'no keys'}; it needs "
            + FORMS
        )
    for side in sides:
        yield Dialogue(
            dialogue_id=name if side == "response" else f"{name}/{side}",
            prompt=_messages(record["prompt"], "user", "prompt"),
            response=_messages(record[side], "assistant", side),
            is_safety_prompt=safety,
        )


def _messages(value: Any, role: str, column: str) -> tuple[Message, ...]:
    """Messages as a list, or as the text of one."""
    plain = [{"role": role, "content": value}] if isinstance(value, str) else value
    return messages_from(plain, column=column)

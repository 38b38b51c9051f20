"""Queues from files: Parquet or JSON lines with an item in each row.

    prompt                  a text, or a list of {role, content} that ends with the user's turn
    response_1, response_2  or neither: then a connected endpoint is asked

and optionally model_1, model_2, temperature_1, temperature_2, source and name; and for items whose
answer is known, check (gold or attention) and answer (1 or 2: the better response).
"""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from annotation_app.ledger.rows import Check, NewItem, Response, messages_json
from data.errors import DataError
from data.schemas import Message, messages_from

MAX_CHARACTERS = 1_000_000
"""Of one text: what is longer is no response, but a file in the wrong place."""


def read_items(name: str, content: bytes) -> list[NewItem]:
    """The items of a file, in its order; rows with two equal responses are an error, too.

    Args:
        name: of the file; its ending says what it is, and it is the items' default source.
        content: its bytes.

    Raises:
        DataError: not such a file, or the first bad row with its number and the rule.
    """
    rows = _parquet_rows(name, content) if name.endswith(".parquet") else _json_rows(name, content)
    items: dict[str, NewItem] = {}
    for number, row in rows:
        try:
            item = _item(row, name)
        except DataError as error:
            raise DataError(f"{name} row {number}: {error}") from error
        if item.name in items:
            raise DataError(f"{name} row {number}: item {item.name!r} comes twice; leave one out")
        items[item.name] = item
    if not items:
        raise DataError(f"{name} has no rows; give one item per row")
    return list(items.values())


def _parquet_rows(name: str, content: bytes) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        table = pq.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{name} is no Parquet file ({error}); check it") from error
    yield from enumerate(table.to_pylist(), 1)


def _json_rows(name: str, content: bytes) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 text ({error}); save it as JSON lines") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name} row {number} is no JSON object ({error}); mend it") from error
        if not isinstance(row, dict):
            raise DataError(f"{name} row {number} is no JSON object; write {{...}} on each line")
        yield number, row


def _item(row: Mapping[str, Any], source: str) -> NewItem:
    if row.get("prompt") is None:
        raise DataError("column 'prompt' is missing; needed is one, and two responses if sampled")
    prompt, responses = _prompt(row["prompt"]), _responses(row)
    said = json.dumps([messages_json(prompt), *(r.text for r in responses or ())])
    name = row.get("name") or hashlib.blake2b(said.encode(), digest_size=8).hexdigest()
    return NewItem(
        name=_text(name, "name"),
        prompt=prompt,
        responses=responses,
        source=_text(row.get("source") or source, "source"),
        check=_check(row),
    )


def _check(row: Mapping[str, Any]) -> Check | None:
    kind, answer = row.get("check"), row.get("answer")
    if kind is None and answer is None:
        return None
    if isinstance(answer, bool) or answer not in (1, 2):
        raise DataError(f"answer is {answer!r}; a check needs 1 or 2, the better response")
    return Check(kind=_text(kind, "check"), answer=int(answer) - 1)  # type: ignore[arg-type]


def _prompt(value: Any) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (Message("user", _text(value, "prompt")),)
    messages = messages_from(value, column="prompt")
    for message in messages:
        _text(message.content, "prompt")
    return messages


def _responses(row: Mapping[str, Any]) -> tuple[Response, Response] | None:
    given = [number for number in (1, 2) if row.get(f"response_{number}") is not None]
    if not given:
        return None
    if len(given) == 1:
        raise DataError(f"column 'response_{3 - given[0]}' is missing; give both or neither")
    responses = (_response(row, 1), _response(row, 2))
    if responses[0].text == responses[1].text:
        raise DataError("both responses are the same; there is nothing to choose")
    return responses


def _response(row: Mapping[str, Any], number: int) -> Response:
    model = row.get(f"model_{number}")
    temperature = row.get(f"temperature_{number}")
    if temperature is not None and not (
        isinstance(temperature, int | float) and 0 <= temperature < 100
    ):
        raise DataError(f"temperature_{number} is {temperature!r}; it must be a number from 0")
    return Response(
        text=_text(row[f"response_{number}"], f"response_{number}"),
        model=None if model is None else _text(model, f"model_{number}"),
        temperature=temperature,
    )


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_CHARACTERS:
        raise DataError(
            f"{column} is {str(value)[:40]!r}; it must be a text of 1 to {MAX_CHARACTERS:,} "
            "characters"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{column} holds half a character ({error.reason}); mend it") from error
    return value.replace("\0", "�")  # PostgreSQL cannot store it

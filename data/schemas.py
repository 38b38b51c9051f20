"""What people said, as rows: the frozen types of the project and their Arrow schemas.

Columns follow the ecosystem: `prompt`, `chosen`, `rejected` and `messages` are lists of
{role, content}, so that `datasets.load_dataset("parquet", ...)` and other trainers read the
files as they are. What we know beyond that stands in columns around them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

from data.errors import DataError

SCHEMA_VERSION = 1

Role = Literal["system", "user", "assistant"]
Strength = Literal["significantly_better", "better", "slightly_better", "negligibly_better"]
SafetyLabel = Literal["chosen_safe_only", "both_safe", "both_unsafe"]
Domain = Literal["helpfulness", "safety"]
Split = Literal["train", "validation", "test"]
LossOn = Literal["all", "last"]
Winner = Literal["first", "second", "tie"]

ROLES: tuple[Role, ...] = get_args(Role)
STRENGTHS: tuple[Strength, ...] = get_args(Strength)
SAFETY_LABELS: tuple[SafetyLabel, ...] = get_args(SafetyLabel)
DOMAINS: tuple[Domain, ...] = get_args(Domain)
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Message:
    """One turn of a dialogue."""

    role: Role
    content: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One person's choice between two responses to the same dialogue (Llama 2, section 3.2.1)."""

    comparison_id: str
    revision: int = 0
    """Edits are new revisions of the same comparison_id; the highest one counts."""
    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    strength: Strength | None = None
    """None where the source did not ask for it (Anthropic's HH, for example)."""
    safety_label: SafetyLabel | None = None
    domain: Domain
    annotator_id: str | None = None
    batch: str | None = None
    source: str
    chosen_model: str | None = None
    rejected_model: str | None = None
    chosen_temperature: float | None = None
    rejected_temperature: float | None = None
    seconds: float | None = None
    """Time the annotator took, idle time excluded."""
    created_at: datetime | None = None
    turns: int
    """User messages in the prompt."""
    prompt_tokens: int
    chosen_tokens: int
    rejected_tokens: int
    tokenizer_hash: str
    """Which tokenizer counted; statistics over different ones are never mixed."""


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """A dialogue to imitate."""

    demonstration_id: str
    messages: tuple[Message, ...]
    loss_on: LossOn = "all"
    """Which answers are learned: Ghost Attention trains on the last one alone."""
    domain: Domain
    source: str


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A dialogue that ends with the user's turn and waits for a response."""

    prompt_id: str
    prompt: tuple[Message, ...]
    domain: Domain
    """The prompt tag of the reward rule: safety prompts are scored by the safety model."""
    kind: str
    """Finer than the domain; figures are broken down by it."""
    source: str
    task: str | None = None
    """JSON with the gold facts, in the built-in world only."""


@dataclass(frozen=True, kw_only=True)
class Rating:
    """One person's absolute judgement of one response: 1-5 for safety, 1-7 for helpfulness."""

    rating_id: str
    prompt: tuple[Message, ...]
    response: tuple[Message, ...]
    domain: Domain
    score: int
    annotator_id: str | None = None
    source: str


@dataclass(frozen=True, kw_only=True)
class Vote:
    """One person's verdict on two responses, ties included: for agreement and win rates."""

    vote_id: str
    item_id: str
    """What was compared; the votes of several people on one pair share it."""
    prompt: tuple[Message, ...]
    first: tuple[Message, ...] | None = None
    """None where the source publishes votes without the responses."""
    second: tuple[Message, ...] | None = None
    winner: Winner
    first_model: str | None = None
    second_model: str | None = None
    domain: Domain
    annotator_id: str | None = None
    source: str


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Whether one response is safe: the target of the safety model's auxiliary loss."""

    judgement_id: str
    prompt: tuple[Message, ...]
    response: tuple[Message, ...]
    safe: bool
    kind: str
    """The source's own category."""
    annotator_id: str | None = None
    source: str


Row = Comparison | Demonstration | Prompt | Rating | Vote | Judgement
R = TypeVar("R", Comparison, Demonstration, Prompt, Rating, Vote, Judgement)

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_ARROW_TYPES: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    bool: pa.bool_(),
    float: pa.float64(),
    datetime: pa.timestamp("us", tz="UTC"),
    tuple[Message, ...]: _MESSAGES,
}


@dataclass(frozen=True)
class _Column:
    """One field of a row type; hints are too slow to resolve anew for every row."""

    name: str
    arrow_type: pa.DataType
    is_messages: bool
    optional: bool
    """None is a value."""
    has_default: bool
    literals: tuple[Any, ...]
    """The allowed values, for a Literal."""
    types: tuple[type, ...]
    """The allowed types otherwise."""


def _column(name: str, hint: Any, has_default: bool) -> _Column:
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    (kind,) = (option for option in options if option is not NoneType)
    literals = get_args(kind) if get_origin(kind) is Literal else ()
    is_messages = kind == tuple[Message, ...]
    types: tuple[type, ...] = () if literals or is_messages else (kind,)
    return _Column(
        name=name,
        arrow_type=pa.string() if literals else _ARROW_TYPES[kind],
        is_messages=is_messages,
        optional=NoneType in options,
        has_default=has_default,
        literals=literals,
        types=(*types, int) if kind is float else types,
    )


def _columns_of(row_type: type[Row]) -> tuple[_Column, ...]:
    hints = get_type_hints(row_type)
    return tuple(_column(f.name, hints[f.name], f.default is not MISSING) for f in fields(row_type))


_COLUMNS: dict[type[Any], tuple[_Column, ...]] = {kind: _columns_of(kind) for kind in get_args(Row)}


def arrow_schema(row_type: type[Row]) -> pa.Schema:
    """The Parquet schema of a row type; optional fields are nullable, the others are not."""
    return pa.schema(
        [pa.field(c.name, c.arrow_type, nullable=c.optional) for c in _COLUMNS[row_type]]
    )


def to_table(rows: Sequence[R], row_type: type[R]) -> pa.Table:
    """Rows as an Arrow table with the schema of their type; values are checked by `check_row`."""
    columns: dict[str, list[Any]] = {}
    for column in _COLUMNS[row_type]:
        values = [getattr(row, column.name) for row in rows]
        if column.is_messages:
            values = [
                None if v is None else [{"role": m.role, "content": m.content} for m in v]
                for v in values
            ]
        columns[column.name] = values
    return pa.Table.from_pydict(columns, arrow_schema(row_type))


def from_table(table: pa.Table, row_type: type[R]) -> list[R]:
    """The inverse of `to_table`.

    Raises:
        DataError: a column is missing, or holds a value that the type does not allow.
    """
    names = [column.name for column in _COLUMNS[row_type]]
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise DataError(
            f"column {missing[0]!r} is missing; a {row_type.__name__} has the columns "
            + ", ".join(names)
        )
    return [from_record(record, row_type) for record in table.select(names).to_pylist()]


def from_record(record: Mapping[str, Any], row_type: type[R]) -> R:
    """One row from a dictionary of plain values; a field with a default may be left out.

    Raises:
        DataError: a value that the type does not allow, or a key that the type does not have.
    """
    values = dict(record)
    for column in _COLUMNS[row_type]:
        if column.has_default and column.name not in values:
            continue
        value = values.get(column.name)
        if column.is_messages and not (value is None and column.optional):
            values[column.name] = messages_from(value, column=column.name)
        elif not column.is_messages:
            _check_value(column, value)
    try:
        return row_type(**values)
    except TypeError:
        names = [column.name for column in _COLUMNS[row_type]]
        unknown = next(name for name in values if name not in names)
        raise DataError(
            f"{unknown!r} is no column of a {row_type.__name__}; its columns are "
            + ", ".join(names)
        ) from None


def check_row(row: Row) -> None:
    """Nothing, for a row that `from_record` would accept: what is written can be read back.

    Raises:
        DataError: a value that the type does not allow.
    """
    for column in _COLUMNS[type(row)]:
        value = getattr(row, column.name)
        if column.is_messages and not (value is None and column.optional):
            for message in value:
                _check_message(message, column.name)
        elif not column.is_messages:
            _check_value(column, value)


def messages_from(value: Any, *, column: str) -> tuple[Message, ...]:
    """Messages from a list of {role, content}.

    Raises:
        DataError: not such a list, or a role outside system, user and assistant.
    """
    try:
        messages = tuple(Message(m["role"], m["content"]) for m in value)
    except (TypeError, KeyError) as error:
        raise DataError(
            f"{column} must be a list of {{role, content}}; got {str(value)[:80]!r}"
        ) from error
    for message in messages:
        _check_message(message, column)
    return messages


def _check_message(message: Message, column: str) -> None:
    if message.role not in ROLES or not isinstance(message.content, str):
        raise DataError(
            f"{column} holds a message with role {message.role!r}; "
            f"roles are {', '.join(ROLES)} and the content is text"
        )


def _check_value(column: _Column, value: Any) -> None:
    if value is None and column.optional:
        return
    if value in column.literals if column.literals else isinstance(value, column.types):
        return
    words = [repr(literal) for literal in column.literals]
    words += [kind.__name__ for kind in column.types]
    words += ["empty"] if column.optional else []
    raise DataError(f"{column.name} is {value!r}; it must be {' or '.join(words)}")

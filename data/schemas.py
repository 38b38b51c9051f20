"""What people said, as rows: the frozen types of the project and their Arrow schemas.

Columns follow the ecosystem: `prompt`, `chosen`, `rejected` and `messages` are lists of
{role, content}, so that `datasets.load_dataset("parquet", ...)` and other trainers read the
files as they are. What we know beyond that stands in columns around them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from types import UnionType
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


Row = Comparison | Demonstration | Prompt | Rating
R = TypeVar("R", Comparison, Demonstration, Prompt, Rating)

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_ARROW_TYPES: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    datetime: pa.timestamp("us", tz="UTC"),
    tuple[Message, ...]: _MESSAGES,
}


def arrow_schema(row_type: type[Row]) -> pa.Schema:
    """The Parquet schema of a row type; optional fields are nullable, the others are not."""
    columns = []
    for name, hint in get_type_hints(row_type).items():
        options = _options(hint)
        (kind,) = (option for option in options if option is not type(None))
        arrow_type = pa.string() if get_origin(kind) is Literal else _ARROW_TYPES[kind]
        columns.append(pa.field(name, arrow_type, nullable=type(None) in options))
    return pa.schema(columns)


def to_table(rows: Sequence[R], row_type: type[R]) -> pa.Table:
    """Rows as an Arrow table with the schema of their type."""
    return pa.Table.from_pylist([asdict(row) for row in rows], arrow_schema(row_type))


def from_table(table: pa.Table, row_type: type[R]) -> list[R]:
    """The inverse of `to_table`.

    Raises:
        DataError: a column is missing, or holds a value that the type does not allow.
    """
    missing = [f.name for f in fields(row_type) if f.name not in table.column_names]
    if missing:
        raise DataError(
            f"column {missing[0]!r} is missing; a {row_type.__name__} has the columns "
            + ", ".join(f.name for f in fields(row_type))
        )
    names = [f.name for f in fields(row_type)]
    return [from_record(record, row_type) for record in table.select(names).to_pylist()]


def from_record(record: Mapping[str, Any], row_type: type[R]) -> R:
    """One row from a dictionary of plain values.

    Raises:
        DataError: a value that the type does not allow.
    """
    values = dict(record)
    for name, hint in get_type_hints(row_type).items():
        value = values.get(name)
        if hint == tuple[Message, ...]:
            values[name] = messages_from(value, column=name)
        else:
            _check_value(name, value, hint)
    return row_type(**values)


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
        if message.role not in get_args(Role) or not isinstance(message.content, str):
            raise DataError(
                f"{column} holds a message with role {message.role!r}; "
                f"roles are {', '.join(get_args(Role))} and the content is text"
            )
    return messages


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _check_value(name: str, value: Any, hint: Any) -> None:
    options = _options(hint)
    if value is None and type(None) in options:
        return
    for option in options:
        if get_origin(option) is Literal and value in get_args(option):
            return
        if isinstance(option, type) and isinstance(value, option):
            return
        if option is float and isinstance(value, int):
            return
    raise DataError(f"{name} is {value!r}; it must be {_describe(options)}")


def _describe(options: Iterable[Any]) -> str:
    words: list[str] = []
    for option in options:
        if get_origin(option) is Literal:
            words += [repr(value) for value in get_args(option)]
        else:
            words.append("empty" if option is type(None) else option.__name__)
    return " or ".join(words)

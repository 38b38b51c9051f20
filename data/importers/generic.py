"""Any table of preferences or dialogues → comparisons, demonstrations or prompts.

Comparisons, by TRL's names: prompt, chosen, rejected, each text or a list of {role, content};
without a prompt, what chosen and rejected begin with alike is the prompt. `margin` is read back as
a strength (Llama 2, Table 27). Any other column of a `Comparison` may be there under its own name.
Demonstrations: `messages`, or prompt and completion. Prompts: prompt, or messages that end with the
user's. `columns` says which column of the file stands
for which of ours; columns that nobody asked for are ignored.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import isclose
from pathlib import Path
from typing import Any

from data.counting import TokenCounter
from data.errors import ConfigError, DataError
from data.importers.imported import (
    ImportedFile,
    Unusable,
    answer,
    check_pair,
    counts,
    identity,
    plain,
    user,
)
from data.importers.records import import_files
from data.margins import MARGIN_SCALES, MarginScale
from data.schemas import (
    Comparison,
    Demonstration,
    Domain,
    Message,
    Prompt,
    Strength,
    from_record,
    messages_from,
)

_OPTIONAL = (
    "strength safety_label annotator_id batch chosen_model rejected_model chosen_temperature "
    "rejected_temperature seconds"
).split()
COLUMNS = ("prompt", "chosen", "rejected", "messages", "completion", "margin", *_OPTIONAL)
"""What `columns` can name."""


def read_comparisons(
    paths: Sequence[Path],
    counter: TokenCounter,
    *,
    domain: Domain,
    source: str,
    columns: Mapping[str, str],
    margins: MarginScale = "large",
    strict: bool = False,
) -> list[ImportedFile[Comparison]]:
    """Comparisons of any file that `read_records` reads.

    Args:
        paths: files, or directories that `datasets` saved.
        counter: counts the tokens.
        domain: of all rows.
        source: of all rows.
        columns: our column → the file's, where the names differ.
        margins: the scale of the column margin.
        strict: raise at the first malformed record.

    Raises:
        ConfigError: `columns` names a column that we do not have.
        DataError: a file cannot be read or holds no record of this form.
    """
    _check_columns(columns)

    def rows_of(record: Any) -> Iterator[Comparison]:
        values = _named(record, columns)
        yield _comparison(values, counter, domain, source, MARGIN_SCALES[margins])

    return import_files(paths, rows_of, Comparison, strict=strict)


def read_demonstrations(
    paths: Sequence[Path],
    *,
    domain: Domain,
    source: str,
    columns: Mapping[str, str],
    strict: bool = False,
) -> list[ImportedFile[Demonstration]]:
    """Demonstrations of any file that `read_records` reads; arguments as `read_comparisons`."""
    _check_columns(columns)

    def rows_of(record: Any) -> Iterator[Demonstration]:
        yield _demonstration(_named(record, columns), domain, source)

    return import_files(paths, rows_of, Demonstration, strict=strict)


def read_prompts(
    paths: Sequence[Path],
    *,
    domain: Domain,
    source: str,
    columns: Mapping[str, str],
    strict: bool = False,
) -> list[ImportedFile[Prompt]]:
    """Prompts of any file that `read_records` reads; arguments as `read_comparisons`."""
    _check_columns(columns)

    def rows_of(record: Any) -> Iterator[Prompt]:
        yield _prompt(_named(record, columns), domain, source)

    return import_files(paths, rows_of, Prompt, strict=strict)


def _check_columns(columns: Mapping[str, str]) -> None:
    for name in columns:
        if name not in COLUMNS:
            raise ConfigError(f"map names {name!r}; our columns are {', '.join(COLUMNS)}")


def _named(record: Any, columns: Mapping[str, str]) -> dict[str, Any]:
    if any(theirs not in record for theirs in columns.values()):
        raise Unusable("malformed")
    found = {name: record.get(columns.get(name, name)) for name in COLUMNS}
    return {name: value for name, value in found.items() if value not in (None, "")}


def _comparison(
    values: dict[str, Any],
    counter: TokenCounter,
    domain: Domain,
    source: str,
    margins: Mapping[Strength, float],
) -> Comparison:
    chosen, rejected = _messages(values, "chosen"), _messages(values, "rejected")
    if "prompt" in values:
        prompt = _messages(values, "prompt")
        chosen, rejected = _after(prompt, chosen), _after(prompt, rejected)
    else:
        shared = _shared(chosen, rejected)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    check_pair(chosen, rejected)
    if not prompt or prompt[-1].role != "user" or not all(m.content for m in prompt):
        raise Unusable("malformed")
    optional = {name: _value(name, values[name]) for name in _OPTIONAL if name in values}
    if "margin" in values and "strength" not in optional:
        optional["strength"] = _strength(float(values["margin"]), margins)
    parts = [source, plain(prompt), plain(chosen), plain(rejected)]
    row = {  # two people's choices on one pair are two comparisons
        "comparison_id": identity(*parts, optional.get("annotator_id")),
        "prompt": _records(prompt),
        "chosen": _records(chosen),
        "rejected": _records(rejected),
        "domain": domain,
        "source": source,
        **optional,
        **counts(counter, prompt, chosen, rejected),
    }
    return _checked(row, Comparison)


def _demonstration(values: dict[str, Any], domain: Domain, source: str) -> Demonstration:
    if "messages" in values:
        messages = _messages(values, "messages")
    else:
        messages = (*_messages(values, "prompt"), *_messages(values, "completion"))
    if not messages or messages[-1].role != "assistant" or not all(m.content for m in messages):
        raise Unusable("malformed")
    return Demonstration(
        demonstration_id=identity(source, plain(messages)),
        messages=messages,
        domain=domain,
        source=source,
    )


def _prompt(values: dict[str, Any], domain: Domain, source: str) -> Prompt:
    messages = _messages(values, "prompt" if "prompt" in values else "messages")
    if not messages or messages[-1].role != "user" or not all(m.content for m in messages):
        raise Unusable("malformed")
    return Prompt(
        prompt_id=identity(source, plain(messages)),
        prompt=messages,
        domain=domain,
        kind=source,
        source=source,
    )


def _messages(values: Mapping[str, Any], name: str) -> tuple[Message, ...]:
    value = values.get(name)
    if value is None and name in ("chosen", "rejected"):
        raise Unusable("empty reply")
    if isinstance(value, str):
        return user(value) if name == "prompt" else answer(value)
    try:
        messages = messages_from(value, column=name)
    except DataError:
        raise Unusable("malformed") from None
    for message in messages:
        message.content.encode()  # Parquet holds no lone surrogates
    return messages


def _after(prompt: tuple[Message, ...], reply: tuple[Message, ...]) -> tuple[Message, ...]:
    """The reply alone, where its column repeats the prompt."""
    return reply[len(prompt) :] if reply[: len(prompt)] == prompt else reply


def _shared(first: Sequence[Message], second: Sequence[Message]) -> int:
    """Messages at the start that both have, at most up to each one's last."""
    most = min(len(first), len(second)) - 1
    return next((i for i in range(most) if first[i] != second[i]), max(most, 0))


def _strength(margin: float, margins: Mapping[Strength, float]) -> Strength:
    for strength, value in margins.items():
        if isclose(margin, value, abs_tol=1e-3):
            return strength
    raise Unusable("margin of no strength")


def _value(name: str, value: Any) -> Any:
    """CSV knows text only."""
    numeric = name.endswith("temperature") or name == "seconds"
    return float(value) if numeric else str(value)


def _records(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in messages]


def _checked(row: dict[str, Any], row_type: type[Comparison]) -> Comparison:
    try:
        return from_record(row, row_type)
    except DataError:
        raise Unusable("malformed") from None

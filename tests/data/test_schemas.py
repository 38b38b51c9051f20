"""Rows to Arrow and back, and what is refused."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from data.errors import DataError
from data.schemas import (
    Comparison,
    Demonstration,
    Message,
    Prompt,
    Rating,
    Row,
    arrow_schema,
    check_row,
    from_record,
    from_table,
    messages_from,
    to_table,
)

ASK = (Message("system", "Be brief."), Message("user", "Why?"))
ANSWER = (Message("assistant", "Because: „ü“ 🙂\n\nso."),)
ROWS: list[Row] = [
    Comparison(
        comparison_id="c",
        revision=2,
        prompt=ASK,
        chosen=ANSWER,
        rejected=(Message("assistant", ""),),
        strength="slightly_better",
        safety_label="both_safe",
        domain="safety",
        annotator_id="ann",
        batch="week 1",
        source="s",
        chosen_model="m1",
        rejected_model="m2",
        chosen_temperature=0.7,
        rejected_temperature=1.0,
        seconds=12.5,
        created_at=datetime(2023, 7, 18, 12, 30, 15, 123456, tzinfo=UTC),
        turns=1,
        prompt_tokens=5,
        chosen_tokens=6,
        rejected_tokens=0,
        tokenizer_hash="words",
    ),
    Demonstration(
        demonstration_id="d", messages=ASK + ANSWER, loss_on="last", domain="safety", source="s"
    ),
    Prompt(prompt_id="p", prompt=ASK, domain="helpfulness", kind="fact", source="s", task="{}"),
    Rating(rating_id="r", prompt=ASK, response=ANSWER, domain="safety", score=5, source="s"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_a_row_survives_arrow(row: Any) -> None:
    assert from_table(to_table([row], type(row)), type(row)) == [row]


def test_schema_of_a_prompt() -> None:
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    assert arrow_schema(Prompt) == pa.schema(
        [
            pa.field("prompt_id", pa.string(), nullable=False),
            pa.field("prompt", pa.list_(message), nullable=False),
            pa.field("domain", pa.string(), nullable=False),
            pa.field("kind", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("task", pa.string(), nullable=True),
        ]
    )


def test_optional_fields_may_be_empty(make_comparison: Callable[..., Comparison]) -> None:
    row = make_comparison(1)
    assert row.strength is None and row.created_at is None
    assert from_table(to_table([row], Comparison), Comparison) == [row]


def test_a_field_with_a_default_may_be_left_out() -> None:
    record = {"prompt_id": "p", "prompt": [], "domain": "safety", "kind": "k", "source": "s"}
    assert from_record(record, Prompt).task is None
    record = {"demonstration_id": "d", "messages": [], "domain": "safety", "source": "s"}
    assert from_record(record, Demonstration).loss_on == "all"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"strength": "much_better"},
            "strength is 'much_better'; it must be 'significantly_better' or",
        ),
        ({"domain": None}, "domain is None; it must be 'helpfulness' or 'safety'"),
        ({"turns": "3"}, "turns is '3'; it must be int"),
        ({"turns": None}, "turns is None"),
        ({"seconds": "long"}, "seconds is 'long'; it must be float or int or empty"),
        ({"created_at": "today"}, "created_at is 'today'; it must be datetime or empty"),
        ({"prompt": None}, "prompt must be a list of {role, content}; got 'None'"),
        ({"prompt": [{"role": "user"}]}, "prompt must be a list of {role, content}"),
        ({"prompt": [{"role": "human", "content": "x"}]}, "role 'human'; roles are system, user,"),
        ({"prompt": [{"role": "user", "content": 1}]}, "the content is text"),
        ({"mood": "good"}, "'mood' is no column of a Comparison; its columns are comparison_id,"),
    ],
)
def test_refused_values(
    make_comparison: Callable[..., Comparison], change: dict[str, Any], message: str
) -> None:
    (record,) = to_table([make_comparison(1)], Comparison).to_pylist()
    with pytest.raises(DataError) as caught:
        from_record(record | change, Comparison)
    assert message in str(caught.value)


def test_check_row_refuses_what_from_record_refuses(
    make_comparison: Callable[..., Comparison],
) -> None:
    check_row(make_comparison(1))
    with pytest.raises(DataError, match="strength is 'much_better'"):
        check_row(make_comparison(1, strength="much_better"))
    with pytest.raises(DataError, match="role 'human'"):
        check_row(make_comparison(1, chosen=(Message("human", "x"),)))  # type: ignore[arg-type]


def test_an_int_is_a_float(make_comparison: Callable[..., Comparison]) -> None:
    check_row(make_comparison(1, seconds=3))


def test_a_missing_column_is_named(make_comparison: Callable[..., Comparison]) -> None:
    table = to_table([make_comparison(1)], Comparison).drop_columns(["strength"])
    with pytest.raises(DataError, match="column 'strength' is missing; a Comparison has"):
        from_table(table, Comparison)


def test_other_columns_are_ignored_in_tables(make_comparison: Callable[..., Comparison]) -> None:
    row = make_comparison(1)
    table = to_table([row], Comparison).append_column("extra", pa.array([1]))
    assert from_table(table, Comparison) == [row]


def test_messages_from() -> None:
    raw = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert messages_from(raw, column="x") == (Message("user", "Hi"), Message("assistant", "Hello"))
    with pytest.raises(DataError, match="x must be a list"):
        messages_from("Hi", column="x")

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotation_app.importing import read_items
from annotation_app.ledger.rows import Check, NewItem, Response
from data.errors import DataError
from data.schemas import Message

ROW: dict[str, Any] = {"prompt": "How?", "response_1": "So.", "response_2": "Or so."}
DIALOGUE = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "How?"},
]


def lines(*rows: Any) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def parquet(*rows: Any) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), stream)
    return stream.getvalue()


@pytest.mark.parametrize(("name", "write"), [("q.jsonl", lines), ("q.parquet", parquet)])
def test_rows_become_items(name: str, write: Any) -> None:
    full = ROW | {
        "prompt": DIALOGUE,
        "model_1": "m-1",
        "model_2": "m-2",
        "temperature_1": 0.5,
        "temperature_2": 1.0,
        "source": "mine",
        "name": "one",
    }
    assert read_items(name, write(full)) == [
        NewItem(
            name="one",
            prompt=(Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "How?")),
            responses=(
                Response(text="So.", model="m-1", temperature=0.5),
                Response(text="Or so.", model="m-2", temperature=1.0),
            ),
            source="mine",
        )
    ]
    (plain,) = read_items(name, write(ROW))
    assert plain.prompt == (Message("user", "How?"),) and plain.source == name
    assert plain.responses == (Response(text="So."), Response(text="Or so."))
    assert read_items(name, write(ROW)) == [plain]  # the same name: adding it again adds nothing


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no rows"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"{]", "row 1 is no JSON object"),
        (b"\n[1]", "row 2 is no JSON object"),
        (b"[" * 100_000, "row 1 is no JSON object"),
        (lines({"prompt": "a", "response_1": "b"}), "row 1: column 'response_2' is missing"),
        (lines({"response_1": "b", "response_2": "c"}), "row 1: column 'prompt' is missing"),
        (lines(ROW, ROW), "row 2: item .* comes twice"),
        (lines(ROW | {"response_2": "So."}), "both responses are the same"),
        (lines(ROW | {"response_1": " "}), "response_1 is ' '"),
        (lines(ROW | {"response_1": 7}), "response_1 is '7'"),
        (lines(ROW | {"prompt": []}), "must end with the user's turn"),
        (lines(ROW | {"prompt": DIALOGUE[:2]}), "must end with the user's turn"),
        (lines(ROW | {"prompt": [{"role": "x", "content": "y"}]}), "role 'x'"),
        (lines(ROW | {"temperature_1": "hot"}), "temperature_1 is 'hot'"),
        (lines(ROW | {"response_1": "x" * 1_000_001}), "1 to 1,000,000 characters"),
        (b'{"prompt": "\\ud800", "response_1": "a", "response_2": "b"}', "half a character"),
    ],
)
def test_bad_files_are_named_with_their_row(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_items("q.jsonl", content)
    assert "q.jsonl" in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_file_that_is_no_parquet() -> None:
    with pytest.raises(DataError, match="no Parquet file"):
        read_items("q.parquet", b"PAR1 not really")


def test_control_characters_and_long_texts_are_kept() -> None:
    long = "x" * 200_000 + "\x07"
    (item,) = read_items("q.jsonl", lines(ROW | {"response_1": long, "response_2": "a\0b"}))
    assert item.responses[0].text == long
    assert item.responses[1].text == "a�b"


def test_checks_say_which_response_is_better() -> None:
    rows = [ROW | {"name": "w", "check": None, "answer": None}]
    rows += [ROW | {"name": "g", "check": "gold", "answer": 2}]
    rows += [ROW | {"name": "a", "check": "attention", "answer": 1}]
    for name, write in (("q.jsonl", lines), ("q.parquet", parquet)):
        assert [one.check for one in read_items(name, write(*rows))] == [
            None,
            Check(kind="gold", answer=1),
            Check(kind="attention", answer=0),
        ]
    for bad in (
        {"check": "gold"},
        {"check": "gold", "answer": 3},
        {"check": "gold", "answer": True},
    ):
        with pytest.raises(DataError, match="row 1: answer is"):
            read_items("q.jsonl", lines(ROW | bad))
    with pytest.raises(DataError, match="row 1: a check of kind 'silver'"):
        read_items("q.jsonl", lines(ROW | {"check": "silver", "answer": 1}))
    unsampled = {"prompt": "How?", "check": "gold", "answer": 1}
    with pytest.raises(DataError, match="check without responses"):
        read_items("q.jsonl", lines(unsampled))

"""Dialogues to score, in the forms that people have."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.dataset import publish
from data.errors import DataError
from data.schemas import Comparison, Message, Prompt
from reward.dialogues import read_dialogues

Make = Callable[..., Comparison]
USER, ANSWER = Message("user", "hi"), Message("assistant", "hello")


def test_records_of_every_form(tmp_path: Path) -> None:
    as_messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    records = [
        {"messages": as_messages, "id": "a"},
        {"prompt": "hi", "response": "hello", "domain": "safety"},
        {"prompt": as_messages[:1], "chosen": as_messages[1:], "rejected": "no"},
    ]
    files = {
        "d.jsonl": "\n".join(map(json.dumps, records)).encode(),
        "d.json": json.dumps(records).encode(),
        "d.jsonl.gz": gzip.compress("\n".join(map(json.dumps, records)).encode()),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        found = read_dialogues(tmp_path / name)
        assert [d.dialogue_id for d in found] == ["a", "1", "2/chosen", "2/rejected"]
        assert {d.prompt for d in found} == {(USER,)}
        assert [d.response for d in found] == [(ANSWER,)] * 3 + [(Message("assistant", "no"),)]
        assert [d.is_safety_prompt for d in found] == [False, True, False, False]
    pq.write_table(pa.Table.from_pylist([records[1]] * 2), tmp_path / "d.parquet")
    assert [d.dialogue_id for d in read_dialogues(tmp_path / "d.parquet")] == ["0", "1"]


def test_both_responses_of_our_comparisons(tmp_path: Path, make_comparison: Make) -> None:
    row = make_comparison(3, domain="safety")
    publish(tmp_path / "data", [row], Comparison, split="train", key="a")
    chosen, rejected = read_dialogues(tmp_path / "data")
    assert (chosen.dialogue_id, rejected.dialogue_id) == ("c3/chosen", "c3/rejected")
    assert (chosen.prompt, chosen.response) == (row.prompt, row.chosen)
    assert rejected.response == row.rejected and rejected.is_safety_prompt


def test_what_cannot_be_scored(tmp_path: Path) -> None:
    prompt = Prompt(prompt_id="p", prompt=(USER,), domain="helpfulness", kind="fact", source="test")
    publish(tmp_path / "prompts", [prompt], Prompt, split="train", key="a")
    with pytest.raises(DataError, match="holds rows of Prompt, without a response"):
        read_dialogues(tmp_path / "prompts")
    cases = {
        "{": "cannot be read",
        "[1]": "record 0 of .* is no object",
        '{"prompt": "hi"}': "record 0 of .* has prompt; it needs messages, or prompt and response",
        "": "holds no dialogues",
        '{"messages": [1]}': r"messages must be a list of \{role, content\}",
    }
    for content, message in cases.items():
        (tmp_path / "d.jsonl").write_text(content)
        with pytest.raises(DataError, match=message):
            read_dialogues(tmp_path / "d.jsonl")
    with pytest.raises(DataError, match="no dataset and no file at"):
        read_dialogues(tmp_path / "nowhere")

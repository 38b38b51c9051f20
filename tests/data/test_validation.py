"""Each fault of a dataset is found where it is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.dataset import publish, sha256_of
from data.errors import DataError
from data.schemas import Comparison, Demonstration, Message, Prompt, to_table
from data.validation import find_faults

Make = Callable[..., Comparison]


def faults(directory: Path) -> list[tuple[str, str]]:
    return [(finding.kind, finding.where) for finding in find_faults(directory)]


def replace_table(directory: Path, name: str, table: pa.Table) -> None:
    """Another file under the same name, which the manifest is made to list as it is."""
    pq.write_table(table, directory / name)
    manifest = json.loads((directory / "manifest.json").read_text())
    for entry in manifest["files"]:
        if entry["path"] == name:
            entry["sha256"] = sha256_of(directory / name)
    (directory / "manifest.json").write_text(json.dumps(manifest))


def test_a_sound_dataset(tmp_path: Path, make_comparison: Make) -> None:
    rows = [make_comparison(n) for n in range(5)] + [make_comparison(0, revision=1)]
    publish(tmp_path, rows, Comparison, split="train", key="a")
    publish(tmp_path, [make_comparison(9)], Comparison, split="test", key="a")
    assert faults(tmp_path) == []


def test_one_changed_byte(tmp_path: Path, make_comparison: Make) -> None:
    publish(tmp_path, [make_comparison(n) for n in range(5)], Comparison, split="train", key="a")
    path = tmp_path / "train-a.parquet"
    content = bytearray(path.read_bytes())
    content[-12] ^= 1  # in the footer, or the file may still read as before
    path.write_bytes(content)
    assert faults(tmp_path)[0] == ("checksum", "train-a.parquet")


def test_missing_and_foreign_files(tmp_path: Path, make_comparison: Make) -> None:
    for key in ("a", "b", "c"):
        publish(tmp_path, [make_comparison(ord(key))], Comparison, split="train", key=key)
    (tmp_path / "train-a.parquet").unlink()
    (tmp_path / "train-b.parquet").write_bytes(b"text")
    table = to_table([make_comparison(1), make_comparison(2)], Comparison)
    replace_table(tmp_path, "train-c.parquet", table)
    assert faults(tmp_path) == [
        ("missing file", "train-a.parquet"),
        ("checksum", "train-b.parquet"),
        ("schema", "train-b.parquet"),
        ("row count", "train-c.parquet"),
    ]
    replace_table(tmp_path, "train-c.parquet", table.drop_columns(["batch"]))
    assert "column 'batch' is missing" in str(list(find_faults(tmp_path))[-1])


def test_bad_values(tmp_path: Path, make_comparison: Make) -> None:
    publish(tmp_path, [make_comparison(n) for n in range(3)], Comparison, split="train", key="a")
    table = to_table([make_comparison(n) for n in range(3)], Comparison)
    place = table.column_names.index("strength")
    bad = pa.array(["better", "much_better", None])
    replace_table(tmp_path, "train-a.parquet", table.set_column(place, "strength", bad))
    (finding,) = find_faults(tmp_path)
    assert str(finding).startswith(
        "value: train-a.parquet row 1: strength is 'much_better'; it must"
    )


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"prompt": (Message("user", "a"), Message("assistant", " \n"))}, "prompt"),
        ({"chosen": ()}, "chosen"),
        ({"rejected": (Message("assistant", ""),)}, "rejected"),
    ],
)
def test_empty_messages(
    tmp_path: Path, make_comparison: Make, changes: dict[str, Any], column: str
) -> None:
    publish(tmp_path, [make_comparison(1, **changes)], Comparison, split="train", key="a")
    (finding,) = find_faults(tmp_path)
    assert str(finding) == f"empty message: train-a.parquet row 0: {column} has no text"


def test_duplicate_ids(tmp_path: Path, make_comparison: Make) -> None:
    publish(tmp_path, [make_comparison(1), make_comparison(2)], Comparison, split="train", key="a")
    publish(tmp_path, [make_comparison(3), make_comparison(1)], Comparison, split="train", key="b")
    (finding,) = find_faults(tmp_path)
    assert str(finding) == "duplicate id: train-b.parquet row 1: c1 revision 0"


def test_a_prompt_in_two_splits(tmp_path: Path, make_comparison: Make) -> None:
    publish(tmp_path, [make_comparison(1)], Comparison, split="train", key="a")
    again = make_comparison(2, prompt=make_comparison(1).prompt)
    publish(tmp_path, [make_comparison(3), again], Comparison, split="test", key="a")
    (finding,) = find_faults(tmp_path)
    assert str(finding) == (
        "prompt in two splits: test-a.parquet row 1: this prompt of test is in train too"
    )


def test_other_row_types(tmp_path: Path) -> None:
    ask, answer = Message("user", "q"), Message("assistant", "a")
    shown = Demonstration(demonstration_id="d", messages=(ask, answer), domain="safety", source="s")
    publish(tmp_path / "d", [shown], Demonstration, split="train", key="a")
    publish(tmp_path / "d", [shown], Demonstration, split="test", key="a")
    assert faults(tmp_path / "d") == [
        ("duplicate id", "test-a.parquet row 0"),
        ("prompt in two splits", "test-a.parquet row 0"),
    ]
    prompt = Prompt(prompt_id="p", prompt=(ask,), domain="safety", kind="k", source="s")
    publish(tmp_path / "p", [prompt], Prompt, split="train", key="a")
    assert faults(tmp_path / "p") == []


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        list(find_faults(tmp_path))

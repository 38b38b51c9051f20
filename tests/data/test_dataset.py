"""Publishing, reading, compacting and splitting."""

import fcntl
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import data.dataset
import data.durable
from data.dataset import (
    Batch,
    compact,
    latest_revisions,
    open_manifest,
    publish,
    publish_many,
    read_rows,
    read_table,
    sha256_of,
    split_of,
)
from data.errors import ConfigError, DataError
from data.manifest import Part
from data.schemas import SCHEMA_VERSION, Comparison, Prompt, to_table

Make = Callable[..., Comparison]


@pytest.fixture
def rows(make_comparison: Make) -> Callable[..., list[Comparison]]:
    """`rows(3, 6)`: comparisons 3, 4 and 5."""
    return lambda start, stop: [make_comparison(number) for number in range(start, stop)]


Rows = Callable[..., list[Comparison]]


def ids(directory: Path, **split: Any) -> list[str]:
    return [row.comparison_id for row in read_rows(directory, Comparison, **split)]


# Publishing and reading


def test_manifest_says_what_was_published(tmp_path: Path, rows: Rows) -> None:
    manifest = publish(tmp_path / "new" / "ds", rows(0, 3), Comparison, split="test", key="k.1-a")
    (file,) = manifest.files
    path = tmp_path / "new" / "ds" / "test-k.1-a.parquet"
    assert (manifest.schema, manifest.schema_version) == ("comparison", SCHEMA_VERSION)
    assert (file.path, file.split, file.rows, file.key) == (path.name, "test", 3, "k.1-a")
    assert file.parts == (Part(key="k.1-a", rows=3),)
    assert (file.bytes, file.sha256) == (path.stat().st_size, sha256_of(path))
    assert open_manifest(tmp_path / "new" / "ds") == manifest
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"


def test_rows_come_in_manifest_order(tmp_path: Path, rows: Rows) -> None:
    publish(tmp_path, rows(0, 2), Comparison, split="train", key="z")
    publish(tmp_path, rows(2, 3), Comparison, split="test", key="m")
    manifest = publish(tmp_path, rows(3, 5), Comparison, split="train", key="a")
    assert read_rows(tmp_path, Comparison) == rows(0, 5)
    assert ids(tmp_path, split="train") == ["c0", "c1", "c3", "c4"]
    assert ids(tmp_path, split="validation") == []
    assert (manifest.num_rows("train"), manifest.num_rows()) == (4, 5)


def test_read_table_projects_columns(tmp_path: Path, rows: Rows) -> None:
    publish(tmp_path, rows(0, 2), Comparison, split="train", key="a")
    table = read_table(tmp_path, Comparison, columns=["turns", "comparison_id"])
    assert table.to_pydict() == {"turns": [1, 1], "comparison_id": ["c0", "c1"]}
    empty = read_table(tmp_path, Comparison, split="test", columns=["prompt"])
    assert (empty.num_rows, empty.column_names) == (0, ["prompt"])


def test_a_folder_named_like_a_partition_adds_no_column(tmp_path: Path, rows: Rows) -> None:
    publish(tmp_path / "lang=en", rows(0, 1), Comparison, split="train", key="a")
    assert "lang" not in read_table(tmp_path / "lang=en", Comparison).column_names


def test_publishing_twice_changes_nothing(tmp_path: Path, rows: Rows) -> None:
    first = publish(tmp_path, rows(0, 3), Comparison, split="train", key="a")
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert publish(tmp_path, rows(0, 3), Comparison, split="train", key="a") == first
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert {**after, ".lock": 0} == {**before, ".lock": 0}


def test_the_same_key_in_two_splits_is_two_files(tmp_path: Path, rows: Rows) -> None:
    publish(tmp_path, rows(0, 1), Comparison, split="train", key="a")
    publish(tmp_path, rows(1, 2), Comparison, split="test", key="a")
    assert ids(tmp_path) == ["c0", "c1"]


def test_a_key_never_changes_its_rows(tmp_path: Path, rows: Rows) -> None:
    publish(tmp_path, rows(0, 3), Comparison, split="train", key="a")
    for other in (rows(0, 2), rows(0, 4), rows(1, 4)):
        with pytest.raises(DataError, match="already holds other rows under the key 'a'; publish"):
            publish(tmp_path, other, Comparison, split="train", key="a")
    assert ids(tmp_path) == ["c0", "c1", "c2"]


def test_many_batches_are_published_together_or_not_at_all(tmp_path: Path, rows: Rows) -> None:
    publish(tmp_path, rows(0, 1), Comparison, split="train", key="a")
    batches = [
        Batch(split="test", key="b", rows=rows(1, 2)),
        Batch(split="train", key="a", rows=rows(2, 3)),
    ]
    with pytest.raises(DataError, match="other rows under the key 'a'"):
        publish_many(tmp_path, batches, Comparison)
    assert ids(tmp_path) == ["c0"] and not (tmp_path / "test-b.parquet").exists()
    publish_many(tmp_path, [batches[0], Batch(split="train", key="c", rows=rows(2, 3))], Comparison)
    assert ids(tmp_path) == ["c0", "c1", "c2"]


def test_values_are_checked_before_anything_is_written(
    tmp_path: Path, make_comparison: Make
) -> None:
    bad = make_comparison(1, strength="much_better")
    with pytest.raises(DataError, match="strength is 'much_better'"):
        publish(tmp_path / "ds", [make_comparison(0), bad], Comparison, split="train", key="a")
    assert not (tmp_path / "ds").exists()


@pytest.mark.parametrize("key", ["", "../x", "a/b", ".hidden", "a b", "x" * 101])
def test_keys_that_cannot_name_a_file(tmp_path: Path, rows: Rows, key: str) -> None:
    with pytest.raises(DataError, match="cannot name a file; use up to 100 letters"):
        publish(tmp_path, rows(0, 1), Comparison, split="train", key=key)


def test_a_key_twice_in_one_call(tmp_path: Path, rows: Rows) -> None:
    batch = Batch(split="train", key="a", rows=rows(0, 1))
    with pytest.raises(DataError, match="key 'a' comes twice for train; publish it once"):
        publish_many(tmp_path, [batch, batch], Comparison)


# What readers refuse


def test_directories_that_are_no_dataset(tmp_path: Path, rows: Rows) -> None:
    with pytest.raises(DataError, match=r"nowhere' is no directory; `rlhf data import` makes"):
        open_manifest(tmp_path / "nowhere")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(
        DataError, match=r"rows.jsonl' is a file, no dataset; `rlhf data import gen"
    ):
        open_manifest(tmp_path / "rows.jsonl")
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(DataError, match=r"has no manifest\.json; `rlhf data import` makes one"):
        read_rows(tmp_path, Comparison)
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        compact(tmp_path)
    assert list(tmp_path.iterdir()) == []
    publish(tmp_path / "inside", rows(0, 2), Comparison, split="train", key="a")
    with pytest.raises(DataError, match=r"has no manifest\.json; give one of .*/inside$"):
        open_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"schema_version": SCHEMA_VERSION + 1},
            "has schema_version 2; this version reads up to 1",
        ),
        ({"schema": "poem"}, "has schema 'poem'; it must be comparison, demonstration, prompt"),
        ({"files": [{"path": "a"}]}, r"is no manifest of ours \(KeyError: 'split'\); restore it"),
        ({"files": 3}, "is no manifest of ours"),
        ({"mood": "good"}, "is no manifest of ours"),
    ],
)
def test_manifests_of_others(
    tmp_path: Path, rows: Rows, change: dict[str, Any], message: str
) -> None:
    publish(tmp_path, rows(0, 1), Comparison, split="train", key="a")
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=message):
        open_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_damaged_manifests(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match="is no manifest of ours"):
        open_manifest(tmp_path)


def test_a_manifest_cannot_point_outside_its_folder(tmp_path: Path, rows: Rows) -> None:
    publish(tmp_path, rows(0, 1), Comparison, split="train", key="a")
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace("train-a.parquet", "../secret.parquet"))
    with pytest.raises(DataError, match=r"path '\.\./secret\.parquet'"):
        open_manifest(tmp_path)


def test_rows_of_another_type(tmp_path: Path, rows: Rows) -> None:
    publish(tmp_path, rows(0, 1), Comparison, split="train", key="a")
    prompt = Prompt(prompt_id="p", prompt=(), domain="safety", kind="k", source="s")
    for call in (
        lambda: read_rows(tmp_path, Prompt),
        lambda: publish(tmp_path, [prompt], Prompt, split="train", key="b"),
    ):
        with pytest.raises(
            DataError, match="holds comparisons; prompts need a dataset of their own"
        ):
            call()


def test_a_file_with_another_schema_names_the_column(tmp_path: Path, rows: Rows) -> None:
    publish(tmp_path, rows(0, 2), Comparison, split="train", key="a")
    path = tmp_path / "train-a.parquet"
    table = to_table(rows(0, 2), Comparison)
    pq.write_table(table.drop_columns(["strength"]), path)
    with pytest.raises(DataError, match="column 'strength' is missing, but should be string"):
        read_rows(tmp_path, Comparison)
    pq.write_table(table.set_column(1, "revision", pa.array(["0", "0"])), path)
    with pytest.raises(DataError, match="column 'revision' is string, but should be int64"):
        read_table(tmp_path, Comparison, columns=["turns"])
    pq.write_table(table.append_column("mood", pa.array(["a", "b"])), path)
    with pytest.raises(DataError, match="'mood' is string, but should be no column of these rows"):
        read_rows(tmp_path, Comparison)


def test_missing_and_damaged_files(tmp_path: Path, rows: Rows) -> None:
    publish(tmp_path, rows(0, 50), Comparison, split="train", key="a")
    path = tmp_path / "train-a.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"train-a\.parquet' is damaged or no Parquet file"):
        read_rows(tmp_path, Comparison)
    path.write_bytes(content[:4] + bytes(200) + content[204:])  # the footer still tells a schema
    with pytest.raises(DataError, match=r"train-a\.parquet' is damaged or no Parquet file"):
        read_rows(tmp_path, Comparison)
    path.unlink()
    with pytest.raises(DataError, match=r"is listed in manifest\.json but missing; restore it"):
        read_rows(tmp_path, Comparison)


# Compacting


def test_compact_merges_small_neighbours_of_a_split(
    tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data.dataset, "ROWS_PER_FILE", 10)
    # train files of 4, 3 and 3 rows fill one file, 9 and 1 the next; 12 is larger than a file.
    sizes = [("train", 4), ("test", 1), ("train", 3), ("train", 3), ("train", 9), ("train", 1)]
    start = 0
    for number, (split, size) in enumerate([*sizes, ("train", 12)]):
        rows_here = rows(start, start + size)
        publish(tmp_path, rows_here, Comparison, split=split, key=f"k{number}")  # type: ignore[arg-type]
        start += size
    before = {split: ids(tmp_path, split=split) for split in ("train", "test")}
    manifest = compact(tmp_path)
    assert [(file.split, file.rows) for file in manifest.files] == [
        ("train", 10),
        ("test", 1),
        ("train", 10),
        ("train", 12),
    ]
    assert [part.key for part in manifest.files[0].parts] == ["k0", "k2", "k3"]
    assert {split: ids(tmp_path, split=split) for split in before} == before
    assert {path.name for path in tmp_path.glob("*.parquet")} == {f.path for f in manifest.files}
    assert compact(tmp_path) == manifest


def test_a_compacted_key_is_still_known(tmp_path: Path, rows: Rows) -> None:
    for number in range(3):
        publish(tmp_path, rows(number, number + 1), Comparison, split="train", key=f"k{number}")
    manifest = compact(tmp_path)
    assert publish(tmp_path, rows(1, 2), Comparison, split="train", key="k1") == manifest
    with pytest.raises(DataError, match="other rows under the key 'k1'"):
        publish(tmp_path, rows(2, 3), Comparison, split="train", key="k1")
    publish(tmp_path, rows(3, 4), Comparison, split="train", key="k3")
    (file,) = compact(tmp_path).files
    assert [part.key for part in file.parts] == ["k0", "k1", "k2", "k3"]
    assert ids(tmp_path) == ["c0", "c1", "c2", "c3"]


def test_a_reader_overtaken_by_compact_reads_the_merged_file(
    tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        publish(tmp_path, rows(number, number + 1), Comparison, split="train", key=f"k{number}")
    stale = [open_manifest(tmp_path)]
    compact(tmp_path)
    monkeypatch.setattr(
        data.dataset, "open_manifest", lambda path: stale.pop() if stale else open_manifest(path)
    )
    assert ids(tmp_path) == ["c0", "c1"]
    assert stale == []


def test_one_publisher_at_a_time(
    tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, rows(0, 1), Comparison, split="train", key="a")
    monkeypatch.setattr(data.durable, "LOCK_TIMEOUT", 0.1)
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process has been writing to"):
            publish(tmp_path, rows(1, 2), Comparison, split="train", key="b")
        assert ids(tmp_path) == ["c0"]  # readers do not wait
    publish(tmp_path, rows(1, 2), Comparison, split="train", key="b")


# Splits and revisions


def test_split_of_is_stable_for_all_time() -> None:
    # Written down once: another hash would move published prompts from test to train.
    words = ["a", "b", "c", "d", "e", "f", "g", "h"]
    found = [split_of(word, validation=0.25, test=0.25, seed=0)[:2] for word in words]
    assert found == ["tr", "va", "va", "tr", "te", "va", "tr", "va"]


def test_split_shares() -> None:
    splits = Counter(split_of(f"key {n}", validation=0.1, test=0.2, seed=0) for n in range(20_000))
    # standard deviations: √(20000 · 0.1 · 0.9) = 42 and √(20000 · 0.2 · 0.8) = 57
    assert splits["validation"] == pytest.approx(2000, abs=170)
    assert splits["test"] == pytest.approx(4000, abs=230)
    assert {split_of(str(n), validation=0, test=0, seed=0) for n in range(100)} == {"train"}
    assert {split_of(str(n), validation=0, test=1, seed=0) for n in range(100)} == {"test"}


def test_another_seed_is_another_partition() -> None:
    keys = [f"key {n}" for n in range(1000)]
    first, other = ([split_of(k, validation=0.1, test=0.2, seed=s) for k in keys] for s in (0, 1))
    # both the same by chance: 0.7² + 0.2² + 0.1² = 0.54
    assert sum(a == b for a, b in zip(first, other, strict=True)) == pytest.approx(540, abs=65)


@pytest.mark.parametrize("shares", [(-0.1, 0.2), (0.5, 0.6)])
def test_impossible_shares(shares: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match=r"shares are 0 or more and together at most 1; try"):
        split_of("x", validation=shares[0], test=shares[1], seed=0)


def test_latest_revisions(make_comparison: Make) -> None:
    made = [(1, 0), (2, 0), (1, 2), (3, 1), (1, 1)]
    table = to_table([make_comparison(n, revision=r) for n, r in made], Comparison)
    left = latest_revisions(table).select(["comparison_id", "revision"]).to_pylist()
    assert [(row["comparison_id"], row["revision"]) for row in left] == [
        ("c2", 0),
        ("c1", 2),
        ("c3", 1),
    ]
    assert latest_revisions(table.slice(0, 2)).equals(table.slice(0, 2))
    assert latest_revisions(table.slice(0, 0)).num_rows == 0

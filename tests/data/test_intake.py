"""A dataset takes in what another one has published since the last time."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data.dataset import compact, publish, read_rows
from data.errors import DataError
from data.intake import count_new, take_new
from data.schemas import Comparison, Prompt, Split

Make = Callable[..., Comparison]


def publish_some(directory: Path, make: Make, numbers: range, split: Split, key: str) -> None:
    publish(directory, [make(n) for n in numbers], Comparison, split=split, key=key)


def ids(directory: Path, split: Split) -> list[str]:
    return [row.comparison_id for row in read_rows(directory, Comparison, split)]


def test_new_parts_are_taken_once(tmp_path: Path, make_comparison: Make) -> None:
    source, known = tmp_path / "source", tmp_path / "known"
    assert count_new(source, known, Comparison) == 0  # neither is there
    publish_some(source, make_comparison, range(3), "train", "monday")
    publish_some(source, make_comparison, range(3, 5), "test", "monday")
    assert count_new(source, known, Comparison) == 3 + 2
    assert take_new(source, known, Comparison).num_rows() == 5
    assert count_new(source, known, Comparison) == 0
    publish_some(source, make_comparison, range(5, 9), "train", "tuesday")
    assert count_new(source, known, Comparison) == 4
    assert ids(known, "train") == ["c0", "c1", "c2"]  # as it was, until it is asked again
    take_new(source, known, Comparison)
    assert take_new(source, known, Comparison).num_rows("train") == 3 + 4
    assert ids(known, "train") == [f"c{n}" for n in (0, 1, 2, 5, 6, 7, 8)]
    assert ids(known, "test") == ["c3", "c4"]


def test_parts_are_known_after_compaction(tmp_path: Path, make_comparison: Make) -> None:
    source, known = tmp_path / "source", tmp_path / "known"
    for key, numbers in {"a": range(2), "b": range(2, 5), "c": range(5, 6)}.items():
        publish_some(source, make_comparison, numbers, "train", key)
        if key == "a":
            take_new(source, known, Comparison)
    compact(source)
    assert count_new(source, known, Comparison) == 3 + 1
    take_new(source, known, Comparison)
    assert ids(known, "train") == [f"c{n}" for n in range(6)]
    assert count_new(source, known, Comparison) == 0


def test_other_rows_are_refused(tmp_path: Path, make_comparison: Make) -> None:
    publish(tmp_path / "prompts", [], Prompt, split="train", key="p")
    for call in (count_new, take_new):
        with pytest.raises(DataError, match="holds prompts; comparisons need a dataset"):
            call(tmp_path / "prompts", tmp_path / "known", Comparison)

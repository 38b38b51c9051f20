"""Wherever a publisher stops: readers see the old dataset or the new one, a retry completes it."""

import itertools
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data.dataset import Batch, compact, publish, publish_many, read_rows
from data.schemas import Comparison, Prompt


@pytest.fixture
def rows(make_comparison: Callable[..., Comparison]) -> Callable[..., list[Comparison]]:
    """`rows(3, 6)`: comparisons 3, 4 and 5."""
    return lambda start, stop: [make_comparison(number) for number in range(start, stop)]


Rows = Callable[..., list[Comparison]]


def ids(directory: Path, **split: Any) -> list[str]:
    return [row.comparison_id for row in read_rows(directory, Comparison, **split)]


class Crash(BaseException):
    """Stands for kill -9: no handler of ours catches it."""


@pytest.fixture
def crash_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`crash_at(n)`: the n-th fsync or rename from here on does not happen, nor any after it."""
    calls = itertools.count()
    limit = [sys.maxsize]

    def before(operation: Callable[..., Any], *arguments: Any) -> Any:
        if next(calls) >= limit[0]:
            if operation is fsync and stat.S_ISREG(os.fstat(arguments[0]).st_mode):
                os.truncate(arguments[0], 7)  # what was never synced is lost in part
            raise Crash
        return operation(*arguments)

    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda descriptor: before(fsync, descriptor))
    monkeypatch.setattr(os, "rename", lambda old, new: before(rename, old, new))

    def arm(number: int) -> None:
        nonlocal calls
        calls = itertools.count()
        limit[0] = number

    return arm


def crash_points(crash_at: Callable[[int], None], action: Callable[[], Any]) -> Iterator[int]:
    """Crashes `action` at its first, second, … step until it gets through."""
    for number in itertools.count():
        crash_at(number)
        try:
            action()
        except Crash:
            crash_at(sys.maxsize)
            yield number
        else:
            crash_at(sys.maxsize)
            return


def test_a_crash_while_publishing_loses_and_doubles_nothing(
    tmp_path: Path, rows: Rows, crash_at: Callable[[int], None]
) -> None:
    # Two files and a manifest, each: fsync, rename, fsync of the folder.
    points = 0
    directory = tmp_path / "0"
    batches = [
        Batch(split="train", key="b", rows=rows(2, 5)),
        Batch(split="test", key="b", rows=rows(5, 6)),
    ]

    def start() -> None:
        nonlocal directory
        directory = tmp_path / str(points)
        publish(directory, rows(0, 2), Comparison, split="train", key="a")

    start()
    for _ in crash_points(crash_at, lambda: publish_many(directory, batches, Comparison)):
        seen = ids(directory)  # the old rows, or the new manifest with all of them
        assert seen in (["c0", "c1"], [f"c{n}" for n in range(6)])
        publish_many(directory, batches, Comparison)
        assert ids(directory) == [f"c{n}" for n in range(6)]
        assert [path.name for path in directory.glob(".*.tmp")] == []
        points += 1
        start()
    assert points == 9


def test_a_crash_while_compacting_loses_and_doubles_nothing(
    tmp_path: Path, rows: Rows, crash_at: Callable[[int], None]
) -> None:
    for number in range(4):
        publish(tmp_path, rows(number, number + 1), Comparison, split="train", key=f"k{number}")
    points = 0
    for _ in crash_points(crash_at, lambda: compact(tmp_path)):
        assert ids(tmp_path) == ["c0", "c1", "c2", "c3"]
        points += 1
    assert points == 6  # fsync, rename, fsync of the folder: of the merged file and the manifest
    publish(tmp_path, rows(2, 3), Comparison, split="train", key="k2")
    assert ids(tmp_path) == ["c0", "c1", "c2", "c3"]


def test_strays_are_ignored_and_replaced(tmp_path: Path, rows: Rows) -> None:
    publish(tmp_path, rows(0, 1), Comparison, split="train", key="a")
    (tmp_path / "train-b.parquet").write_bytes(
        b"from a publish that was killed before its manifest"
    )
    (tmp_path / ".train-c.parquet.tmp").write_bytes(b"half a file")
    assert ids(tmp_path) == ["c0"]
    publish(tmp_path, rows(1, 2), Comparison, split="train", key="b")
    assert ids(tmp_path) == ["c0", "c1"]
    assert not (tmp_path / ".train-c.parquet.tmp").exists()


PUBLISHER = """
import itertools, sys
from pathlib import Path
from data.dataset import compact, publish
from data.schemas import Message, Prompt

for number in itertools.count():
    rows = [
        Prompt(
            prompt_id=f"{number}.{row}", prompt=(Message("user", "x" * 500),), domain="safety",
            kind="k", source="s",
        )
        for row in range(3)
    ]
    publish(Path(sys.argv[1]), rows, Prompt, split="train", key=str(number))
    if number % 7 == 6:
        compact(Path(sys.argv[1]))
    print(number, flush=True)
"""


def test_kill_9_while_publishing(tmp_path: Path) -> None:
    rng = random.Random(0)
    for _ in range(5):
        arguments = [sys.executable, "-c", PUBLISHER, str(tmp_path)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            acknowledged = [int(process.stdout.readline()) for _ in range(30)][-1]
            time.sleep(rng.uniform(0, 0.02))
            process.send_signal(signal.SIGKILL)
        published = Counter(row.prompt_id.split(".")[0] for row in read_rows(tmp_path, Prompt))
        assert set(published.values()) == {3}  # each key whole, and once
        assert sorted(map(int, published)) == list(range(len(published)))
        assert len(published) > acknowledged

"""Tables of plain records."""

import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data.records import write_records


def test_records_come_back_and_replace_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    path = tmp_path / "table.parquet"
    tables: list[list[dict[str, Any]]] = [[{"a": 1}], [{"a": 2, "b": None}, {"a": 3, "b": "y"}]]
    for records in tables:
        write_records(path, records)
        assert pq.read_table(path).to_pylist() == records
    assert len(synced) == 4  # each time the file, then its directory
    assert [file.name for file in tmp_path.iterdir()] == ["table.parquet"]

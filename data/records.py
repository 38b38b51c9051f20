"""Tables for notebooks and plots: plain records in one Parquet file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.durable import write_durably


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """A Parquet file, complete or absent; one row per record, one column per key."""
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(records)), buffer, compression="zstd")
    write_durably(path, buffer.getvalue())

"""A batch as one file for a manager, whether or not it was published."""

import io
import json
from datetime import datetime
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from annotation_app.ledger.database import Database
from annotation_app.ledger.decisions import read_decided
from annotation_app.ledger.publications import read_in_force
from annotation_app.publish import to_comparison
from data.counting import WordCounter
from data.dataset import latest_revisions
from data.schemas import Comparison, to_table

Form = Literal["Parquet", "JSON lines"]
FORMS: dict[Form, str] = {"Parquet": "parquet", "JSON lines": "jsonl"}
"""Each form and how the names of its files end."""


def export_batch(
    database: Database, manager_id: str, batch_id: str, *, form: Form, only_published: bool
) -> bytes:
    """The batch's comparisons in force, with the columns and pseudonyms of the published dataset.

    Args:
        only_published: leaves out what is not planned for the dataset yet.

    Raises:
        NotAllowed: not by a manager.
    """
    here = (database, manager_id, batch_id)
    found = read_in_force(*here, only_published=only_published)
    decided = read_decided(*here, only_published=only_published)
    counter = WordCounter()
    table = to_table([to_comparison(row, counter) for row in (*found, *decided)], Comparison)
    table = latest_revisions(table)
    return _parquet(table) if form == "Parquet" else _json_lines(table)


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _json_lines(table: pa.Table) -> bytes:
    lines = [
        json.dumps(row, ensure_ascii=False, default=datetime.isoformat) for row in table.to_pylist()
    ]
    return "".join(f"{line}\n" for line in lines).encode()

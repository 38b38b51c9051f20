"""Datasets in the form that TRL reads: JSON lines, one file for each split."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.dataset import open_manifest, read_rows
from data.durable import write_durably
from data.errors import DataError
from data.schemas import SPLITS, Comparison, Demonstration, Prompt, Strength


def export_trl(
    dataset: Path, out: Path, *, margins: Mapping[Strength, float] | None = None
) -> dict[str, int]:
    """Writes {split}.jsonl for each split that has rows.

    Comparisons become prompt, chosen and rejected, with margin where `margins` is given (0 without
    a strength); demonstrations messages; prompts prompt.

    Returns:
        Rows by split.

    Raises:
        DataError: no dataset, or one of other rows.
    """
    row_type = open_manifest(dataset).row_type
    if row_type not in (Comparison, Demonstration, Prompt):
        raise DataError(
            f"{str(dataset)!r} holds {row_type.__name__.lower()}s; TRL has a form for comparisons, "
            "demonstrations and prompts only"
        )
    out.mkdir(parents=True, exist_ok=True)
    written: dict[str, int] = {}
    for split in SPLITS:
        rows: list[Any] = read_rows(dataset, row_type, split)
        if rows:
            lines = [json.dumps(_record(row, margins), ensure_ascii=False) for row in rows]
            write_durably(out / f"{split}.jsonl", "".join(f"{x}\n" for x in lines).encode())
            written[split] = len(rows)
    return written


def _record(row: Any, margins: Mapping[Strength, float] | None) -> dict[str, Any]:
    names = {
        Comparison: ("prompt", "chosen", "rejected"),
        Demonstration: ("messages",),
        Prompt: ("prompt",),
    }[type(row)]
    record: dict[str, Any] = {
        name: [{"role": m.role, "content": m.content} for m in getattr(row, name)] for name in names
    }
    if isinstance(row, Comparison) and margins is not None:
        record["margin"] = 0.0 if row.strength is None else float(margins[row.strength])
    return record

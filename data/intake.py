"""What one dataset has published and another has not taken in yet, part by part."""

from pathlib import Path

from data.dataset import Batch, publish_many, read_table
from data.manifest import Manifest, open_or_begin
from data.schemas import SPLITS, R, Split, from_table


def count_new(source: Path, known: Path, row_type: type[R]) -> int:
    """Rows of `source` whose part `known` does not hold; 0 where nothing is published yet.

    Only the manifests are read.

    Raises:
        DataError: one of them is damaged or lists other rows.
    """
    taken = _listed(open_or_begin(known, row_type))
    published = _listed(open_or_begin(source, row_type))
    return sum(rows for part, rows in published.items() if part not in taken)


def take_new(source: Path, known: Path, row_type: type[R]) -> Manifest:
    """Publishes to `known`, at once, every part of `source` that it does not hold.

    A part is known by its split and key, and taken whole and once; `known` then stays as it is
    while `source` grows.

    Returns:
        The manifest of `known`.

    Raises:
        DataError: as `data.dataset.read_table` and `publish_many`.
    """
    taken = _listed(open_or_begin(known, row_type))
    published = _listed(open_or_begin(source, row_type))
    batches = []
    for split in SPLITS:
        # Whatever is published meanwhile comes behind these rows; `compact` keeps their order.
        table, start = read_table(source, row_type, split=split), 0
        for part, num_rows in published.items():
            if part[0] != split:
                continue
            if part not in taken:
                rows = from_table(table.slice(start, num_rows), row_type)
                batches.append(Batch(split=split, key=part[1], rows=rows))
            start += num_rows
    return publish_many(known, batches, row_type)


def _listed(manifest: Manifest) -> dict[tuple[Split, str], int]:
    """(split, key) of every published part → its rows, in reading order."""
    return {(file.split, part.key): part.rows for file in manifest.files for part in file.parts}

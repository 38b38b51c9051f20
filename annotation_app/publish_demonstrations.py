"""Approved demonstrations from the ledger to the Parquet dataset that fine-tuning reads, once."""

from pathlib import Path

from annotation_app.ledger.database import Database
from annotation_app.ledger.demonstrations import Written, plan_demonstrations
from data.dataset import Batch, publish_many
from data.manifest import open_or_begin
from data.schemas import Demonstration, Message

SOURCE = "annotators"


def publish_demonstrations(database: Database, manager_id: str, directory: Path) -> int:
    """Publishes what is approved and not in the dataset yet; returns the rows added.

    Raises:
        NotAllowed: not by a manager.
        DataError: the dataset holds something else or is damaged.
    """
    manifest = open_or_begin(directory, Demonstration)
    listed = {part.key for file in manifest.files for part in file.parts}
    new = {
        key: rows
        for key, rows in plan_demonstrations(database, manager_id).items()
        if key not in listed
    }
    batches = [
        Batch(split="train", key=key, rows=[_row(one) for one in rows]) for key, rows in new.items()
    ]
    if batches:
        publish_many(directory, batches, Demonstration)
    return sum(map(len, new.values()))


def _row(one: Written) -> Demonstration:
    return Demonstration(
        demonstration_id=one.demonstration_id,
        messages=(Message("user", one.prompt), Message("assistant", one.answer)),
        domain=one.domain,
        source=SOURCE,
    )

"""From the ledger to the Parquet dataset that training reads: exactly once.

    plan the new range in the ledger (committed) → rows of each planned part that the dataset's
    manifest does not list → data.dataset.publish_many, which is atomic

and the same for the decisions of reviewers, which become revisions of what they are based on.

A part always holds the same rows under the same key, and the manifest is the only record of what is
published. So a crash at any point, running it twice, or two publishers at a time lose and double
nothing; and a dataset that was lost is made anew from the ledger alone. A ledger restored from an
older copy may give its new rows the key of lost ones: parts that are listed are compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from annotation_app.ledger.database import Database
from annotation_app.ledger.decisions import plan_decisions, read_decisions
from annotation_app.ledger.publications import (
    PlannedPart,
    Submitted,
    Waiting,
    WorkPart,
    plan_parts,
    read_part,
    unknown_parts,
)
from data.counting import TokenCounter, WordCounter, count_messages
from data.dataset import Batch, publish_many, split_of
from data.errors import ConfigError, DataError
from data.manifest import open_or_begin
from data.schemas import SPLITS, Comparison, Judgement, Message, R, Row, Split

P = TypeVar("P", Comparison, Judgement)
A = TypeVar("A", bound=PlannedPart | WorkPart)

VALIDATION_SHARE, TEST_SHARE = 0.1, 0.1
"""Of the dialogues, by their first user turn: all turns of a dialogue are in one split."""


@dataclass(frozen=True, kw_only=True)
class PublishRule:
    """When to publish by itself: whatever comes first."""

    annotations: int = 1_000
    """Submissions that wait, edits included."""
    minutes: float = 10.0
    """Age of the oldest submission that waits."""

    def __post_init__(self) -> None:
        if self.annotations < 1 or not self.minutes > 0:
            raise ConfigError(
                f"publishing every {self.annotations} annotations or {self.minutes} minutes; "
                "give at least 1 annotation and more than 0 minutes"
            )

    def is_due(self, waiting: Waiting, now: float) -> bool:
        """Whether to publish now."""
        if waiting.submissions == 0:
            return False
        enough = waiting.submissions >= self.annotations
        return enough or now - waiting.oldest >= 60 * self.minutes


@dataclass(frozen=True, kw_only=True)
class Published:
    """What one call added."""

    rows: int
    parts: int


def publish(database: Database, manager_id: str, directory: Path) -> Published:
    """Publishes everything that the ledger holds and the dataset does not.

    Args:
        manager_id: on whose behalf.
        directory: a dataset of comparisons; made where there is none.

    Raises:
        NotAllowed: not by a manager.
        DataError: the dataset holds something else or is damaged, or is newer than the ledger.
    """
    listed = listed_parts(database, manager_id, directory, Comparison)
    parts = plan_parts(database, manager_id)
    decided = plan_decisions(database, manager_id)
    counts = [
        _publish_part(directory, part.key, read_part(database, manager_id, part), listed)
        for part in _due(parts, listed)
    ]
    counts += [
        _publish_part(directory, part.key, read_decisions(database, manager_id, part), listed)
        for part in _due(decided, listed)
    ]
    return Published(rows=sum(counts), parts=sum(count > 0 for count in counts))


def listed_parts(
    database: Database, manager_id: str, directory: Path, row_type: type[Row]
) -> dict[str, set[Split]]:
    """The parts that a dataset holds already; to be asked before new ones are planned.

    Returns:
        Their keys, and the splits that have rows of them.

    Raises:
        NotAllowed: not by a manager.
        DataError: the dataset holds something else or is damaged, or has parts of this ledger that
            the ledger knows nothing of.
    """
    manifest = open_or_begin(directory, row_type)
    listed: dict[str, set[Split]] = {}
    for file in manifest.files:
        for part in file.parts:
            listed.setdefault(part.key, set()).add(file.split)
    if unknown := unknown_parts(database, manager_id, listed):
        raise DataError(
            f"{directory} has {unknown[0]}, which this ledger never planned: it is an older copy, "
            "and its new rows would be taken for those; publish into a new directory"
        )
    return listed


def add_part(
    directory: Path,
    key: str,
    batches: Sequence[Batch[R]],
    listed: Mapping[str, set[Split]],
    row_type: type[R],
) -> int:
    """Publishes a part, or compares it where it is listed; returns the rows added.

    Raises:
        DataError: the dataset holds other rows under its key, or as `publish_many`.
    """
    if key in listed and listed[key] != {batch.split for batch in batches}:
        raise DataError(
            f"{str(directory)!r} already holds other rows under the key {key!r}; publish these "
            "into another directory"
        )
    if batches:
        publish_many(directory, batches, row_type)  # refuses other rows under the same key
    return 0 if key in listed else sum(len(batch.rows) for batch in batches)


def to_comparison(submitted: Submitted, counter: TokenCounter) -> Comparison:
    """The row that training reads."""
    chosen = submitted.responses[submitted.chosen]
    rejected = submitted.responses[1 - submitted.chosen]
    return Comparison(
        comparison_id=submitted.assignment_id,
        revision=submitted.revision,
        prompt=submitted.prompt,
        chosen=(Message("assistant", chosen.text),),
        rejected=(Message("assistant", rejected.text),),
        strength=submitted.strength,
        safety_label=submitted.safety_label,
        domain=submitted.domain,
        annotator_id=submitted.annotator,
        batch=submitted.batch_id,
        source=submitted.source,
        chosen_model=chosen.model,
        rejected_model=rejected.model,
        chosen_temperature=chosen.temperature,
        rejected_temperature=rejected.temperature,
        seconds=round(submitted.seconds, 1),
        created_at=datetime.fromtimestamp(submitted.created_at, UTC),
        turns=sum(message.role == "user" for message in submitted.prompt),
        prompt_tokens=count_messages(submitted.prompt, counter),
        chosen_tokens=counter.count(chosen.text),
        rejected_tokens=counter.count(rejected.text),
        tokenizer_hash=counter.hash,
    )


def by_split(key: str, rows: Sequence[P]) -> list[Batch[P]]:
    """A batch for each split, so that all turns of a dialogue are in one, by its first message."""
    batches: dict[str, list[P]] = {split: [] for split in SPLITS}
    for row in rows:
        first = next(message.content for message in row.prompt if message.role == "user")
        split = split_of(first, validation=VALIDATION_SHARE, test=TEST_SHARE, seed=0)
        batches[split].append(row)
    return [Batch(split=split, key=key, rows=batches[split]) for split in SPLITS if batches[split]]


def _due(parts: Sequence[A], listed: Mapping[str, object]) -> list[A]:
    """The newest of the listed parts, to be compared, and all that are not listed.

    One is enough: its rows have their times, and if older ones were lost, it was lost with them.
    """
    known = [part for part in parts if part.key in listed]
    return [*known[-1:], *(part for part in parts if part.key not in listed)]


def _publish_part(
    directory: Path, key: str, submitted: Sequence[Submitted], listed: Mapping[str, set[Split]]
) -> int:
    counter = WordCounter()
    rows = [to_comparison(row, counter) for row in submitted]
    return add_part(directory, key, by_split(key, rows), listed, Comparison)

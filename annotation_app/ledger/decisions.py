"""What reviewers decide about disputed items, and which revisions the dataset gets by it.

A decision changes nothing that annotators said: it is a row of its own, with the revisions that it
is based on. In the dataset it becomes one more revision of each of them, so that the item weighs as
much as before and says one thing.
"""

from typing import Any

from sqlalchemy import Connection, insert, select

from annotation_app.assignment import index_of
from annotation_app.judgement import Judgement, safety_label
from annotation_app.ledger.access import NotAllowed, allow, record
from annotation_app.ledger.database import Database
from annotation_app.ledger.disputes import Dispute, dispute_of, has_judged, is_swapped
from annotation_app.ledger.publications import Submitted, WorkPart, decides, plan_work, submitted_of
from annotation_app.ledger.schema import (
    assignments,
    batches,
    decisions,
    grounds,
    items,
    people,
)
from data.errors import DataError


def decide(
    database: Database, reviewer_id: str, dispute: Dispute, judgement: Judgement | None
) -> None:
    """Stores a decision; sending the same one again is harmless.

    Args:
        dispute: as it was shown.
        judgement: in the order shown; None: every opinion may stand.

    Raises:
        NotAllowed: not a reviewer, or their own work; a manager may decide on their own.
        DataError: somebody else was faster, an annotation has changed since, or the domain does
            not allow the judgement.
    """

    def change(connection: Connection) -> None:
        reviewer = allow(connection, reviewer_id, "reviewer")
        item_id = dispute.item_id
        own = connection.execute(
            select(items.c.item_id).where(items.c.item_id == item_id, has_judged(reviewer_id))
        )
        if own.one_or_none() is not None and reviewer.role != "manager":
            raise NotAllowed("nobody reviews their own work; leave it to another reviewer")
        now = dispute_of(connection, item_id)
        if judgement is not None:
            judgement.check(now.domain)
        values = _values(item_id, judgement)
        if now.number != dispute.number:
            if _is_repeated(connection, reviewer_id, dispute, values):
                return
            raise DataError("somebody has decided on this item meanwhile; go on with the next one")
        if now.revisions != dispute.revisions:
            raise DataError("an annotation of this item has changed meanwhile; look at it again")
        seconds = judgement.seconds if judgement else 0.0
        _store(connection, database.clock(), reviewer_id, now, values | {"seconds": seconds})

    database.write(change)


def decided_choices(database: Database, manager_id: str, batch_id: str) -> dict[int, int]:
    """Item → the response that the latest decision prefers: 0 or 1.

    Raises:
        NotAllowed: not a manager.
    """

    def query(connection: Connection) -> dict[int, int]:
        allow(connection, manager_id, "manager")
        of_batch = select(decisions.c.item_id, decisions.c.chosen).join(
            items, items.c.item_id == decisions.c.item_id
        )
        said = of_batch.where(items.c.batch_id == batch_id, decides())
        rows = connection.execute(said.order_by(decisions.c.decision_id))
        return {row.item_id: row.chosen for row in rows}

    return database.read(query)


def plan_decisions(database: Database, manager_id: str) -> list[WorkPart]:
    """Every part of decisions, the new one included.

    Raises:
        NotAllowed: not by a manager.
    """
    return plan_work(database, manager_id, decisions, decides())


def read_decisions(database: Database, manager_id: str, part: WorkPart) -> list[Submitted]:
    """What is published of a part: for each annotation that was decided on, its next revision.

    Raises:
        NotAllowed: not by a manager.
    """
    return _read(database, manager_id, decisions.c.part == part.part)


def read_decided(
    database: Database, manager_id: str, batch_id: str, *, only_published: bool
) -> list[Submitted]:
    """The same of a whole batch, in the order of the decisions.

    Raises:
        NotAllowed: not by a manager.
    """
    planned = decisions.c.part.is_not(None) if only_published else decides()
    return _read(database, manager_id, (items.c.batch_id == batch_id) & planned)


def _read(database: Database, manager_id: str, condition: Any) -> list[Submitted]:
    def query(connection: Connection) -> list[Submitted]:
        allow(connection, manager_id, "manager")
        rows = connection.execute(
            select(
                decisions,
                grounds.c.assignment_id,
                # Unique: a decided annotation is not edited, and each decision counts one further.
                (grounds.c.revision + decisions.c.number + 1).label("revision"),
                *(items.c.batch_id, items.c.source, items.c.prompt, items.c.responses),
                *(people.c.pseudonym, batches.c.domain),
            )
            .join(grounds, grounds.c.decision_id == decisions.c.decision_id)
            .join(assignments, assignments.c.assignment_id == grounds.c.assignment_id)
            .join(items, items.c.item_id == decisions.c.item_id)
            .join(batches, batches.c.batch_id == items.c.batch_id)
            .join(people, people.c.person_id == decisions.c.person_id)
            .where(condition, decides())
            .order_by(decisions.c.decision_id, grounds.c.assignment_id)
        )
        return [submitted_of(row) for row in rows]

    return database.read(query)


def _values(item_id: int, judgement: Judgement | None) -> dict[str, Any]:
    """A decision's columns, in the item's own order."""
    if judgement is None:
        return {"chosen": None, "strength": None, "safety_label": None, "comment": ""}
    return {
        "chosen": index_of(judgement.side, is_swapped(item_id)),
        "strength": judgement.strength,
        "safety_label": safety_label(judgement.safety),
        "comment": judgement.comment,
    }


def _is_repeated(
    connection: Connection, reviewer_id: str, dispute: Dispute, values: dict[str, Any]
) -> bool:
    query = select(decisions).where(
        decisions.c.item_id == dispute.item_id, decisions.c.number == dispute.number
    )
    row = connection.execute(query).one()
    stored = {name: row._mapping[name] for name in values}
    return bool(row.person_id == reviewer_id and stored == values)


def _store(
    connection: Connection, at: float, reviewer_id: str, dispute: Dispute, values: dict[str, Any]
) -> None:
    key = {"item_id": dispute.item_id, "number": dispute.number}
    new = insert(decisions).values(**key, **values, person_id=reviewer_id, created_at=at)
    decision_id = connection.execute(new.returning(decisions.c.decision_id)).scalar_one()
    rows = [{"assignment_id": a, "revision": r} for a, r in dispute.revisions]
    connection.execute(insert(grounds), [row | {"decision_id": decision_id} for row in rows])
    detail = {"based_on": dict(dispute.revisions), "stands": values["chosen"] is None}
    record(connection, at, reviewer_id, "decide", f"item {dispute.item_id}", **detail)

"""What one person has done, and the view of an assignment that they are allowed."""

from typing import Any

from sqlalchemy import Connection, exists, func, select

from annotation_app.assignment import index_of, side_of
from annotation_app.judgement import Judgement, safety_shown
from annotation_app.ledger.access import NotAllowed, allow
from annotation_app.ledger.database import Database
from annotation_app.ledger.rows import Done, View, messages_of, responses_of
from annotation_app.ledger.schema import assignments, batches, grounds, items, submissions
from data.errors import DataError

DECIDED = "a reviewer has decided on this item; it is not edited any more"


def recent(database: Database, person_id: str, limit: int = 20) -> list[Done]:
    """One's own latest annotations, newest first.

    Raises:
        NotAllowed: an unknown or paused person.
    """

    def query(connection: Connection) -> list[Done]:
        allow(connection, person_id, "annotator")
        rows = connection.execute(
            select_submissions()
            .add_columns(is_decided().label("decided"))
            .where(assignments.c.person_id == person_id)
            .order_by(submissions.c.sequence.desc())
            .limit(limit)
        )
        return [
            Done(
                assignment_id=row.assignment_id,
                batch_id=row.batch_id,
                question=messages_of(row.prompt)[-1].content,
                judgement=judgement_of(row),
                revision=row.revision,
                created_at=row.created_at,
                decided=row.decided,
            )
            for row in rows
        ]

    return database.read(query)


def open_for_edit(database: Database, person_id: str, assignment_id: str) -> View:
    """One's own submitted assignment with the latest judgement, to be revised.

    Raises:
        NotAllowed: an unknown or paused person, or somebody else's assignment.
        DataError: it was never submitted, or a reviewer has decided on it.
    """

    def query(connection: Connection) -> View:
        allow(connection, person_id, "annotator")
        own_assignment(connection, person_id, assignment_id)
        row = connection.execute(
            select_submissions()
            .add_columns(is_decided().label("decided"))
            .where(assignments.c.assignment_id == assignment_id)
        ).one_or_none()
        if row is None:
            raise DataError("this item has no submission yet; there is nothing to edit")
        if row.decided:
            raise DataError(DECIDED)
        return view_of(connection, assignment_id, row.revision + 1, judgement_of(row))

    return database.read(query)


def latest_revision(connection: Connection, assignment_id: str) -> int:
    """The highest revision of an assignment; −1 for none."""
    query = select(func.max(submissions.c.revision))
    found = connection.execute(query.where(submissions.c.assignment_id == assignment_id)).scalar()
    return -1 if found is None else found


def own_assignment(connection: Connection, person_id: str, assignment_id: str) -> Any:
    """An assignment of this person, with its batch and domain.

    Raises:
        NotAllowed: there is none, or it is somebody else's.
    """
    query = (
        select(assignments, items.c.batch_id, items.c.prompt, items.c.responses)
        .add_columns(batches.c.domain, batches.c.live_turns, batches.c.open.label("is_open"))
        .join(items, items.c.item_id == assignments.c.item_id)
        .join(batches, batches.c.batch_id == items.c.batch_id)
        .where(assignments.c.assignment_id == assignment_id)
    )
    row = connection.execute(query).one_or_none()
    if row is None or row.person_id != person_id:
        raise NotAllowed("this item is not assigned to you; go back to the first page")
    return row


def select_submissions(every_revision: bool = False) -> Any:
    """Submissions with their assignments and items; where not all, only those none replaced."""
    query = (
        select(submissions, assignments.c.swapped, items.c.batch_id, items.c.prompt)
        .join(assignments, assignments.c.assignment_id == submissions.c.assignment_id)
        .join(items, items.c.item_id == assignments.c.item_id)
    )
    if every_revision:
        return query
    newer = submissions.alias()
    replaced = exists().where(
        newer.c.assignment_id == submissions.c.assignment_id,
        newer.c.revision > submissions.c.revision,
    )
    return query.where(~replaced)


def is_decided() -> Any:
    """The condition on `submissions` that a reviewer has decided on the annotation."""
    return exists().where(grounds.c.assignment_id == submissions.c.assignment_id)


def judgement_of(row: Any) -> Judgement:
    """A stored submission as its author saw it."""
    side = side_of(row.chosen, row.swapped)
    return Judgement(
        side=side,  # type: ignore[arg-type]
        strength=row.strength,
        safety=safety_shown(row.safety_label, side),  # type: ignore[arg-type]
        comment=row.comment,
        flag=row.flag,
        seconds=row.seconds,
    )


def view_of(
    connection: Connection,
    assignment_id: str,
    revision: int = 0,
    judgement: Judgement | None = None,
) -> View:
    """What the annotator of an assignment may see of it."""
    query = (
        select(assignments.c.swapped, items.c.prompt, items.c.responses, batches)
        .join(items, items.c.item_id == assignments.c.item_id)
        .join(batches, batches.c.batch_id == items.c.batch_id)
        .where(assignments.c.assignment_id == assignment_id)
    )
    row = connection.execute(query).one()
    texts = (
        [response.text for response in responses_of(row.responses)] if row.responses else ["", ""]
    )
    return View(
        assignment_id=assignment_id,
        batch_id=row.batch_id,
        domain=row.domain,
        prompt=messages_of(row.prompt),
        response_a=texts[index_of("A", row.swapped)],
        response_b=texts[index_of("B", row.swapped)],
        revision=revision,
        judgement=judgement,
    )

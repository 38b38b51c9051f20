"""What managers and reviewers see: who judged how, what was flagged, what happened."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select

from annotation_app.assignment import is_too_fast
from annotation_app.judgement import preference
from annotation_app.ledger.access import allow, record
from annotation_app.ledger.checks import is_no_check, rules_of
from annotation_app.ledger.database import Database
from annotation_app.ledger.history import latest_revision, select_submissions
from annotation_app.ledger.rows import View, messages_of, responses_of
from annotation_app.ledger.schema import assignments, batches, events, items, people, submissions
from data.errors import DataError
from data.schemas import STRENGTHS, SafetyLabel, Strength


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One annotation in force, for statistics."""

    item_id: int
    annotator: str
    """The pseudonym."""
    preference: int
    """4 … 1 for the item's first response, −1 … −4 for its second."""
    chose_a: bool
    """The response that was shown first, on the left."""
    strength: Strength
    safety_label: SafetyLabel | None
    seconds: float
    late: bool
    too_fast: bool
    """Handed in sooner than the batch's rules say that anybody can have read it."""


@dataclass(frozen=True, kw_only=True)
class Flagged:
    """An annotation that waits for a reviewer and is not published meanwhile."""

    view: View
    annotator: str
    flag: str
    comment: str


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of the audit trail."""

    at: float
    person_id: str
    action: str
    subject: str
    detail: str


def judged(database: Database, manager_id: str, batch_id: str) -> list[Judged]:
    """Every annotation of a batch that is in force, but for the checks, in order of submission.

    Raises:
        NotAllowed: not a manager.
    """

    def query(connection: Connection) -> list[Judged]:
        allow(connection, manager_id, "manager")
        # Not the texts: there may be a hundred thousand rows.
        columns = (
            *(assignments.c.item_id, assignments.c.swapped, people.c.pseudonym),
            *(submissions.c.chosen, submissions.c.strength, submissions.c.safety_label),
            *(submissions.c.seconds, submissions.c.late, submissions.c.revision),
            *(submissions.c.created_at, assignments.c.created_at.label("given_at")),
        )
        of_batch = _with_people().where(items.c.batch_id == batch_id, is_no_check())
        lean = of_batch.with_only_columns(*columns, maintain_column_froms=True)
        rows = connection.execute(lean.order_by(submissions.c.sequence))
        shortest = rules_of(connection, batch_id).min_seconds
        return [
            Judged(
                item_id=row.item_id,
                annotator=row.pseudonym,
                preference=preference(row.chosen, row.strength),
                chose_a=row.chosen == row.swapped,  # swapped: the second one was shown as A
                strength=row.strength,
                safety_label=row.safety_label,
                seconds=row.seconds,
                late=row.late,
                too_fast=row.revision == 0 and is_too_fast(row.given_at, row.created_at, shortest),
            )
            for row in rows
        ]

    return database.read(query)


def strength_counts(database: Database, manager_id: str) -> dict[str, dict[Strength, int]]:
    """Batch → strength → annotations in force but for checks, in the order of the batches' names.

    Raises:
        NotAllowed: not a manager.
    """

    def query(connection: Connection) -> dict[str, dict[Strength, int]]:
        allow(connection, manager_id, "manager")
        columns = (items.c.batch_id, submissions.c.strength)
        grouped = (
            select_submissions()
            .with_only_columns(*columns, func.count().label("n"), maintain_column_froms=True)
            .where(is_no_check())
            .group_by(*columns)
            .order_by(items.c.batch_id)
        )
        counts: dict[str, dict[Strength, int]] = {}
        for row in connection.execute(grouped):
            counts.setdefault(row.batch_id, dict.fromkeys(STRENGTHS, 0))[row.strength] = row.n
        return counts

    return database.read(query)


def flagged(database: Database, reviewer_id: str) -> list[Flagged]:
    """Annotations whose latest revision carries a flag, oldest first.

    Raises:
        NotAllowed: not a reviewer.
    """

    def query(connection: Connection) -> list[Flagged]:
        allow(connection, reviewer_id, "reviewer")
        waiting = _with_people().where(submissions.c.flag != "").order_by(submissions.c.sequence)
        return [_flagged(row) for row in connection.execute(waiting)]

    return database.read(query)


def release(database: Database, reviewer_id: str, assignment_id: str) -> None:
    """Takes the flag away by a new revision, which then is published like any other.

    Raises:
        NotAllowed: not a reviewer.
        DataError: there is no such flag.
    """

    def change(connection: Connection) -> None:
        allow(connection, reviewer_id, "reviewer")
        row = connection.execute(
            select(submissions).where(
                submissions.c.assignment_id == assignment_id,
                submissions.c.revision == latest_revision(connection, assignment_id),
            )
        ).one_or_none()
        if row is None or not row.flag:
            raise DataError("this annotation carries no flag (any more); reload the page")
        now = database.clock()
        values = dict(row._mapping) | {"flag": "", "revision": row.revision + 1, "created_at": now}
        del values["sequence"]
        connection.execute(insert(submissions).values(**values))
        record(connection, now, reviewer_id, "release", assignment_id, flag=row.flag)

    database.write(change)


def list_events(database: Database, manager_id: str, limit: int = 100) -> list[Event]:
    """The latest lines of the audit trail, newest first.

    Raises:
        NotAllowed: not a manager.
    """

    def query(connection: Connection) -> list[Event]:
        allow(connection, manager_id, "manager")
        rows = connection.execute(select(events).order_by(events.c.event_id.desc()).limit(limit))
        return [
            Event(
                at=row.at,
                person_id=row.person_id,
                action=row.action,
                subject=row.subject,
                detail=row.detail,
            )
            for row in rows
        ]

    return database.read(query)


def _with_people() -> Any:
    return (
        select_submissions()
        .add_columns(assignments.c.item_id, people.c.pseudonym, items.c.responses, batches.c.domain)
        .join(people, people.c.person_id == assignments.c.person_id)
        .join(batches, batches.c.batch_id == items.c.batch_id)
    )


def _flagged(row: Any) -> Flagged:
    first, second = responses_of(row.responses)
    shown = (second, first) if row.swapped else (first, second)
    view = View(
        assignment_id=row.assignment_id,
        batch_id=row.batch_id,
        domain=row.domain,
        prompt=messages_of(row.prompt),
        response_a=shown[0].text,
        response_b=shown[1].text,
        revision=row.revision,
    )
    return Flagged(view=view, annotator=row.pseudonym, flag=row.flag, comment=row.comment)

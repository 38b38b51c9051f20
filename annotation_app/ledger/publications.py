"""Which submissions form which published part: fixed in the ledger before anything is written.

A part is a range of sequence numbers. Ranges touch and never overlap, because they are planned by
one writer at a time; and what a range holds never changes, because submissions are only added. So
whoever writes a part, however often, writes the same rows.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, exists, func, insert, select, update

from annotation_app.ledger.access import allow, record
from annotation_app.ledger.checks import is_no_check
from annotation_app.ledger.database import Database
from annotation_app.ledger.rows import Response, messages_of, responses_of
from annotation_app.ledger.schema import (
    assignments,
    attacks,
    batches,
    decisions,
    demonstrations,
    evaluation_ratings,
    items,
    people,
    publications,
    publisher,
    submissions,
    version,
)
from data.schemas import Domain, Message, SafetyLabel, Strength

ROWS_PER_PART = 50_000
_WORK = (decisions, demonstrations, evaluation_ratings, attacks)
"""Tables whose rows are planned in parts by a column of their own."""


@dataclass(frozen=True, kw_only=True)
class PlannedPart:
    """Submissions `first` to `last`, both included."""

    key: str
    """Names the ledger and the range; the same in every dataset it is published to."""
    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """One revision of one annotation with everything that is published of it."""

    assignment_id: str
    revision: int
    batch_id: str
    domain: Domain
    source: str
    prompt: tuple[Message, ...]
    responses: tuple[Response, Response]
    chosen: int
    strength: Strength
    safety_label: SafetyLabel | None
    annotator: str
    seconds: float
    created_at: float


@dataclass(frozen=True, kw_only=True)
class WorkPart:
    """Work of a kind other than comparisons that is published together."""

    key: str
    """Names the ledger, the kind and the part; the same in every dataset it is published to."""
    part: int


def plan_parts(database: Database, manager_id: str) -> list[PlannedPart]:
    """Puts what is new into a planned part, and returns every part there is, in order.

    Raises:
        NotAllowed: not by a manager.
    """

    def change(connection: Connection) -> None:
        allow(connection, manager_id, "manager")
        planned, newest = _ends(connection)
        for first in range(planned + 1, newest + 1, ROWS_PER_PART):
            last = min(first + ROWS_PER_PART - 1, newest)
            now = database.clock()
            connection.execute(insert(publications).values(first=first, last=last, created_at=now))
            record(connection, now, manager_id, "plan part", f"{first}-{last}")

    def query(connection: Connection) -> list[PlannedPart]:
        allow(connection, manager_id, "manager")
        return _planned(connection, _ledger_id(connection))

    planned, newest = database.read(_ends)
    if newest > planned:  # else annotators need not wait for a writer
        database.write(change)
    return database.read(query)


def plan_work(
    database: Database, manager_id: str, table: Table, is_done: ColumnElement[bool]
) -> list[WorkPart]:
    """Puts what is done and in no part yet into a new part, and returns every part, in order.

    What is done never changes, so a part always holds the same rows.

    Args:
        table: with a column `part`; its name begins the keys.

    Raises:
        NotAllowed: not by a manager.
    """
    new = table.c.part.is_(None) & is_done

    def change(connection: Connection) -> None:
        allow(connection, manager_id, "manager")
        last = connection.execute(select(func.max(table.c.part))).scalar() or 0
        if connection.execute(update(table).where(new).values(part=last + 1)).rowcount:
            now = database.clock()
            record(connection, now, manager_id, f"plan {table.name}", str(last + 1))

    def query(connection: Connection) -> list[WorkPart]:
        allow(connection, manager_id, "manager")
        return _planned_work(connection, _ledger_id(connection), table)

    some = select(table.c.part).where(new).limit(1)
    if database.read(lambda connection: connection.execute(some).first()) is not None:
        database.write(change)  # else annotators need not wait for a writer
    return database.read(query)


def unknown_parts(database: Database, manager_id: str, listed: Iterable[str]) -> list[str]:
    """Keys of this ledger under which it has planned nothing: it is an older copy of itself.

    What it plans next could get the key of a part that a dataset has already, with other rows.

    Args:
        listed: keys that a dataset held before this call, since parts are planned first.

    Raises:
        NotAllowed: not by a manager.
    """

    def query(connection: Connection) -> list[str]:
        allow(connection, manager_id, "manager")
        ledger_id = _ledger_id(connection)
        known = {part.key for part in _planned(connection, ledger_id)}
        for table in _WORK:
            known |= {part.key for part in _planned_work(connection, ledger_id, table)}
        return sorted(key for key in listed if f"-{ledger_id}-" in key and key not in known)

    return database.read(query)


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """What is not planned yet."""

    submissions: int
    """Decisions of reviewers count too."""
    oldest: float
    """When the first of them was made; seconds since 1970, and the present for none."""


def waiting(database: Database, manager_id: str) -> Waiting:
    """How much waits for being published, and since when.

    Raises:
        NotAllowed: not a manager.
    """

    def query(connection: Connection) -> Waiting:
        allow(connection, manager_id, "manager")
        planned, newest = _ends(connection)
        first = select(submissions.c.created_at).where(submissions.c.sequence > planned)
        oldest = connection.execute(first.order_by(submissions.c.sequence).limit(1)).scalar()
        unplanned = decisions.c.part.is_(None) & decides()
        decided = select(func.count(), func.min(decisions.c.created_at)).where(unplanned)
        count, since = connection.execute(decided).one()
        times = [at for at in (oldest, since) if at is not None]
        now = database.clock()
        return Waiting(submissions=newest - planned + count, oldest=min(times, default=now))

    return database.read(query)


def take_turn(database: Database, manager_id: str, holder: str, seconds: float) -> bool:
    """Whether `holder` is the one that publishes by itself, from now on for so many seconds.

    Two at a time would do no harm, but the same work twice.

    Raises:
        NotAllowed: not by a manager.
    """

    def change(connection: Connection) -> bool:
        allow(connection, manager_id, "manager")
        now = database.clock()
        # A turn never lasts longer than what is asked for: so a clock that jumped ends none late.
        free = (publisher.c.until <= now) | (publisher.c.until > now + seconds)
        mine = publisher.c.holder == holder
        taken = update(publisher).where(free | mine).values(holder=holder, until=now + seconds)
        return connection.execute(taken).rowcount == 1

    return database.write(change)


def read_part(database: Database, manager_id: str, part: PlannedPart) -> list[Submitted]:
    """What is published of a part: all its submissions but flagged ones and checks.

    Raises:
        NotAllowed: not by a manager.
    """

    def query(connection: Connection) -> list[Submitted]:
        allow(connection, manager_id, "manager")
        rows = connection.execute(
            _select_submitted()
            .where(submissions.c.sequence.between(part.first, part.last))
            .order_by(submissions.c.sequence)
        )
        return [submitted_of(row) for row in rows]

    return database.read(query)


def read_in_force(
    database: Database, manager_id: str, batch_id: str, *, only_published: bool
) -> list[Submitted]:
    """The latest revision of each annotation of a batch but flagged ones and checks; audited.

    Args:
        only_published: as if there were nothing but what is planned for the dataset.

    Raises:
        NotAllowed: not by a manager.
    """

    def change(connection: Connection) -> None:
        allow(connection, manager_id, "manager")
        detail = {"only_published": only_published}
        record(connection, database.clock(), manager_id, "export", batch_id, **detail)

    def query(connection: Connection) -> list[Submitted]:
        allow(connection, manager_id, "manager")
        planned, newest = _ends(connection)
        last = planned if only_published else newest
        newer = submissions.alias()
        replaced = exists().where(
            newer.c.assignment_id == submissions.c.assignment_id,
            newer.c.revision > submissions.c.revision,
            newer.c.sequence <= last,
            *([newer.c.flag == ""] if only_published else []),  # a flagged one is never published
        )
        rows = connection.execute(
            _select_submitted()
            .where(items.c.batch_id == batch_id, submissions.c.sequence <= last, ~replaced)
            .order_by(submissions.c.sequence)
        )
        return [submitted_of(row) for row in rows]

    database.write(change)  # apart from the query, which would keep annotators waiting
    return database.read(query)


def decides() -> ColumnElement[bool]:
    """The condition that a reviewer's decision changes the dataset: opinions may stand, too."""
    return decisions.c.chosen.is_not(None)


def _ledger_id(connection: Connection) -> str:
    return str(connection.execute(select(version.c.ledger_id)).scalar_one())


def _planned(connection: Connection, ledger_id: str) -> list[PlannedPart]:
    rows = connection.execute(select(publications).order_by(publications.c.first))
    return [
        PlannedPart(
            key=f"ledger-{ledger_id}-{row.first:09}-{row.last:09}", first=row.first, last=row.last
        )
        for row in rows
    ]


def _planned_work(connection: Connection, ledger_id: str, table: Table) -> list[WorkPart]:
    planned = select(table.c.part).where(table.c.part.is_not(None)).distinct()
    parts = connection.execute(planned.order_by(table.c.part)).scalars()
    return [WorkPart(key=f"{table.name}-{ledger_id}-{part:06}", part=part) for part in parts]


def _select_submitted() -> Any:
    """Submissions with everything that is published of them."""
    return (
        select(
            submissions,
            items.c.batch_id,
            items.c.source,
            items.c.prompt,
            items.c.responses,
            people.c.pseudonym,
            batches.c.domain,
        )
        .join(assignments, assignments.c.assignment_id == submissions.c.assignment_id)
        .join(people, people.c.person_id == assignments.c.person_id)
        .join(items, items.c.item_id == assignments.c.item_id)
        .join(batches, batches.c.batch_id == items.c.batch_id)
        .where(submissions.c.flag == "", is_no_check())
    )


def _ends(connection: Connection) -> tuple[int, int]:
    """The last submission that is planned, and the last one that there is."""
    planned = connection.execute(select(func.max(publications.c.last))).scalar() or 0
    newest = connection.execute(select(func.max(submissions.c.sequence))).scalar() or 0
    return planned, newest


def submitted_of(row: Any) -> Submitted:
    """From a row with columns of these names."""
    return Submitted(
        assignment_id=row.assignment_id,
        revision=row.revision,
        batch_id=row.batch_id,
        domain=row.domain,
        source=row.source,
        prompt=messages_of(row.prompt),
        responses=responses_of(row.responses),
        chosen=row.chosen,
        strength=row.strength,
        safety_label=row.safety_label,
        annotator=row.pseudonym,
        seconds=row.seconds,
        created_at=row.created_at,
    )

"""Items whose answer is known, mixed in among the others, and the rules of a batch about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from annotation_app.ledger.access import allow, record
from annotation_app.ledger.database import Database
from annotation_app.ledger.rows import CHECK_KINDS, Check, CheckKind
from annotation_app.ledger.schema import assignments, batches, checks, items, people, submissions
from annotation_app.ledger.schema import rules as rules_table
from data.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How carefully a batch is watched."""

    check_share: float = 0.0
    """Chance that an annotator is given a check instead of the next item, while there are some."""
    min_seconds: float = 3.0
    """Answers that come sooner count as too fast: nobody reads two responses in less."""

    def __post_init__(self) -> None:
        if not (0 <= self.check_share <= 0.5 and 0 <= self.min_seconds <= 600):
            raise DataError(
                f"a share of checks of {self.check_share} and {self.min_seconds} s; give a share "
                "from 0 to 0.5 and 0 to 600 seconds"
            )


@dataclass(frozen=True, kw_only=True)
class BatchChecks:
    """A batch's rules, and how many checks they have to draw from."""

    batch_id: str
    rules: Rules
    counts: Mapping[CheckKind, int]


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One answer to a check: the first one, for edits may come after a talk."""

    annotator: str
    """The pseudonym."""
    kind: CheckKind
    right: bool


def set_rules(database: Database, manager_id: str, batch_id: str, rules: Rules) -> None:
    """Changes the rules of a batch, from its next item on.

    Raises:
        NotAllowed: not by a manager.
        DataError: no such batch.
    """

    def change(connection: Connection) -> None:
        allow(connection, manager_id, "manager")
        known = select(batches.c.batch_id).where(batches.c.batch_id == batch_id)
        if connection.execute(known).one_or_none() is None:
            raise DataError(f"there is no batch {batch_id!r}; check the name")
        values = vars(rules)
        here = update(rules_table).where(rules_table.c.batch_id == batch_id)
        if not connection.execute(here.values(**values)).rowcount:
            connection.execute(insert(rules_table).values(batch_id=batch_id, **values))
        record(connection, database.clock(), manager_id, "set rules", batch_id, **values)

    database.write(change)


def list_checks(database: Database, manager_id: str) -> list[BatchChecks]:
    """Every batch's rules and checks, in the order of creation.

    Raises:
        NotAllowed: not a manager.
    """

    def query(connection: Connection) -> list[BatchChecks]:
        allow(connection, manager_id, "manager")
        grouped = select(checks.c.batch_id, checks.c.kind, func.count().label("n"))
        rows = connection.execute(grouped.group_by(checks.c.batch_id, checks.c.kind))
        counts = {(row.batch_id, row.kind): row.n for row in rows}
        ordered = select(batches.c.batch_id).order_by(batches.c.created_at, batches.c.batch_id)
        return [
            BatchChecks(
                batch_id=batch_id,
                rules=rules_of(connection, batch_id),
                counts={kind: counts.get((batch_id, kind), 0) for kind in CHECK_KINDS},
            )
            for batch_id in connection.execute(ordered).scalars()
        ]

    return database.read(query)


def checked(database: Database, manager_id: str, batch_id: str) -> list[Checked]:
    """Every answer to the checks of a batch, in the order of submission.

    Raises:
        NotAllowed: not a manager.
    """

    def query(connection: Connection) -> list[Checked]:
        allow(connection, manager_id, "manager")
        rows = connection.execute(
            select(people.c.pseudonym, checks.c.kind, checks.c.answer, submissions.c.chosen)
            .select_from(checks)
            .join(assignments, assignments.c.item_id == checks.c.item_id)
            .join(submissions, submissions.c.assignment_id == assignments.c.assignment_id)
            .join(people, people.c.person_id == assignments.c.person_id)
            .where(checks.c.batch_id == batch_id, submissions.c.revision == 0)
            .order_by(submissions.c.sequence)
        )
        return [
            Checked(annotator=row.pseudonym, kind=row.kind, right=row.chosen == row.answer)
            for row in rows
        ]

    return database.read(query)


def add_checks(connection: Connection, batch_id: str, named: Mapping[str, Check]) -> int:
    """Makes items that were just added to a batch its checks; returns how many."""
    query = select(items.c.name, items.c.item_id).where(items.c.batch_id == batch_id)
    rows = [
        {"item_id": row.item_id, "batch_id": batch_id} | vars(named[row.name])
        for row in (connection.execute(query) if named else ())
        if row.name in named
    ]
    if rows:
        connection.execute(insert(checks), rows)
    return len(rows)


def rules_of(connection: Connection, batch_id: str) -> Rules:
    """The rules of a batch; the defaults where nobody set any."""
    query = select(rules_table.c.check_share, rules_table.c.min_seconds)
    row = connection.execute(query.where(rules_table.c.batch_id == batch_id)).one_or_none()
    return Rules() if row is None else Rules(**row._mapping)


def check_kind(connection: Connection, item_id: int) -> CheckKind | None:
    """What an item whose answer is known is asked for; None for any other item."""
    query = select(checks.c.kind).where(checks.c.item_id == item_id)
    kind: CheckKind | None = connection.execute(query).scalar_one_or_none()
    return kind


def is_no_check() -> Any:
    """The condition on `items` that keeps checks out of statistics and of what is published."""
    return items.c.item_id.not_in(select(checks.c.item_id))


def select_checks(batch_id: str, kinds: Sequence[CheckKind]) -> Any:
    """Ids of an open batch's checks of these kinds, from `items`."""
    query = (
        select(items.c.item_id)
        .join(checks, checks.c.item_id == items.c.item_id)
        .join(batches, batches.c.batch_id == checks.c.batch_id)
    )
    return query.where(
        checks.c.batch_id == batch_id, checks.c.kind.in_(kinds), batches.c.open.is_(True)
    )

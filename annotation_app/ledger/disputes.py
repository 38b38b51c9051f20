"""Items on which annotators disagree, as a reviewer may see them: without names.

An item is disputed when all who were to judge it have, and their answers lie two levels or more
apart (`judgement.DISPUTE`). Flagged answers wait for their release first; checks have an answer.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, case, exists, func, or_, select

from annotation_app.assignment import index_of, shows_second_first, side_of
from annotation_app.judgement import DISPUTE, Judgement, safety_shown
from annotation_app.ledger.access import allow
from annotation_app.ledger.checks import is_no_check
from annotation_app.ledger.database import Database
from annotation_app.ledger.history import is_decided, select_submissions
from annotation_app.ledger.leases import is_held
from annotation_app.ledger.rows import Person, messages_of, responses_of
from annotation_app.ledger.schema import assignments, batches, decisions, items, submissions
from data.schemas import STRENGTHS, Domain, Message


@dataclass(frozen=True, kw_only=True)
class Dispute:
    """All that a reviewer may know of an item."""

    item_id: int
    number: int
    """How many decisions on it came before: more than 0 where somebody judged it after one."""
    batch_id: str
    domain: Domain
    prompt: tuple[Message, ...]
    response_a: str
    """In an order of the item's own: always the same, and not that of the models."""
    response_b: str
    opinions: tuple[Judgement, ...]
    """As if each annotator had seen this order; in the order of submission."""
    revisions: tuple[tuple[str, int], ...]
    """Assignment and revision of each opinion: what a decision is based on."""

    @property
    def swapped(self) -> bool:
        """Whether the item's second response is shown as A."""
        return is_swapped(self.item_id)


def is_swapped(item_id: int) -> bool:
    """Whether reviewers see the item's second response as A."""
    return shows_second_first(f"decision-{item_id}")


def count_disputes(database: Database, reviewer_id: str) -> dict[str, int]:
    """Batch → disputed items for this reviewer, by name; batches without any are left out.

    Raises:
        NotAllowed: not a reviewer.
    """

    def query(connection: Connection) -> dict[str, int]:
        reviewer = allow(connection, reviewer_id, "reviewer")
        disputed = _disputed(reviewer, database.clock()).subquery()
        counted = select(disputed.c.batch_id, func.count().label("n"))
        rows = connection.execute(counted.group_by("batch_id").order_by("batch_id"))
        return {row.batch_id: row.n for row in rows}

    return database.read(query)


def next_dispute(database: Database, reviewer_id: str, batch_id: str) -> Dispute | None:
    """The item to decide on; None where there is none.

    Each reviewer has an order of their own, always the same, so that two do not meet at every item.

    Raises:
        NotAllowed: not a reviewer.
    """

    def query(connection: Connection) -> Dispute | None:
        reviewer = allow(connection, reviewer_id, "reviewer")
        found = connection.execute(_disputed(reviewer, database.clock(), batch_id))
        ids = [row.item_id for row in found]
        if not ids:
            return None
        return dispute_of(connection, min(ids, key=lambda item: _place(reviewer_id, item)))

    return database.read(query)


def dispute_of(connection: Connection, item_id: int) -> Dispute:
    """An item with every opinion in force, disputed or not."""
    query = select(items, batches.c.domain).join(batches, batches.c.batch_id == items.c.batch_id)
    row = connection.execute(query.where(items.c.item_id == item_id)).one()
    first, second = responses_of(row.responses)
    swapped = is_swapped(item_id)
    opinions = connection.execute(_in_force(item_id)).all()
    number = select(func.count()).where(decisions.c.item_id == item_id)
    return Dispute(
        item_id=item_id,
        number=connection.execute(number).scalar_one(),
        batch_id=row.batch_id,
        domain=row.domain,
        prompt=messages_of(row.prompt),
        response_a=(first, second)[index_of("A", swapped)].text,
        response_b=(first, second)[index_of("B", swapped)].text,
        opinions=tuple(_opinion(one, swapped) for one in opinions),
        revisions=tuple((one.assignment_id, one.revision) for one in opinions),
    )


def has_judged(person_id: str) -> Any:
    """The condition on `items` that this person has handed in an answer of their own."""
    theirs = assignments.alias()
    return exists().where(
        theirs.c.item_id == items.c.item_id,
        theirs.c.person_id == person_id,
        theirs.c.status == "submitted",
    )


def _disputed(reviewer: Person, now: float, batch_id: str | None = None) -> Any:
    """Disputed items with an opinion that no decision has considered; None: of every batch."""
    levels = {name: level for level, name in enumerate(reversed(STRENGTHS), 1)}
    level = case(levels, value=submissions.c.strength)
    preference = case((submissions.c.chosen == 0, level), else_=-level)
    undecided = case((is_decided(), 0), else_=1)
    apart = (
        select_submissions()
        .with_only_columns(items.c.item_id, maintain_column_froms=True)
        .join(batches, batches.c.batch_id == items.c.batch_id)
        .where(submissions.c.flag == "", is_no_check())
        .where(or_(items.c.places <= 0, batches.c.open.is_(False)))
        .group_by(items.c.item_id)
        .having(func.max(preference) - func.min(preference) >= DISPUTE)
        .having(func.sum(undecided) > 0)
        .correlate(None)
    )
    if batch_id is not None:
        apart = apart.where(items.c.batch_id == batch_id)
    # Only now, for those that are left: in a large ledger most items are not disputed.
    query = select(items.c.item_id, items.c.batch_id).where(
        items.c.item_id.in_(apart), ~_under_way(now)
    )
    # As with demonstrations: the one person of a local ledger has nobody else.
    return query if reviewer.role == "manager" else query.where(~has_judged(reviewer.person_id))


def _under_way(now: float) -> Any:
    """Somebody is at the item; whoever left it longer ago than a lease lasts is not."""
    theirs = assignments.alias()
    return exists().where(theirs.c.item_id == items.c.item_id, is_held(theirs, now))


def _in_force(item_id: int) -> Any:
    mine = select_submissions().where(items.c.item_id == item_id, submissions.c.flag == "")
    return mine.order_by(submissions.c.sequence)


def _opinion(row: Any, swapped: bool) -> Judgement:
    side = side_of(row.chosen, swapped)
    return Judgement(
        side=side,  # type: ignore[arg-type]
        strength=row.strength,
        safety=safety_shown(row.safety_label, side),  # type: ignore[arg-type]
        comment=row.comment,
        seconds=row.seconds,
    )


def _place(reviewer_id: str, item_id: int) -> bytes:
    return hashlib.blake2b(f"{reviewer_id} {item_id}".encode(), digest_size=8).digest()

"""What annotators do: take an assignment, submit, revise, skip. One transaction each."""

import json
import random
import uuid
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import Connection, exists, insert, select, update

from annotation_app.assignment import (
    LEASE_SECONDS,
    index_of,
    is_late,
    is_too_fast,
    shows_second_first,
)
from annotation_app.judgement import MAX_COMMENT, Judgement, safety_label
from annotation_app.ledger.access import allow, record
from annotation_app.ledger.checks import check_kind, rules_of, select_checks
from annotation_app.ledger.database import Database
from annotation_app.ledger.history import (
    DECIDED,
    judgement_of,
    latest_revision,
    own_assignment,
    select_submissions,
    view_of,
)
from annotation_app.ledger.qualification import judge, standing_of
from annotation_app.ledger.rows import (
    CheckKind,
    Person,
    Receipt,
    Status,
    View,
    responses_of,
    reveals_model,
)
from annotation_app.ledger.schema import (
    assignments,
    batches,
    conflicts,
    grounds,
    items,
    submissions,
)
from data.errors import DataError

NAMES_ITS_MODEL = "a response names its model"
"""The flag of comparisons that were not blind."""
_CHANCE = random.SystemRandom()
_HOLDS_A_PLACE = ("open", "submitted")


def next_assignment(database: Database, person_id: str, batch_id: str) -> View | None:
    """The item to work on now: the one already open for this person, or else a new one.

    The assignment is a committed row before it is returned, so a reload, a second tab or a crash
    shows the same item with the same response on the left. Items whose lease has expired go back
    to the queue first.

    Returns:
        None where the batch has nothing (more) for this person, or is closed.

    Raises:
        NotAllowed: an unknown or paused person.
    """

    def look(connection: Connection) -> View | None:
        """Most clicks are on an item that is there already; they wait for no writer."""
        allow(connection, person_id, "annotator")
        own = _own_open(connection, person_id, batch_id)
        if own is None or _is_ending(own, database.clock()):
            return None
        return view_of(connection, own.assignment_id)

    def change(connection: Connection) -> View | None:
        person = allow(connection, person_id, "annotator")
        now = database.clock()
        own = _own_open(connection, person_id, batch_id)
        if own is not None:
            _extend(connection, own, now)
            return view_of(connection, own.assignment_id)
        _expire(connection, now)
        item_id = _next_item(connection, person, batch_id)
        if item_id is None:
            return None
        assignment_id = _assign(connection, person_id, item_id, now)
        record(connection, now, person_id, "assign", assignment_id, item=item_id)
        return view_of(connection, assignment_id)

    return database.read(look) or database.write(change)


def submit(
    database: Database, person_id: str, assignment_id: str, revision: int, judgement: Judgement
) -> Receipt:
    """Stores a judgement; (assignment, revision) is the key, so sending it again is harmless.

    The same key with another judgement is kept as a conflict. Work that comes after its lease is
    kept and marked late, even if somebody else has meanwhile been given the item.

    Args:
        revision: 0 at first, then one more than the latest.

    Raises:
        NotAllowed: an unknown or paused person, or somebody else's assignment.
        DataError: a judgement that the domain does not allow, a revision out of order, or an edit
            after a reviewer's decision.
        LedgerUnavailable: not committed; nothing was stored.
    """

    def change(connection: Connection) -> Receipt:
        person = allow(connection, person_id, "annotator")
        row = own_assignment(connection, person_id, assignment_id)
        judgement.check(row.domain)
        if row.responses is None:
            raise DataError("this item has no responses yet; wait until they are sampled")
        said = judgement
        if not said.flag and reveals_model(responses_of(row.responses)):
            said = replace(said, flag=NAMES_ITS_MODEL)
        stored = _submission(connection, assignment_id, revision)
        if stored is not None:
            return _repeated(connection, database.clock(), row, stored, said)
        if revision and _is_decided(connection, assignment_id):
            raise DataError(DECIDED)
        if revision != latest_revision(connection, assignment_id) + 1:
            raise DataError(f"revision {revision} does not follow the latest one; load it again")
        receipt = _store(connection, database.clock(), row, revision, said)
        if check_kind(connection, row.item_id) == "qualification":
            judge(connection, database.clock(), person, row.batch_id)
        return receipt

    return database.write(change)


def skip(database: Database, person_id: str, assignment_id: str, reason: str) -> None:
    """Gives an item back with a reason; this person does not see it again.

    Raises:
        NotAllowed: an unknown or paused person, or somebody else's assignment.
        DataError: no reason, or it was submitted already.
    """
    if not reason.strip() or len(reason) > MAX_COMMENT or "\0" in reason:
        raise DataError(f"a skip needs a reason of 1 to {MAX_COMMENT:,} characters; give one")

    def change(connection: Connection) -> None:
        allow(connection, person_id, "annotator")
        row = own_assignment(connection, person_id, assignment_id)
        if row.status == "skipped":
            return
        if row.status == "submitted":
            raise DataError("this item was submitted already; edit it under 'My recent work'")
        _move(connection, row, "skipped", skip_reason=reason)
        record(connection, database.clock(), person_id, "skip", assignment_id, reason=reason)

    database.write(change)


def _own_open(connection: Connection, person_id: str, batch_id: str) -> Any:
    query = (
        select(assignments.c.assignment_id, assignments.c.lease_until)
        .join(items, items.c.item_id == assignments.c.item_id)
        .where(assignments.c.person_id == person_id, assignments.c.status == "open")
        .where(items.c.batch_id == batch_id)
        # Several, where two tabs each began a dialogue: one after the other.
        .order_by(assignments.c.created_at, assignments.c.assignment_id)
        .limit(1)
    )
    return connection.execute(query).one_or_none()


def _is_ending(own: Any, now: float) -> bool:
    return bool(own.lease_until < now + LEASE_SECONDS / 2)


def _extend(connection: Connection, own: Any, now: float) -> None:
    """Whoever still looks at an item keeps it; not at every click, since a commit costs a sync."""
    if _is_ending(own, now):
        here = update(assignments).where(assignments.c.assignment_id == own.assignment_id)
        connection.execute(here.values(lease_until=now + LEASE_SECONDS))


def _expire(connection: Connection, now: float) -> None:
    longest = now + LEASE_SECONDS  # what a clock that jumped back since has made longer, is cut
    here = (assignments.c.status == "open", assignments.c.lease_until > longest)
    connection.execute(update(assignments).where(*here).values(lease_until=longest))
    query = select(assignments, items.c.batch_id).join(
        items, items.c.item_id == assignments.c.item_id
    )
    overdue = query.where(assignments.c.status == "open", assignments.c.lease_until < now)
    for row in connection.execute(overdue).all():
        _move(connection, row, "expired")
        record(connection, now, row.person_id, "expire", row.assignment_id)


def _next_item(connection: Connection, person: Person, batch_id: str) -> int | None:
    """A check for newcomers; for others the next item, or now and then a check instead of it."""
    verdict = standing_of(connection, person, batch_id).verdict
    if verdict != "passed":
        kinds: tuple[CheckKind, ...] = ("qualification",) if verdict == "open" else ()
        return _unseen_check(connection, person.person_id, batch_id, kinds)
    item_id = _free_item(connection, person.person_id, batch_id)
    if item_id is not None and rules_of(connection, batch_id).check_share > _CHANCE.random():
        kinds = ("gold", "attention")
        return _unseen_check(connection, person.person_id, batch_id, kinds) or item_id
    return item_id


def _free_item(connection: Connection, person_id: str, batch_id: str) -> int | None:
    """The first item with a place that this person has neither judged nor skipped."""
    query = (
        select(items.c.item_id)
        .join(batches, batches.c.batch_id == items.c.batch_id)
        .where(items.c.batch_id == batch_id, batches.c.open.is_(True))
        .where(items.c.places > 0, ~_seen_by(person_id))
        .order_by(items.c.item_id)
        .limit(1)
    )
    return connection.execute(query).scalar()


def _unseen_check(
    connection: Connection, person_id: str, batch_id: str, kinds: tuple[CheckKind, ...]
) -> int | None:
    """The batch's first check of these kinds that this person has neither answered nor skipped."""
    unseen = select_checks(batch_id, kinds).where(~_seen_by(person_id))
    return connection.execute(unseen.order_by(items.c.item_id).limit(1)).scalar()


def _seen_by(person_id: str) -> Any:
    return exists().where(
        assignments.c.item_id == items.c.item_id,
        assignments.c.person_id == person_id,
        assignments.c.status != "expired",
    )


def _assign(connection: Connection, person_id: str, item_id: int, now: float) -> str:
    """A new assignment, or this person's expired one of the same item, opened again."""
    query = select(assignments, items.c.batch_id).join(
        items, items.c.item_id == assignments.c.item_id
    )
    mine = query.where(assignments.c.item_id == item_id, assignments.c.person_id == person_id)
    expired = connection.execute(mine).one_or_none()
    if expired is not None:
        _move(connection, expired, "open", lease_until=now + LEASE_SECONDS)
        return str(expired.assignment_id)
    if check_kind(connection, item_id) is None:
        taken = update(items).where(items.c.item_id == item_id)
        connection.execute(taken.values(places=items.c.places - 1))
    return new_assignment(connection, person_id, item_id, now)


def new_assignment(connection: Connection, person_id: str, item_id: int, now: float) -> str:
    """An open assignment with a fresh lease; the caller has counted its place."""
    assignment_id = uuid.uuid4().hex
    connection.execute(
        insert(assignments).values(
            assignment_id=assignment_id,
            item_id=item_id,
            person_id=person_id,
            swapped=shows_second_first(assignment_id),
            status="open",
            lease_until=now + LEASE_SECONDS,
            skip_reason="",
            created_at=now,
        )
    )
    return assignment_id


def _move(connection: Connection, row: Any, status: Status, **changes: object) -> None:
    """Changes an assignment's status, and with it the item's places and the batch's counts."""
    here = update(assignments).where(assignments.c.assignment_id == row.assignment_id)
    connection.execute(here.values(status=status, **changes))
    if check_kind(connection, row.item_id):  # no place of its own, and no part of the goal
        return
    freed = (row.status in _HOLDS_A_PLACE) - (status in _HOLDS_A_PLACE)
    if freed:
        item = update(items).where(items.c.item_id == row.item_id)
        connection.execute(item.values(places=items.c.places + freed))
    counts = {
        "num_submitted": (status == "submitted") - (row.status == "submitted"),
        "num_skipped": (status == "skipped") - (row.status == "skipped"),
    }
    if any(counts.values()):
        batch = update(batches).where(batches.c.batch_id == row.batch_id)
        connection.execute(batch.values({k: batches.c[k] + n for k, n in counts.items()}))


def _submission(connection: Connection, assignment_id: str, revision: int) -> Any:
    query = select_submissions(every_revision=True).where(
        assignments.c.assignment_id == assignment_id, submissions.c.revision == revision
    )
    return connection.execute(query).one_or_none()


def _is_decided(connection: Connection, assignment_id: str) -> bool:
    query = select(grounds.c.decision_id).where(grounds.c.assignment_id == assignment_id)
    return connection.execute(query.limit(1)).one_or_none() is not None


def _repeated(
    connection: Connection, now: float, row: Any, stored: Any, judgement: Judgement
) -> Receipt:
    if asdict(judgement_of(stored)) | {"seconds": 0} == asdict(judgement) | {"seconds": 0}:
        return Receipt(
            outcome="already saved",
            assignment_id=row.assignment_id,
            revision=stored.revision,
            late=stored.late,
        )
    connection.execute(
        insert(conflicts).values(
            assignment_id=row.assignment_id,
            revision=stored.revision,
            judgement=json.dumps(asdict(judgement), ensure_ascii=False),
            created_at=now,
        )
    )
    record(connection, now, row.person_id, "conflict", row.assignment_id, revision=stored.revision)
    return Receipt(
        outcome="kept as conflict", assignment_id=row.assignment_id, revision=stored.revision
    )


def _store(
    connection: Connection, now: float, row: Any, revision: int, judgement: Judgement
) -> Receipt:
    late = row.status == "expired" or (row.status == "open" and is_late(now, row.lease_until))
    connection.execute(
        insert(submissions).values(
            assignment_id=row.assignment_id,
            revision=revision,
            chosen=index_of(judgement.side, row.swapped),
            strength=judgement.strength,
            safety_label=safety_label(judgement.safety),
            comment=judgement.comment,
            flag=judgement.flag,
            seconds=judgement.seconds,
            late=late,
            created_at=now,
        )
    )
    _move(connection, row, "submitted")
    record(connection, now, row.person_id, "submit", row.assignment_id, revision=revision)
    min_seconds = rules_of(connection, row.batch_id).min_seconds
    return Receipt(
        outcome="saved",
        assignment_id=row.assignment_id,
        revision=revision,
        late=late,
        # Of the first answer: who edits has read it before.
        too_fast=revision == 0 and is_too_fast(row.created_at, now, min_seconds),
    )

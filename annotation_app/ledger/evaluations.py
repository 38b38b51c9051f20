"""Blind evaluation: seven points between two policies, five points for one response's safety.

Each item is rated by three people (Llama 2, sections 3.4.2 and 4.4). Like comparisons, a rating is
a committed row with its order of responses before anything is shown.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, exists, func, insert, select, update

from annotation_app.assignment import LEASE_SECONDS, index_of, shows_second_first
from annotation_app.ledger.access import NotAllowed, allow, record
from annotation_app.ledger.database import Database
from annotation_app.ledger.leases import is_held
from annotation_app.ledger.publications import WorkPart, plan_work
from annotation_app.ledger.rows import (
    NewItem,
    Response,
    messages_json,
    messages_of,
    responses_json,
)
from annotation_app.ledger.schema import evaluation_items, evaluation_ratings, people
from annotation_app.scales import SCALES, Kind
from data.errors import DataError
from data.schemas import Message

RATERS = 3


@dataclass(frozen=True, kw_only=True)
class RatingView:
    """All that a rater may know."""

    rating_id: str
    kind: Kind
    prompt: tuple[Message, ...]
    responses: tuple[str, ...]
    """A and B, or the one whose safety is rated."""


@dataclass(frozen=True, kw_only=True)
class Rated:
    """One rating, for statistics."""

    batch_id: str
    kind: Kind
    item_id: int
    models: tuple[str, ...]
    """The first and the second policy; or the one that is rated."""
    rater: str
    """The pseudonym."""
    score: int
    """pair: positive where the first policy is better, however the two were shown."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class PublishedRating:
    """What is published of a rating."""

    rating_id: str
    kind: Kind
    batch_id: str
    name: str
    """Of the item, in its batch."""
    prompt: tuple[Message, ...]
    responses: tuple[Response, ...]
    """In the order of `Rated.models`."""
    score: int
    rater: str
    """The pseudonym."""


def add_evaluation(
    database: Database, manager_id: str, batch_id: str, kind: str, new_items: Sequence[NewItem]
) -> int:
    """Adds pairs; for safety each response becomes an item of its own. Returns how many are new.

    Raises:
        NotAllowed: not by a manager.
        DataError: an unknown kind, a batch without a name, or an item without responses.
    """

    def change(connection: Connection) -> int:
        allow(connection, manager_id, "manager")
        if kind not in SCALES or not batch_id.strip() or "\0" in batch_id:
            raise DataError(f"evaluation {batch_id!r} of kind {kind!r}; give a name, and a kind")
        if any(item.check for item in new_items):
            raise DataError("evaluations have no checks; leave out the column check")
        here = evaluation_items.c
        of_batch = select(here.name).where(here.batch_id == batch_id, here.kind == kind)
        known = set(connection.execute(of_batch).scalars())
        rows = [row for item in new_items for row in _rows(item, kind) if row["name"] not in known]
        if rows:
            values = {"batch_id": batch_id, "kind": kind}
            connection.execute(insert(evaluation_items), [values | row for row in rows])
        record(connection, database.clock(), manager_id, "add evaluation", batch_id, n=len(rows))
        return len(rows)

    return database.write(change)


def next_rating(database: Database, person_id: str, kind: str) -> RatingView | None:
    """The item open for this person, or else a new one that fewer than three people hold.

    Returns:
        None where nothing is left for them.

    Raises:
        NotAllowed: an unknown or paused person.
    """

    def change(connection: Connection) -> RatingView | None:
        allow(connection, person_id, "annotator")
        now = database.clock()
        mine = _select().where(
            evaluation_ratings.c.person_id == person_id, evaluation_ratings.c.status == "open"
        )
        row = connection.execute(mine.where(evaluation_items.c.kind == kind)).first()
        if row is not None:
            lease = {"lease_until": now + LEASE_SECONDS}
            _update(connection, row.rating_id, lease)
            return _view(row)
        item_id = connection.execute(_free(person_id, kind, now)).scalar()
        if item_id is None:
            return None
        rating_id = uuid.uuid4().hex
        values = {"rating_id": rating_id, "item_id": item_id, "person_id": person_id}
        values |= {"swapped": shows_second_first(rating_id), "status": "open", "seconds": 0.0}
        values |= {"lease_until": now + LEASE_SECONDS, "created_at": now}
        connection.execute(insert(evaluation_ratings).values(**values))
        record(connection, now, person_id, "assign rating", rating_id, item=item_id)
        return _view(_own(connection, person_id, rating_id))

    return database.write(change)


def rate(database: Database, person_id: str, rating_id: str, score: int, seconds: float) -> None:
    """Stores a rating; sending the same one again is harmless.

    Args:
        score: as shown: for a pair, positive where A is better.

    Raises:
        NotAllowed: an unknown or paused person, or somebody else's rating.
        DataError: a score off the scale, or a second opinion after the first was saved.
    """

    def change(connection: Connection) -> None:
        allow(connection, person_id, "annotator")
        row = _own(connection, person_id, rating_id)
        if score not in SCALES[row.kind]:
            raise DataError(f"score is {score}; it must be one of {SCALES[row.kind]}")
        stored = -score if row.kind == "pair" and row.swapped else score
        if row.status == "rated" and row.score == stored:
            return
        if row.status != "open":
            raise DataError("this item was answered already; go on with the next one")
        now = database.clock()
        values = {"status": "rated", "score": stored, "seconds": seconds, "created_at": now}
        _update(connection, rating_id, values)
        record(connection, now, person_id, "rate", rating_id)

    database.write(change)


def skip_rating(database: Database, person_id: str, rating_id: str) -> None:
    """Gives an item to somebody else; this person does not see it again.

    Raises:
        NotAllowed: an unknown or paused person, or somebody else's rating.
        DataError: it was rated already.
    """

    def change(connection: Connection) -> None:
        allow(connection, person_id, "annotator")
        if _own(connection, person_id, rating_id).status == "rated":
            raise DataError("this item was rated already; go on with the next one")
        _update(connection, rating_id, {"status": "skipped"})
        record(connection, database.clock(), person_id, "skip rating", rating_id)

    database.write(change)


def list_ratings(database: Database, manager_id: str) -> list[Rated]:
    """Every rating there is, by batch, item and time.

    Raises:
        NotAllowed: not a manager.
    """

    def query(connection: Connection) -> list[Rated]:
        allow(connection, manager_id, "manager")
        rated = (
            _select()
            .add_columns(people.c.pseudonym)
            .join(people, people.c.person_id == evaluation_ratings.c.person_id)
            .where(evaluation_ratings.c.status == "rated")
            .order_by(evaluation_items.c.batch_id, evaluation_items.c.item_id)
            .order_by(evaluation_ratings.c.created_at)
        )
        return [
            Rated(
                batch_id=row.batch_id,
                kind=row.kind,
                item_id=row.item_id,
                models=tuple(r.model or "unknown" for r in _responses(row)),
                rater=row.pseudonym,
                score=row.score,
                seconds=row.seconds,
            )
            for row in connection.execute(rated)
        ]

    return database.read(query)


def plan_ratings(database: Database, manager_id: str) -> list[WorkPart]:
    """Every part of ratings, the new one included.

    Raises:
        NotAllowed: not by a manager.
    """
    done = evaluation_ratings.c.status == "rated"
    return plan_work(database, manager_id, evaluation_ratings, done)


def read_ratings(
    database: Database, manager_id: str, part: WorkPart, kind: Kind
) -> list[PublishedRating]:
    """What a part holds of one kind.

    Raises:
        NotAllowed: not by a manager.
    """

    def query(connection: Connection) -> list[PublishedRating]:
        allow(connection, manager_id, "manager")
        planned = (
            _select()
            .add_columns(people.c.pseudonym)
            .join(people, people.c.person_id == evaluation_ratings.c.person_id)
            .where(evaluation_ratings.c.part == part.part, evaluation_items.c.kind == kind)
            .order_by(evaluation_items.c.item_id, evaluation_ratings.c.rating_id)
        )
        return [
            PublishedRating(
                rating_id=row.rating_id,
                kind=row.kind,
                batch_id=row.batch_id,
                name=row.name,
                prompt=messages_of(row.prompt),
                responses=tuple(_responses(row)),
                score=row.score,
                rater=row.pseudonym,
            )
            for row in connection.execute(planned)
        ]

    return database.read(query)


def _rows(item: NewItem, kind: str) -> list[dict[str, str]]:
    if item.responses is None:
        raise DataError(f"item {item.name!r} has no responses; an evaluation needs both")
    prompt = messages_json(item.prompt)
    if kind == "pair":
        return [{"name": item.name, "prompt": prompt, "responses": responses_json(item.responses)}]
    return [
        {"name": f"{item.name}/{number}", "prompt": prompt, "responses": responses_json([response])}
        for number, response in enumerate(item.responses, 1)
    ]


def _select() -> Any:
    columns = [column for column in evaluation_ratings.c if column.name != "item_id"]
    return select(evaluation_items, *columns).join(
        evaluation_ratings, evaluation_ratings.c.item_id == evaluation_items.c.item_id
    )


def _free(person_id: str, kind: str, now: float) -> Any:
    """The first item that this person has not seen and fewer than three others hold."""
    of_item = evaluation_ratings.c.item_id == evaluation_items.c.item_id
    current = (evaluation_ratings.c.status == "rated") | is_held(evaluation_ratings, now)
    held = select(func.count()).where(of_item, current).correlate(evaluation_items)
    seen = exists().where(of_item, evaluation_ratings.c.person_id == person_id)
    return (
        select(evaluation_items.c.item_id)
        .where(evaluation_items.c.kind == kind, ~seen, held.scalar_subquery() < RATERS)
        .order_by(evaluation_items.c.item_id)
        .limit(1)
    )


def _own(connection: Connection, person_id: str, rating_id: str) -> Any:
    mine = _select().where(evaluation_ratings.c.rating_id == rating_id)
    row = connection.execute(mine).one_or_none()
    if row is None or row.person_id != person_id:
        raise NotAllowed("this item is not yours to rate; go back to the first page")
    return row


def _update(connection: Connection, rating_id: str, values: dict[str, Any]) -> None:
    here = update(evaluation_ratings).where(evaluation_ratings.c.rating_id == rating_id)
    connection.execute(here.values(**values))


def _responses(row: Any) -> list[Response]:
    stored = json.loads(row.responses)
    return [Response(text=t, model=m, temperature=c) for t, m, c in stored]


def _view(row: Any) -> RatingView:
    texts = [response.text for response in _responses(row)]
    if row.kind == "pair":
        texts = [texts[index_of(side, row.swapped)] for side in "AB"]
    return RatingView(
        rating_id=row.rating_id,
        kind=row.kind,
        prompt=messages_of(row.prompt),
        responses=tuple(texts),
    )

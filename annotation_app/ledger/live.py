"""Dialogues that annotators write, and responses that are sampled for them.

What a person wrote is in the ledger before a model is asked, so a failing endpoint or a crash loses
none of it. The first responses that are stored for an item stay.
"""

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, insert, select, update

from annotation_app.judgement import MAX_COMMENT
from annotation_app.ledger.access import allow, record
from annotation_app.ledger.database import Database
from annotation_app.ledger.history import latest_revision, own_assignment, view_of
from annotation_app.ledger.qualification import require_passed
from annotation_app.ledger.rows import (
    Response,
    View,
    messages_json,
    messages_of,
    responses_json,
    responses_of,
)
from annotation_app.ledger.schema import batches, items, submissions
from annotation_app.ledger.work import new_assignment
from data.errors import DataError
from data.schemas import Message

SOURCE = "annotators"
MAX_PROMPT = 4 * MAX_COMMENT


def open_dialogue(database: Database, person_id: str, batch_id: str, text: str) -> View:
    """Stores a first message and assigns its comparison to its author.

    Raises:
        NotAllowed: an unknown or paused person.
        DataError: the batch is closed or not live, or the text is empty or too long.
    """
    check_text(text)

    def change(connection: Connection) -> View:
        person = allow(connection, person_id, "annotator")
        batch = connection.execute(
            select(batches).where(batches.c.batch_id == batch_id)
        ).one_or_none()
        if batch is None or not batch.open or not batch.live_turns:
            raise DataError(f"batch {batch_id!r} takes no dialogues; choose an open live batch")
        require_passed(connection, person, batch_id)
        return _add(connection, database.clock(), person_id, batch_id, (Message("user", text),))

    return database.write(change)


def continue_dialogue(database: Database, person_id: str, assignment_id: str, text: str) -> View:
    """The next turn: after the response that this person chose.

    Raises:
        NotAllowed: an unknown or paused person, or somebody else's dialogue.
        DataError: it has no turns left, was not submitted, or the text is empty or too long.
    """
    check_text(text)

    def change(connection: Connection) -> View:
        person = allow(connection, person_id, "annotator")
        row = own_assignment(connection, person_id, assignment_id)
        require_passed(connection, person, row.batch_id)
        dialogue = _continuation(connection, row)
        if not dialogue:
            raise DataError("this dialogue cannot go on; begin a new one")
        prompt = (*dialogue, Message("user", text))
        return _add(connection, database.clock(), person_id, row.batch_id, prompt)

    return database.write(change)


def continuation(
    database: Database, person_id: str, assignment_id: str, batch_id: str
) -> tuple[Message, ...]:
    """The dialogue up to the chosen response, if it may go on and is of this batch; else nothing.

    Raises:
        NotAllowed: an unknown or paused person, or somebody else's dialogue.
    """

    def query(connection: Connection) -> tuple[Message, ...]:
        allow(connection, person_id, "annotator")
        row = own_assignment(connection, person_id, assignment_id)
        return _continuation(connection, row) if row.batch_id == batch_id else ()

    return database.read(query)


def store_responses(
    database: Database, person_id: str, assignment_id: str, responses: Sequence[Response]
) -> View:
    """Stores what was sampled for an item, unless somebody was faster; returns what to compare.

    Raises:
        NotAllowed: an unknown or paused person, or somebody else's assignment.
        DataError: not two responses with text.
    """
    if len(responses) != 2 or not all(r.text.strip() for r in responses):
        raise DataError("two responses with text are needed; sample them again")

    def change(connection: Connection) -> View:
        allow(connection, person_id, "annotator")
        row = own_assignment(connection, person_id, assignment_id)
        if row.responses is None:
            item = update(items).where(items.c.item_id == row.item_id)
            connection.execute(item.values(responses=responses_json(responses)))
            record(connection, database.clock(), person_id, "sample", assignment_id)
        return view_of(connection, assignment_id)

    return database.write(change)


def _continuation(connection: Connection, row: Any) -> tuple[Message, ...]:
    prompt = messages_of(row.prompt)
    turns = sum(message.role == "user" for message in prompt)
    if not row.is_open or row.status != "submitted" or turns >= row.live_turns:
        return ()
    query = select(submissions.c.chosen).where(
        submissions.c.assignment_id == row.assignment_id,
        submissions.c.revision == latest_revision(connection, row.assignment_id),
    )
    chosen = responses_of(row.responses)[connection.execute(query).scalar_one()]
    return (*prompt, Message("assistant", chosen.text))


def _add(
    connection: Connection, now: float, person_id: str, batch_id: str, prompt: tuple[Message, ...]
) -> View:
    values = {"batch_id": batch_id, "name": uuid.uuid4().hex, "source": SOURCE, "places": 0}
    new_item = insert(items).values(**values, prompt=messages_json(prompt))
    item_id = connection.execute(new_item.returning(items.c.item_id)).scalar_one()
    here = update(batches).where(batches.c.batch_id == batch_id)
    connection.execute(here.values(num_items=batches.c.num_items + 1))
    assignment_id = new_assignment(connection, person_id, item_id, now)
    record(connection, now, person_id, "write", assignment_id, item=item_id)
    return view_of(connection, assignment_id)


def check_text(text: str) -> None:
    """Nothing, for a message that can be stored.

    Raises:
        DataError: it is empty or too long, or holds what PostgreSQL cannot store.
    """
    if not text.strip() or len(text) > MAX_PROMPT or "\0" in text:
        raise DataError(f"write a message of 1 to {MAX_PROMPT:,} characters")

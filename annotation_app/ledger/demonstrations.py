"""Dialogues to imitate: somebody writes prompt and answer, a reviewer approves or says why not."""

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, insert, select, update

from annotation_app.judgement import MAX_COMMENT
from annotation_app.ledger.access import NotAllowed, allow, record
from annotation_app.ledger.database import Database
from annotation_app.ledger.publications import WorkPart, plan_work
from annotation_app.ledger.schema import demonstrations
from data.errors import DataError
from data.schemas import DOMAINS, Domain

MAX_TEXT = 4 * MAX_COMMENT


@dataclass(frozen=True, kw_only=True)
class Written:
    """A demonstration and what became of it; reviewers are not told who wrote it."""

    demonstration_id: str
    domain: Domain
    prompt: str
    answer: str
    status: Literal["waiting", "approved", "rejected"]
    feedback: str
    """The reviewer's, where it was rejected."""


def write_demonstration(
    database: Database,
    person_id: str,
    demonstration_id: str,
    domain: Domain,
    prompt: str,
    answer: str,
) -> None:
    """Stores a demonstration; sending the same one again is harmless.

    Raises:
        NotAllowed: an unknown or paused person, or the id is somebody else's.
        DataError: an empty or too long text, an unknown domain, or other texts under the same id.
    """

    def change(connection: Connection) -> None:
        allow(connection, person_id, "annotator")
        for name, text in (("prompt", prompt), ("answer", answer)):
            if not text.strip() or len(text) > MAX_TEXT or "\0" in text:
                raise DataError(f"the {name} must have 1 to {MAX_TEXT:,} characters; mend it")
        if domain not in DOMAINS:
            raise DataError(f"domain is {domain!r}; choose {' or '.join(DOMAINS)}")
        known = _find(connection, demonstration_id)
        if known is not None:
            if known.person_id != person_id:
                raise NotAllowed("this demonstration is not yours; begin a new one")
            if (known.domain, known.prompt, known.answer) != (domain, prompt, answer):
                raise DataError("another text was saved under this id; begin a new one")
            return
        now = database.clock()
        values = {"demonstration_id": demonstration_id, "person_id": person_id, "domain": domain}
        values |= {"prompt": prompt, "answer": answer, "status": "waiting", "feedback": ""}
        connection.execute(insert(demonstrations).values(**values, created_at=now))
        record(connection, now, person_id, "write demonstration", demonstration_id)

    database.write(change)


def own_demonstrations(database: Database, person_id: str, limit: int = 20) -> list[Written]:
    """One's own, newest first.

    Raises:
        NotAllowed: an unknown or paused person.
    """

    def query(connection: Connection) -> list[Written]:
        allow(connection, person_id, "annotator")
        mine = select(demonstrations).where(demonstrations.c.person_id == person_id)
        newest = mine.order_by(demonstrations.c.created_at.desc()).limit(limit)
        return [_written(row) for row in connection.execute(newest)]

    return database.read(query)


def waiting_demonstrations(database: Database, reviewer_id: str) -> list[Written]:
    """Those of others that nobody has reviewed, oldest first; a manager also sees their own.

    Raises:
        NotAllowed: not a reviewer.
    """

    def query(connection: Connection) -> list[Written]:
        reviewer = allow(connection, reviewer_id, "reviewer")
        there = select(demonstrations).where(demonstrations.c.status == "waiting")
        if reviewer.role != "manager":
            there = there.where(demonstrations.c.person_id != reviewer_id)
        rows = connection.execute(there.order_by(demonstrations.c.created_at))
        return [_written(row) for row in rows]

    return database.read(query)


def review_demonstration(
    database: Database, reviewer_id: str, demonstration_id: str, feedback: str
) -> None:
    """Approves, where there is nothing to say, or else rejects with the feedback.

    Raises:
        NotAllowed: not a reviewer, or a reviewer's own work; a manager may approve their own, since
            the one person of a local ledger has nobody else.
        DataError: there is none that waits, or the feedback is too long.
    """

    def change(connection: Connection) -> None:
        reviewer = allow(connection, reviewer_id, "reviewer")
        row = _find(connection, demonstration_id)
        if row is None or row.status != "waiting":
            raise DataError("this demonstration does not wait for a review; reload the page")
        if row.person_id == reviewer_id and reviewer.role != "manager":
            raise NotAllowed("nobody reviews their own work; leave it to another reviewer")
        if len(feedback) > MAX_COMMENT or "\0" in feedback:
            raise DataError(f"the feedback may have {MAX_COMMENT:,} characters; shorten it")
        status = "rejected" if feedback.strip() else "approved"
        here = update(demonstrations).where(demonstrations.c.demonstration_id == demonstration_id)
        connection.execute(here.values(status=status, feedback=feedback.strip()))
        record(connection, database.clock(), reviewer_id, status, demonstration_id)

    database.write(change)


def plan_demonstrations(database: Database, manager_id: str) -> list[WorkPart]:
    """Every part of approved demonstrations, the new one included.

    Raises:
        NotAllowed: not by a manager.
    """
    return plan_work(database, manager_id, demonstrations, demonstrations.c.status == "approved")


def read_demonstrations(database: Database, manager_id: str, part: WorkPart) -> list[Written]:
    """What a part holds.

    Raises:
        NotAllowed: not by a manager.
    """

    def query(connection: Connection) -> list[Written]:
        allow(connection, manager_id, "manager")
        planned = select(demonstrations).where(demonstrations.c.part == part.part)
        rows = connection.execute(planned.order_by(demonstrations.c.demonstration_id))
        return [_written(row) for row in rows]

    return database.read(query)


def _find(connection: Connection, demonstration_id: str) -> Any:
    here = demonstrations.c.demonstration_id == demonstration_id
    return connection.execute(select(demonstrations).where(here)).one_or_none()


def _written(row: Any) -> Written:
    return Written(
        demonstration_id=row.demonstration_id,
        domain=row.domain,
        prompt=row.prompt,
        answer=row.answer,
        status=row.status,
        feedback=row.feedback,
    )

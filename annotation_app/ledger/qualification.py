"""Newcomers answer checks first; who gets enough of them right is let in, others ask a manager.

Who has passed under one domain's guidelines has passed for all its batches.
"""

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, delete, func, insert, select

from annotation_app.ledger.access import SYSTEM, NotAllowed, allow, record
from annotation_app.ledger.database import Database
from annotation_app.ledger.rows import Person
from annotation_app.ledger.schema import (
    assignments,
    batches,
    checks,
    people,
    qualifications,
    requirements,
    submissions,
)
from data.errors import DataError
from data.schemas import DOMAINS, Domain

Verdict = Literal["open", "passed", "failed"]


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """What a batch asks of newcomers."""

    answers: int
    """Checks of the kind `qualification` that they answer first."""
    pass_share: float = 0.8
    """Of which so many have to be right."""

    def __post_init__(self) -> None:
        if not (1 <= self.answers <= 1000 and 0 < self.pass_share <= 1):
            raise DataError(
                f"{self.answers} answers of which {self.pass_share} right; give 1 to 1000 answers "
                "and a share above 0 and up to 1"
            )


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far somebody is with what a batch asks of them."""

    verdict: Verdict
    answered: int = 0
    asked: int = 0
    """0 where nothing is."""


@dataclass(frozen=True, kw_only=True)
class Qualified:
    """The latest verdict on one person under one domain's guidelines."""

    person_id: str
    domain: Domain
    verdict: Verdict
    right: int
    answered: int


def set_requirement(
    database: Database, manager_id: str, batch_id: str, requirement: Requirement | None
) -> None:
    """Changes what a batch asks of newcomers, from its next item on; None: nothing.

    Raises:
        NotAllowed: not by a manager.
        DataError: no such batch, or it has fewer such checks than it would ask.
    """

    def change(connection: Connection) -> None:
        allow(connection, manager_id, "manager")
        connection.execute(delete(requirements).where(requirements.c.batch_id == batch_id))
        values = {} if requirement is None else vars(requirement)
        if requirement is not None:
            there = _count_checks(connection, batch_id)
            if there < requirement.answers:
                raise DataError(
                    f"batch {batch_id!r} has {there} qualification checks of the "
                    f"{requirement.answers} to be answered; add some to it first"
                )
            connection.execute(insert(requirements).values(batch_id=batch_id, **values))
        record(connection, database.clock(), manager_id, "set requirement", batch_id, **values)

    database.write(change)


def requirement_of(database: Database, manager_id: str, batch_id: str) -> Requirement | None:
    """What a batch asks of newcomers.

    Raises:
        NotAllowed: not a manager.
    """

    def query(connection: Connection) -> Requirement | None:
        allow(connection, manager_id, "manager")
        return _requirement(connection, batch_id)

    return database.read(query)


def standing(database: Database, person_id: str, batch_id: str) -> Standing:
    """Where somebody stands; how many of their answers were right stays hidden.

    Raises:
        NotAllowed: an unknown or paused person.
    """
    return database.read(
        lambda connection: standing_of(
            connection, allow(connection, person_id, "annotator"), batch_id
        )
    )


def decide(
    database: Database, manager_id: str, person_id: str, domain: Domain, verdict: Verdict
) -> None:
    """A manager's verdict: `open` asks somebody again, with checks that they have not seen.

    Raises:
        NotAllowed: not by a manager.
        DataError: no such person, domain or verdict.
    """

    def change(connection: Connection) -> None:
        allow(connection, manager_id, "manager")
        known = select(people.c.person_id).where(people.c.person_id == person_id)
        there = connection.execute(known).one_or_none() is not None
        if not there or domain not in DOMAINS or verdict not in ("open", "passed", "failed"):
            raise DataError(f"{person_id!r}, {domain!r}, {verdict!r}: check the name")
        values = {"right": 0, "answered": 0, "decided_by": manager_id}
        _add_verdict(connection, database.clock(), person_id, domain, verdict, **values)

    database.write(change)


def list_qualified(database: Database, manager_id: str) -> list[Qualified]:
    """The latest verdicts, by person and domain.

    Raises:
        NotAllowed: not a manager.
    """

    def query(connection: Connection) -> list[Qualified]:
        allow(connection, manager_id, "manager")
        rows = connection.execute(select(qualifications).order_by(qualifications.c.verdict_id))
        latest = {(row.person_id, row.domain): row for row in rows}
        return [
            Qualified(
                person_id=row.person_id,
                domain=row.domain,
                verdict=row.verdict,
                right=row.right,
                answered=row.answered,
            )
            for _, row in sorted(latest.items())
        ]

    return database.read(query)


def standing_of(connection: Connection, person: Person, batch_id: str) -> Standing:
    """`standing` in the caller's transaction; reviewers and managers are no newcomers."""
    asked = _requirement(connection, batch_id)
    if asked is None or person.role != "annotator":
        return Standing(verdict="passed")
    domain = _domain(connection, batch_id)
    latest = _latest(connection, person.person_id, domain)
    if latest is not None and latest.verdict != "open":
        return Standing(verdict=latest.verdict)
    answers = _answers(connection, person.person_id, domain, latest.since if latest else 0)
    return Standing(verdict="open", answered=len(answers), asked=asked.answers)


def require_passed(connection: Connection, person: Person, batch_id: str) -> None:
    """Nothing, where somebody may work in a batch.

    Raises:
        NotAllowed: they have not passed its qualification.
    """
    if standing_of(connection, person, batch_id).verdict != "passed":
        raise NotAllowed("you have not passed the qualification for this batch yet; ask a manager")


def judge(connection: Connection, now: float, person: Person, batch_id: str) -> None:
    """After an answer: the verdict, once as many are there as the batch asks."""
    asked = _requirement(connection, batch_id)
    if asked is None or standing_of(connection, person, batch_id).verdict != "open":
        return
    domain = _domain(connection, batch_id)
    latest = _latest(connection, person.person_id, domain)
    answers = _answers(connection, person.person_id, domain, latest.since if latest else 0)
    if len(answers) >= asked.answers:
        enough = asked.pass_share * len(answers) - 1e-9  # shares are not exact in floating point
        verdict: Verdict = "passed" if sum(answers) >= enough else "failed"
        values = {"right": sum(answers), "answered": len(answers), "decided_by": SYSTEM}
        _add_verdict(connection, now, person.person_id, domain, verdict, **values)


def _requirement(connection: Connection, batch_id: str) -> Requirement | None:
    query = select(requirements.c.answers, requirements.c.pass_share)
    row = connection.execute(query.where(requirements.c.batch_id == batch_id)).one_or_none()
    return None if row is None else Requirement(**row._mapping)


def _domain(connection: Connection, batch_id: str) -> Domain:
    query = select(batches.c.domain).where(batches.c.batch_id == batch_id)
    domain: Domain = connection.execute(query).scalar_one()
    return domain


def _count_checks(connection: Connection, batch_id: str) -> int:
    here = (checks.c.batch_id == batch_id, checks.c.kind == "qualification")
    return connection.execute(select(func.count()).select_from(checks).where(*here)).scalar_one()


def _latest(connection: Connection, person_id: str, domain: Domain) -> Any:
    mine = (qualifications.c.person_id == person_id, qualifications.c.domain == domain)
    ordered = select(qualifications).where(*mine).order_by(qualifications.c.verdict_id.desc())
    return connection.execute(ordered.limit(1)).one_or_none()


def _answers(connection: Connection, person_id: str, domain: Domain, since: int) -> list[bool]:
    """Whether each first answer to the domain's qualification checks was right, after `since`."""
    query = (
        select(submissions.c.chosen, checks.c.answer)
        .join(assignments, assignments.c.assignment_id == submissions.c.assignment_id)
        .join(checks, checks.c.item_id == assignments.c.item_id)
        .join(batches, batches.c.batch_id == checks.c.batch_id)
        .where(assignments.c.person_id == person_id, batches.c.domain == domain)
        .where(checks.c.kind == "qualification", submissions.c.revision == 0)
        .where(submissions.c.sequence > since)
    )
    return [row.chosen == row.answer for row in connection.execute(query)]


def _add_verdict(
    connection: Connection,
    now: float,
    person_id: str,
    domain: Domain,
    verdict: Verdict,
    **values: Any,
) -> None:
    """With where the ledger stands: answers from before it count no more."""
    since = connection.execute(select(func.max(submissions.c.sequence))).scalar() or 0
    values |= {"person_id": person_id, "domain": domain, "verdict": verdict, "since": since}
    connection.execute(insert(qualifications).values(created_at=now, **values))
    record(connection, now, values["decided_by"], verdict, person_id, domain=domain)

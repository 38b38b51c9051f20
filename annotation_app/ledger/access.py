"""Who may do what, and the audit trail. Every call of the ledger begins with `allow`."""

import json
import re
import secrets
from typing import Any

from sqlalchemy import Connection, insert, select, update

from annotation_app.ledger.database import Database
from annotation_app.ledger.rows import ROLES, Person, Role
from annotation_app.ledger.schema import events, people
from data.errors import DataError, UserError

SYSTEM = "system"
"""Who acts where a command and not a person does: whoever may run it can read the ledger anyway."""
LOCAL_PERSON = "local"
"""Who works in the app when it serves one person on their own machine."""
RESERVED = (SYSTEM, LOCAL_PERSON)
"""Names that nobody can sign in by: who they are depends on the machine, not on a key."""
_NAME = re.compile(r"[^\s\x00-\x1f]{1,200}")


class NotAllowed(UserError):
    """The person has not the role, is paused or unknown, or the work is somebody else's."""


def allow(connection: Connection, person_id: str, role: Role) -> Person:
    """The person, read in this very transaction, if they have at least this role.

    Raises:
        NotAllowed: they have not, are paused, or are unknown.
    """
    row = connection.execute(select(people).where(people.c.person_id == person_id)).one_or_none()
    if row is None:
        raise NotAllowed(f"{person_id!r} is not known to this ledger; ask a manager to be added")
    if row.paused:
        raise NotAllowed(f"{person_id!r} is paused; ask a manager")
    if ROLES.index(row.role) < ROLES.index(role):
        raise NotAllowed(f"{person_id!r} is {row.role}; this needs the role {role}; ask a manager")
    return _person(row)


def record(
    connection: Connection, at: float, person_id: str, action: str, subject: str, **detail: object
) -> None:
    """Adds to the audit trail, in the transaction of what it tells of."""
    text = json.dumps(detail, ensure_ascii=False)
    connection.execute(
        insert(events).values(
            at=at, person_id=person_id, action=action, subject=subject, detail=text
        )
    )


def find_person(database: Database, person_id: str, role: Role = "annotator") -> Person:
    """The person, if they have at least this role.

    Raises:
        NotAllowed: they have not, are paused, or are unknown.
    """
    return database.read(lambda connection: allow(connection, person_id, role))


def ensure_person(database: Database, person_id: str, role: Role) -> Person:
    """The person, added with this role if new; for the composition root, not for pages."""
    _check(person_id, role)

    def change(connection: Connection) -> Person:
        query = select(people).where(people.c.person_id == person_id)
        row = connection.execute(query).one_or_none()
        if row is None:
            _add(connection, database.clock(), SYSTEM, person_id, role)
            row = connection.execute(query).one()
        return _person(row)

    return database.write(change)


def add_person(database: Database, manager_id: str, person_id: str, role: Role) -> Person:
    """Adds somebody.

    Raises:
        NotAllowed: not by a manager, or the name belongs to the machine.
        DataError: they are there already, or the name or role is none.
    """

    def change(connection: Connection) -> Person:
        allow(connection, manager_id, "manager")
        _check(person_id, role)
        query = select(people).where(people.c.person_id == person_id)
        if connection.execute(query).one_or_none() is not None:
            raise DataError(f"{person_id!r} is known already; change their role instead")
        enrol(connection, database.clock(), manager_id, person_id, role)
        return _person(connection.execute(query).one())

    return database.write(change)


def enrol(connection: Connection, at: float, by: str, person_id: str, role: Role) -> None:
    """Adds somebody who signs in by a key, in the caller's transaction; known people stay.

    Raises:
        NotAllowed: the name belongs to the machine.
        DataError: the name or role is none, or they are known with another role.
    """
    if person_id in RESERVED:
        raise NotAllowed(f"nobody signs in as {person_id!r}; choose another name")
    _check(person_id, role)
    row = connection.execute(select(people).where(people.c.person_id == person_id)).one_or_none()
    if row is None:
        _add(connection, at, by, person_id, role)
    elif row.role != role:
        raise DataError(f"{person_id!r} is {row.role}; change their role under Manage → People")


def set_role(database: Database, manager_id: str, person_id: str, role: Role) -> None:
    """Changes what somebody may do.

    Raises:
        NotAllowed: not by a manager.
        DataError: no such person or role, or the manager themselves.
    """

    def change(connection: Connection) -> None:
        allow(connection, manager_id, "manager")
        if person_id == manager_id:
            raise DataError("you cannot change your own role; another manager can")
        if role not in ROLES:
            raise DataError(f"there is no role {role!r}; roles are {', '.join(ROLES)}")
        here = update(people).where(people.c.person_id == person_id)
        if person_id in RESERVED or not connection.execute(here.values(role=role)).rowcount:
            raise DataError(f"there is no {person_id!r} to change; check the name")
        record(connection, database.clock(), manager_id, "set role", person_id, role=role)

    database.write(change)


def set_paused(database: Database, manager_id: str, person_id: str, paused: bool) -> None:
    """Pauses somebody, or lets them work again.

    Raises:
        NotAllowed: not by a manager.
        DataError: no such person, or the manager themselves.
    """

    def change(connection: Connection) -> None:
        allow(connection, manager_id, "manager")
        if person_id == manager_id:
            raise DataError("you cannot pause yourself; another manager can")
        found = connection.execute(
            update(people).where(people.c.person_id == person_id).values(paused=paused)
        )
        if not found.rowcount:
            raise DataError(f"there is no {person_id!r}; check the name")
        action = "pause" if paused else "resume"
        record(connection, database.clock(), manager_id, action, person_id)

    database.write(change)


def list_people(database: Database, manager_id: str) -> list[Person]:
    """Everybody, by name.

    Raises:
        NotAllowed: not a manager.
    """

    def query(connection: Connection) -> list[Person]:
        allow(connection, manager_id, "manager")
        return [_person(row) for row in connection.execute(select(people).order_by("person_id"))]

    return database.read(query)


def _check(person_id: str, role: Role) -> None:
    if not _NAME.fullmatch(person_id) or role not in ROLES:
        raise DataError(
            f"name {person_id[:100]!r} with role {role!r}; a name has 1 to 200 characters without "
            f"spaces, roles are {', '.join(ROLES)}"
        )


def _add(connection: Connection, at: float, by: str, person_id: str, role: Role) -> None:
    pseudonym = f"annotator-{secrets.token_hex(4)}"
    connection.execute(
        insert(people).values(
            person_id=person_id, role=role, pseudonym=pseudonym, paused=False, created_at=at
        )
    )
    record(connection, at, by, "add person", person_id, role=role)


def _person(row: Any) -> Person:
    return Person(
        person_id=row.person_id, role=row.role, pseudonym=row.pseudonym, paused=row.paused
    )

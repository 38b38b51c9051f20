"""Invitations: who may come in by a link, until when. Only the hash of a link is stored."""

import hmac
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update

from annotation_app.invitations import BadInvitation, make_token, read_token
from annotation_app.ledger.access import allow, enrol, record
from annotation_app.ledger.database import Database
from annotation_app.ledger.rows import Person, Role
from annotation_app.ledger.schema import invitations, signing_keys
from data.errors import DataError

MAX_DAYS = 366
_DAY = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """A link that was given out, without what would open the door."""

    invitation_id: str
    person_id: str
    created_at: float
    expires_at: float
    used: bool
    open: bool
    """Neither revoked nor expired."""


def invite(
    database: Database, manager_id: str, person_id: str, role: Role, days: float = 30
) -> str:
    """Makes a link's token for somebody, who is added if new; it is shown this once.

    Args:
        role: of somebody new; who is known already must have it.
        days: how long the link opens the door.

    Raises:
        NotAllowed: not by a manager, or the name belongs to the machine.
        DataError: the name, role or number of days is none, or they have another role.
    """
    if not 0 < days <= MAX_DAYS:
        raise DataError(f"an invitation lasts {days} days; give more than 0, up to {MAX_DAYS}")

    def change(connection: Connection) -> str:
        allow(connection, manager_id, "manager")
        now = database.clock()
        enrol(connection, now, manager_id, person_id, role)
        token, claim = make_token(_key(connection), now + days * _DAY)
        connection.execute(
            insert(invitations).values(
                invitation_id=claim.invitation_id,
                person_id=person_id,
                token_hash=claim.token_hash,
                created_at=now,
                expires_at=claim.expires_at,
            )
        )
        record(connection, now, manager_id, "invite", person_id, invitation=claim.invitation_id)
        return token

    return database.write(change)


def revoke(database: Database, manager_id: str, invitation_id: str) -> None:
    """Shuts the door for a link: whoever came in by it is out at their next click.

    Raises:
        NotAllowed: not by a manager.
        DataError: there is no such invitation.
    """

    def change(connection: Connection) -> None:
        allow(connection, manager_id, "manager")
        now = database.clock()
        here = update(invitations).where(invitations.c.invitation_id == invitation_id)
        open_ones = here.where(invitations.c.revoked_at.is_(None))
        if connection.execute(open_ones.values(revoked_at=now)).rowcount:
            record(connection, now, manager_id, "revoke", invitation_id)
        elif _find(connection, invitation_id) is None:
            raise DataError(f"there is no invitation {invitation_id!r}; list them to check")

    database.write(change)


def list_invitations(database: Database, manager_id: str) -> list[Invitation]:
    """Every invitation, the newest first.

    Raises:
        NotAllowed: not a manager.
    """

    def query(connection: Connection) -> list[Invitation]:
        allow(connection, manager_id, "manager")
        now = database.clock()
        ordered = select(invitations).order_by(
            invitations.c.created_at.desc(), invitations.c.invitation_id
        )
        return [
            Invitation(
                invitation_id=row.invitation_id,
                person_id=row.person_id,
                created_at=row.created_at,
                expires_at=row.expires_at,
                used=row.first_used_at is not None,
                open=row.revoked_at is None and now < row.expires_at,
            )
            for row in connection.execute(ordered)
        ]

    return database.read(query)


def invited_person(database: Database, token: str) -> Person:
    """Who comes in by a link; asked again at every click, so that revoking works at once.

    Raises:
        BadInvitation: forged, expired or revoked.
        NotAllowed: the person is paused.
    """

    def query(connection: Connection) -> tuple[Person, str | None]:
        claim = read_token(_key(connection), token, database.clock())
        row = _find(connection, claim.invitation_id)
        if row is None or not hmac.compare_digest(row.token_hash, claim.token_hash):
            raise BadInvitation("this invitation link is not one of ours; ask a manager for one")
        if row.revoked_at is not None:
            raise BadInvitation("this invitation link was revoked; ask a manager for a new one")
        new = row.invitation_id if row.first_used_at is None else None
        return allow(connection, row.person_id, "annotator"), new

    person, new = database.read(query)
    if new is not None:
        _note_first_use(database, new, person.person_id)
    return person


def _note_first_use(database: Database, invitation_id: str, person_id: str) -> None:
    def change(connection: Connection) -> None:
        now = database.clock()
        here = update(invitations).where(invitations.c.invitation_id == invitation_id)
        unused = here.where(invitations.c.first_used_at.is_(None))
        if connection.execute(unused.values(first_used_at=now)).rowcount:
            record(connection, now, person_id, "first sign-in", invitation_id)

    database.write(change)


def _find(connection: Connection, invitation_id: str) -> Any:
    query = select(invitations).where(invitations.c.invitation_id == invitation_id)
    return connection.execute(query).one_or_none()


def _key(connection: Connection) -> str:
    return str(connection.execute(select(signing_keys.c.key)).scalar_one())

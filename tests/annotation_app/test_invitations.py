"""Links that let people in: signed, expiring, revocable, and not to be had from the ledger."""

import dataclasses

import pytest
from sqlalchemy import Connection, select

from annotation_app.invitations import BadInvitation, make_token, read_token
from annotation_app.ledger import access, oversight, schema
from annotation_app.ledger.access import NotAllowed
from annotation_app.ledger.database import Database
from annotation_app.ledger.invitations import (
    invite,
    invited_person,
    list_invitations,
    revoke,
)
from annotation_app.ledger.migrations import MIGRATIONS, migrate
from data.errors import DataError
from tests.annotation_app.conftest import MANAGER, PEOPLE, Clock

DAY = 24 * 3600.0


def test_a_token_is_signed_and_expires() -> None:
    token, claim = make_token("key", expires_at=1_000.9)
    assert read_token("key", token, now=999.9) == claim
    assert claim.expires_at == 1_000
    for now in (1_000.0, 5_000.0):
        with pytest.raises(BadInvitation, match="expired"):
            read_token("key", token, now)
    later = token.replace(".1000.", ".9999.")  # a longer life, but the old signature
    for forged in (later, token[:-1], token + "0", "", ".", "a.b.c.d", "½" * 20, token.upper()):
        with pytest.raises(BadInvitation, match="not one of ours"):
            read_token("key", forged, now=0.0)
    with pytest.raises(BadInvitation, match="not one of ours"):
        read_token("another key", token, now=0.0)


def test_a_link_lets_its_person_in_until_it_expires(database: Database, clock: Clock) -> None:
    token = invite(database, MANAGER, "dora@lab.example", "reviewer", days=2)
    for _ in range(2):  # a reload, a second browser
        person = invited_person(database, token)
        assert (person.person_id, person.role) == ("dora@lab.example", "reviewer")
    (listed,) = list_invitations(database, MANAGER)
    assert (listed.used, listed.open) == (True, True)
    assert listed.expires_at == clock.now + 2 * DAY
    clock.now += 2 * DAY
    with pytest.raises(BadInvitation, match="expired"):
        invited_person(database, token)
    assert not list_invitations(database, MANAGER)[0].open
    first_uses = [e for e in oversight.list_events(database, MANAGER) if "sign-in" in e.action]
    assert len(first_uses) == 1


def test_a_revoked_link_is_shut_at_once(database: Database) -> None:
    token, other = (invite(database, MANAGER, "ann", "annotator") for _ in range(2))
    first = token.split(".")[0]
    revoke(database, MANAGER, first)
    revoke(database, MANAGER, first)  # the same click again
    with pytest.raises(BadInvitation, match="revoked"):
        invited_person(database, token)
    assert invited_person(database, other).person_id == "ann"  # each link by itself
    access.set_paused(database, MANAGER, "ann", True)
    with pytest.raises(NotAllowed, match="paused"):
        invited_person(database, other)
    with pytest.raises(DataError, match="there is no invitation"):
        revoke(database, MANAGER, "0" * 16)


def test_the_ledger_holds_nothing_that_opens_the_door(database: Database) -> None:
    token = invite(database, MANAGER, "ann", "annotator")
    secret = token.split(".")[2]

    def everything(connection: Connection) -> str:
        tables = schema.metadata.sorted_tables
        return str([connection.execute(select(table)).all() for table in tables])

    stored = database.read(everything)
    assert "ann" in stored and token.split(".")[0] in stored
    assert token not in stored and secret not in stored
    # A token made with the stolen key for a known invitation is not the one that was given out.
    key = database.read(lambda c: c.execute(select(schema.signing_keys.c.key)).scalar_one())
    forged, claim = make_token(key, expires_at=database.clock() + DAY)
    with pytest.raises(BadInvitation, match="not one of ours"):
        invited_person(database, forged)
    assert claim.invitation_id not in stored


def test_who_may_invite_and_whom(database: Database) -> None:
    for person in (*PEOPLE, "nobody"):
        with pytest.raises(NotAllowed):
            invite(database, person, "eve", "manager")
        with pytest.raises(NotAllowed):
            revoke(database, person, "0" * 16)
        with pytest.raises(NotAllowed):
            list_invitations(database, person)
    for name in access.RESERVED:  # they are managers by the machine they sit at
        with pytest.raises(NotAllowed, match="nobody signs in as"):
            invite(database, MANAGER, name, "manager")
        with pytest.raises(NotAllowed, match="nobody signs in as"):
            access.add_person(database, MANAGER, name, "manager")
    with pytest.raises(DataError, match="'ann' is annotator"):
        invite(database, MANAGER, "ann", "manager")  # a link never raises anybody
    for name in ("", " ", "two words", "x" * 201, "a\0b"):
        with pytest.raises(DataError, match="1 to 200 characters"):
            invite(database, MANAGER, name, "annotator")
    for days in (0, -1, 367, float("nan")):
        with pytest.raises(DataError, match="lasts"):
            invite(database, MANAGER, "ann", "annotator", days=days)


def test_roles_are_changed_by_managers_only(database: Database) -> None:
    access.set_role(database, MANAGER, "ann", "reviewer")
    assert access.find_person(database, "ann", "reviewer").role == "reviewer"
    with pytest.raises(NotAllowed):
        access.set_role(database, "ann", "ann", "manager")
    with pytest.raises(DataError, match="your own role"):
        access.set_role(database, MANAGER, MANAGER, "annotator")  # a ledger keeps one manager
    for name, role in (("nobody", "manager"), ("ann", "king"), ("local", "annotator")):
        with pytest.raises(DataError, match="there is no"):
            access.set_role(database, MANAGER, name, role)  # type: ignore[arg-type]


def test_a_ledger_of_the_first_version_is_brought_up_to_date(place: str, clock: Clock) -> None:
    fresh = Database(place, clock)
    tables = list(reversed(schema.metadata.sorted_tables))
    fresh.write(lambda connection: [table.drop(connection, checkfirst=True) for table in tables])
    fresh.write(lambda connection: migrate(connection, MIGRATIONS[:1]))

    def add(connection: Connection) -> None:
        person = {"person_id": MANAGER, "role": "manager", "pseudonym": "p", "paused": False}
        connection.execute(schema.people.insert().values(**person, created_at=1.0))

    fresh.write(add)
    fresh.close()
    database = Database(place, clock)  # an old ledger is opened by this version
    assert dataclasses.astuple(access.find_person(database, MANAGER)) == (
        (MANAGER, "manager", "p", False)
    )
    assert invited_person(database, invite(database, MANAGER, "new", "annotator"))
    database.close()

"""For managers: who may come in, in which role, and by which links."""

from datetime import UTC, datetime

import streamlit as st

from annotation_app.invitations import link
from annotation_app.ledger import access, qualification
from annotation_app.ledger.invitations import Invitation, invite, list_invitations, revoke
from annotation_app.ledger.qualification import Qualified, Verdict
from annotation_app.ledger.rows import ROLES, Person
from annotation_app.session import Session


def section(session: Session) -> None:
    """Draws the section; the ledger checks each of its calls."""
    for person in access.list_people(session.database, session.person_id):
        _person(session, person)
    for verdict in qualification.list_qualified(session.database, session.person_id):
        _qualified(session, verdict)
    if session.address is None:
        _add(session)
        return
    _invite(session, session.address)
    st.subheader("Links that were given out", anchor=False)
    for one in list_invitations(session.database, session.person_id):
        _invitation(session, one)


def _person(session: Session, person: Person) -> None:
    row = st.container(horizontal=True, vertical_alignment="center", border=True)
    row.text(f"{person.person_id} · {person.role} · {person.pseudonym}")
    if person.person_id in (session.person_id, *access.RESERVED):
        return
    label = "Resume" if person.paused else "Pause"
    if row.button(label, key=f"pause-{person.person_id}"):
        access.set_paused(session.database, session.person_id, person.person_id, not person.paused)
        st.rerun()
    with row.popover("Role"):
        role = st.segmented_control(
            f"Role of {person.pseudonym}",
            ROLES,
            key=f"role-{person.person_id}",
            default=person.role,
            required=True,
        )
        if st.button("Change", key=f"change-{person.person_id}"):
            access.set_role(session.database, session.person_id, person.person_id, role)
            st.rerun()


def _qualified(session: Session, one: Qualified) -> None:
    """A verdict, and what a manager can make of it."""
    row = st.container(horizontal=True, vertical_alignment="center", border=True)
    score = f" ({one.right} of {one.answered} right)" if one.answered else ""
    row.text(f"{one.person_id} · qualification for {one.domain}: {one.verdict}{score}")
    choices: list[tuple[str, Verdict]] = [("Ask again", "open"), ("Let in", "passed")]
    for label, verdict in choices:
        key = f"{verdict}-{one.domain}-{one.person_id}"
        if one.verdict != verdict and row.button(label, key=key):
            here = (session.database, session.person_id)
            qualification.decide(*here, one.person_id, one.domain, verdict)
            st.rerun()


def _add(session: Session) -> None:
    with st.form("add person", enter_to_submit=False, clear_on_submit=True):
        st.subheader("Add somebody", anchor=False)
        name = st.text_input(
            "E-mail address, as their organisation has verified it", key="new name"
        )
        role = st.segmented_control(
            "Role", ROLES, key="new role", default="annotator", required=True
        )
        if not st.form_submit_button("Add"):
            return
    access.add_person(session.database, session.person_id, name.strip().lower(), role)
    st.rerun()


def _invite(session: Session, address: str) -> None:
    with st.form("invite", enter_to_submit=False):
        st.subheader("Invite somebody", anchor=False)
        name = st.text_input("Name (published data never has it)", key="new name")
        role = st.segmented_control(
            "Role", ROLES, key="new role", default="annotator", required=True
        )
        days = st.number_input("Days until the link expires", 1, 366, 30, key="new days")
        if not st.form_submit_button("Make a link"):
            return
    token = invite(session.database, session.person_id, name.strip(), role, days)
    st.success("Give this link to them and to nobody else. It is not stored and not shown again.")
    st.code(link(address, token), language=None, wrap_lines=True)


def _invitation(session: Session, one: Invitation) -> None:
    row = st.container(horizontal=True, vertical_alignment="center", border=True)
    until = datetime.fromtimestamp(one.expires_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    words = [one.person_id, "used" if one.used else "not used yet"]
    words += [f"open until {until}" if one.open else "shut"]
    row.text(" · ".join(words))
    if one.open and row.button("Revoke", key=f"revoke-{one.invitation_id}"):
        revoke(session.database, session.person_id, one.invitation_id)
        st.rerun()

"""Who is at the screen: asked at every click, and never answered by anything a browser says alone.

What somebody may do once they are in is the ledger's business (`ledger.access.allow`).
"""

from functools import cache

import streamlit as st

from annotation_app.attempts import Attempts
from annotation_app.content import literal
from annotation_app.invitations import BadInvitation
from annotation_app.ledger.access import LOCAL_PERSON, NotAllowed, find_person
from annotation_app.ledger.database import Database
from annotation_app.ledger.invitations import invited_person
from annotation_app.ledger.rows import Person
from annotation_app.settings import AppSettings, SignIn
from data.errors import UserError

COOKIE = "rlhf_annotation"
"""Holds the token of the invitation link; scripts in the page cannot read it."""
_THIS_MACHINE = "127.0.0.1"


class NotSignedIn(UserError):
    """Nobody has signed in here yet."""


@cache
def attempts() -> Attempts:
    """Of this process: the pages and the route of the links count together."""
    return Attempts()


def person_at(settings: AppSettings, database: Database) -> str:
    """The person's name in the ledger.

    Raises:
        NotSignedIn: nobody yet.
        UserError: a link that does not open the door (any more), an address that the provider
            has not verified, or too many attempts.
    """
    match settings.sign_in:
        case "local":
            return LOCAL_PERSON
        case "invitations":
            return _invited(database)
        case "openid":
            return _identified()


def admit(database: Database, token: str, address: str) -> Person:
    """Who comes in by a link's token.

    Raises:
        BadInvitation: forged, expired or revoked.
        NotAllowed: the person is paused.
        TooManyAttempts: from this network address.
    """
    attempts().check(address)
    try:
        return invited_person(database, token)
    except (BadInvitation, NotAllowed):
        attempts().failed(address)
        raise


def show_sign_in(settings: AppSettings, reason: str) -> None:
    """The page of who is not in."""
    st.title("Sign in", anchor=False)
    st.info(reason)
    if settings.sign_in == "openid":
        st.button("Sign in", type="primary", on_click=st.login)


def show_account(sign_in: SignIn, database: Database, person_id: str) -> None:
    """The page that says who one is, and lets one leave."""
    person = find_person(database, person_id)
    st.title("Account", anchor=False)
    st.text(f"{person.person_id} · {person.role}")
    st.caption("In published data you appear under a pseudonym, never under your name.")
    show_way_out(sign_in)


def show_way_out(sign_in: SignIn) -> None:
    """Signing out, where somebody can have signed in."""
    if sign_in == "openid" and st.user.get("is_logged_in"):
        st.button("Sign out", on_click=st.logout)
    elif sign_in == "invitations":
        st.html('<a href="/leave">Sign out of this browser</a>')


def show_error(error: UserError) -> None:
    """Errors repeat what people and files said, which is no Markdown of ours."""
    st.error(literal(str(error)))


def _invited(database: Database) -> str:
    token = st.context.cookies.get(COOKIE)
    if not token:
        raise NotSignedIn("Open the invitation link that a manager gave you, in this browser.")
    if st.session_state.get("let in by") == token:  # not an attempt any more, but may be revoked
        return invited_person(database, token).person_id
    person = admit(database, token, st.context.ip_address or _THIS_MACHINE)
    st.session_state["let in by"] = token
    return person.person_id


def _identified() -> str:
    """By the address that the provider has verified: others may write any address they like."""
    if not st.user.get("is_logged_in"):
        raise NotSignedIn("Sign in with the account of your organisation.")
    address = st.user.get("email")
    if not isinstance(address, str) or "@" not in address or "\0" in address:
        raise NotAllowed("your identity provider sends no e-mail address; ask for the scope email")
    if st.user.get("email_verified") is not True:
        raise NotAllowed("your identity provider has not verified your e-mail address; ask it to")
    return address.lower()

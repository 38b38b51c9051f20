"""The entry that `rlhf annotate` starts: one script run per click.

The pages are in `screens`, not in `pages`: a folder of that name beside the entry is served by
Streamlit itself, without this file, to a browser that finds its way back after a restart.
"""

import gc

import streamlit as st

from annotation_app import door
from annotation_app.clicks import keep_every_click
from annotation_app.ledger.access import find_person
from annotation_app.ledger.database import Database
from annotation_app.screens import (
    compare,
    demonstrate,
    evaluate,
    manage,
    recent,
    red_team,
    review,
)
from annotation_app.screens.showing import apply_style
from annotation_app.session import Desk, Session
from annotation_app.settings import AppSettings
from data.errors import UserError


@st.cache_resource
def _open(place: str) -> Database:
    return Database(place)


@st.cache_resource
def _spare_collector() -> None:
    """Once for each process; what is imported stays anyway, and to look it through takes 80 ms.

    So long nobody would be answered: all sessions share one interpreter.
    """
    gc.freeze()


def open_session(settings: AppSettings) -> Session:
    """The person at this screen; one ledger connection serves all of them.

    Raises:
        NotSignedIn: nobody yet.
        UserError: somebody who is not let in.
    """
    database = _open(settings.ledger)
    return Session(
        database=database,
        person_id=door.person_at(settings, database),
        dataset=settings.dataset,
        desk=st.session_state.setdefault("desk", Desk()),
        endpoint=settings.endpoint,
        address=settings.address if settings.sign_in == "invitations" else None,
    )


ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">'
    '<rect width="7" height="16" fill="#1f5fb7"/><rect x="9" width="7" height="16" fill="#9db8dc"/>'
    "</svg>"
)
"""Two panes, drawn here: Streamlit's own symbols are fetched from a server outside."""


def main() -> None:
    """Draws the page that the person chose."""
    st.set_page_config(page_title="Annotate", page_icon=ICON, layout="wide")
    apply_style()
    keep_every_click()
    _spare_collector()
    settings = AppSettings.from_environment()
    try:
        _show_pages(settings, open_session(settings))
    except door.NotSignedIn as reason:
        door.show_sign_in(settings, str(reason))
    except UserError as error:
        door.show_error(error)
        door.show_way_out(settings.sign_in)


def _show_pages(settings: AppSettings, session: Session) -> None:
    """Only the pages of the person's role; each asks the ledger again for what it shows."""
    person = find_person(session.database, session.person_id)
    first = st.Page(lambda: compare.page(session), title="Compare", url_path="compare")
    st.session_state["compare_page"] = first
    pages = [
        first,
        st.Page(lambda: recent.page(session), title="My recent work", url_path="recent"),
        st.Page(lambda: evaluate.page(session), title="Evaluate", url_path="evaluate"),
        st.Page(
            lambda: demonstrate.page(session), title="Demonstrations", url_path="demonstrations"
        ),
        st.Page(lambda: red_team.page(session), title="Red team", url_path="red-team"),
    ]
    if person.role == "reviewer":  # managers have it among their sections
        pages.append(st.Page(lambda: review.page(session), title="Review", url_path="review"))
    if person.role == "manager":
        page = st.Page(lambda: manage.page(session), title="Manage", url_path="manage")
        pages.append(page)
    if settings.sign_in != "local":
        pages.append(
            st.Page(
                lambda: door.show_account(settings.sign_in, session.database, session.person_id),
                title="Account",
                url_path="account",
            )
        )
    st.navigation(pages, position="top").run()


if __name__ == "__main__":  # so Streamlit runs it
    main()

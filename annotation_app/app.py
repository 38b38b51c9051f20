"""The entry that `rlhf annotate` starts: one script run per click.

The pages are in `screens`, not in `pages`: a folder of that name beside the entry is served by
Streamlit itself, without this file, to a browser that finds its way back after a restart.
"""

import streamlit as st

from annotation_app.ledger.access import find_person
from annotation_app.ledger.database import Database
from annotation_app.screens import compare, manage, recent
from annotation_app.screens.showing import apply_style
from annotation_app.session import Desk, Session
from annotation_app.settings import LOCAL_PERSON, AppSettings
from data.errors import UserError


@st.cache_resource
def _open(place: str) -> Database:
    return Database(place)


def open_session(settings: AppSettings) -> Session:
    """The person at this screen; one ledger connection serves all of them."""
    return Session(
        database=_open(settings.ledger),
        person_id=LOCAL_PERSON,
        dataset=settings.dataset,
        desk=st.session_state.setdefault("desk", Desk()),
        endpoint=settings.endpoint,
    )


def main() -> None:
    """Draws the page that the person chose."""
    st.set_page_config(page_title="Annotate", page_icon=":material/balance:", layout="wide")
    apply_style()
    try:
        session = open_session(AppSettings.from_environment())
        first = st.Page(lambda: compare.page(session), title="Compare", url_path="compare")
        st.session_state["compare_page"] = first
        pages = [
            first,
            st.Page(lambda: recent.page(session), title="My recent work", url_path="recent"),
        ]
        if find_person(session.database, session.person_id).role == "manager":
            page = st.Page(lambda: manage.page(session), title="Manage", url_path="manage")
            pages.append(page)
        st.navigation(pages, position="top").run()
    except UserError as error:
        st.error(str(error))


if __name__ == "__main__":  # so Streamlit runs it
    main()

"""One's own latest annotations, each of which can be edited."""

from datetime import UTC, datetime

import streamlit as st

from annotation_app.content import visible
from annotation_app.ledger import history
from annotation_app.ledger.rows import Done
from annotation_app.screens.choosing import chosen_words
from annotation_app.session import Session


def page(session: Session) -> None:
    """Draws the list, newest first."""
    st.title("My recent work", anchor=False)
    latest = history.recent(session.database, session.person_id)
    if not latest:
        st.info("Nothing yet. What you submit appears here, and you can edit it.")
    for done in latest:
        _row(session, done)


def _row(session: Session, done: Done) -> None:
    said = done.judgement
    words = [chosen_words((said.side, said.strength), said.safety)]
    words += ["flagged"] if said.flag else []
    words += [f"revision {done.revision}"] if done.revision else []
    when = datetime.fromtimestamp(done.created_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    with st.container(border=True):
        st.text(visible(done.question)[:200])
        st.caption(" · ".join([*words, done.batch_id, when]))
        if done.decided:
            st.caption("A reviewer has decided on this item.")
        elif st.button("Edit", key=f"edit-{done.assignment_id}"):
            session.desk.editing = done.assignment_id
            st.switch_page(st.session_state["compare_page"])

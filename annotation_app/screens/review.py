"""For reviewers: what annotators flagged or disagree on."""

import streamlit as st

from annotation_app.ledger import access, oversight
from annotation_app.ledger.oversight import Flagged
from annotation_app.screens import adjudicate
from annotation_app.screens.showing import show_dialogue, show_pair, show_text
from annotation_app.session import Session


def page(session: Session) -> None:
    """Draws the page; the ledger checks the role again."""
    access.find_person(session.database, session.person_id, "reviewer")
    st.title("Review", anchor=False)
    sections = {"Flags": section, "Disagreements": adjudicate.section}
    chosen = st.segmented_control(
        "Section",
        list(sections),
        key="review section",
        default="Flags",
        required=True,
        label_visibility="collapsed",
    )
    sections[chosen](session)


def section(session: Session) -> None:
    """Draws every flagged annotation, the oldest first."""
    waiting = oversight.flagged(session.database, session.person_id)
    if not waiting:
        st.info("Nothing is flagged. Flagged annotations wait here and are not published.")
    for one in waiting:
        with st.container(border=True):
            _flag(session, one)


def _flag(session: Session, one: Flagged) -> None:
    st.caption(f"{one.annotator} · {one.view.batch_id}")
    show_text(f"Flag: {one.flag}", raw=False, key=None)
    if one.comment:
        show_text(f"Comment: {one.comment}", raw=False, key=None)
    with st.expander("The item"):
        key = f"flag-{one.view.assignment_id}"
        show_dialogue(one.view.prompt, raw=False, key=key)
        show_pair(one.view.response_a, one.view.response_b, raw=False, key=key)
    if st.button("Release: publish it after all", key=f"release-{one.view.assignment_id}"):
        oversight.release(session.database, session.person_id, one.view.assignment_id)
        st.rerun()

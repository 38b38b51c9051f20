"""Writing demonstrations, and for reviewers, approving those of others."""

import uuid

import streamlit as st

from annotation_app.content import literal
from annotation_app.guidelines import GUIDELINES
from annotation_app.ledger import access
from annotation_app.ledger.demonstrations import (
    MAX_TEXT,
    Written,
    own_demonstrations,
    review_demonstration,
    waiting_demonstrations,
    write_demonstration,
)
from annotation_app.screens.showing import show_dialogue, show_text
from annotation_app.session import Session
from data.errors import UserError
from data.schemas import DOMAINS, Message


def page(session: Session) -> None:
    """Draws the form, one's own latest, and what waits for a reviewer."""
    st.title("Demonstrations", anchor=False)
    person = access.find_person(session.database, session.person_id)
    _write(session)
    for one in own_demonstrations(session.database, session.person_id):
        with st.container(border=True):
            st.caption(f"Yours · {one.domain} · {one.status}")
            _show(one)
            if one.feedback:
                show_text(f"Reviewer: {one.feedback}", raw=False, key=None)
    if person.role != "annotator":
        st.subheader("Waiting for a reviewer", anchor=False)
        for one in waiting_demonstrations(session.database, session.person_id):
            _review(session, one)


def _write(session: Session) -> None:
    # The id is made before the text is sent, so that a second click sends the same thing.
    new = st.session_state.setdefault("demonstration", uuid.uuid4().hex)
    domain = st.segmented_control(
        "Guidelines", DOMAINS, key="demonstration domain", default=DOMAINS[0], required=True
    )
    with st.popover(f"Guidelines: {domain}"):
        st.markdown(GUIDELINES[domain])
    with st.form(f"demonstration-{new}", enter_to_submit=False):
        prompt = st.text_area("Prompt", key=f"prompt-{new}", max_chars=MAX_TEXT)
        answer = st.text_area(
            "The answer you would want", key=f"answer-{new}", max_chars=MAX_TEXT, height=240
        )
        if not st.form_submit_button("Hand in", type="primary"):
            return
    try:
        write_demonstration(
            session.database, session.person_id, new, domain, prompt.strip(), answer.strip()
        )
    except UserError as error:
        st.error(f"Not saved: {literal(str(error))}")
        return
    del st.session_state["demonstration"]
    st.toast("Saved", icon=":material/check:")
    st.rerun()


def _review(session: Session, one: Written) -> None:
    with st.form(f"review-{one.demonstration_id}", enter_to_submit=False):
        st.caption(one.domain)
        _show(one)
        feedback = st.text_input(
            "What is wrong, where you reject it", key=f"feedback-{one.demonstration_id}"
        )
        row = st.container(horizontal=True)
        approved = row.form_submit_button("Approve", type="primary")
        rejected = row.form_submit_button("Reject")
    if rejected and not feedback.strip():
        st.error("Say what is wrong: the author learns from it.")
    elif approved and feedback.strip():
        st.error("Feedback goes with a rejection; remove it, or reject.")
    elif approved or rejected:
        review_demonstration(session.database, session.person_id, one.demonstration_id, feedback)
        st.rerun()


def _show(one: Written) -> None:
    dialogue = (Message("user", one.prompt), Message("assistant", one.answer))
    show_dialogue(dialogue, raw=False, key=one.demonstration_id)

"""Writing prompts, and waiting for the models' responses; nothing that was written is lost."""

import zlib
from collections.abc import Callable
from typing import TypeVar

import streamlit as st

from annotation_app.content import literal
from annotation_app.ledger import live
from annotation_app.ledger.rows import View
from annotation_app.responders.endpoint import Endpoint, ResponderError, sample_pair
from annotation_app.screens.showing import show_dialogue
from annotation_app.session import Session
from data.schemas import Message

T = TypeVar("T")


def write_prompt(session: Session, batch_id: str) -> None:
    """Asks for the next turn of the dialogue just judged, if there is one left, or a first one."""
    previous = session.desk.previous
    so_far: tuple[Message, ...] = ()
    if previous is not None:
        so_far = live.continuation(session.database, session.person_id, previous, batch_id)
    show_dialogue(so_far, raw=False)
    with st.form(f"write-{previous}", enter_to_submit=False):
        label = "Your next message" if so_far else "Begin a dialogue: your first message"
        text = st.text_area(label, key=f"message-{previous}", max_chars=live.MAX_PROMPT)
        row = st.container(horizontal=True)
        sent = row.form_submit_button("Send", type="primary")
        anew = bool(so_far) and row.form_submit_button("Begin a new dialogue instead")
    if anew:
        session.desk.previous = None
        st.rerun()
    if sent and so_far and previous:
        live.continue_dialogue(session.database, session.person_id, previous, text)
        st.rerun()
    if sent:
        live.open_dialogue(session.database, session.person_id, batch_id, text)
        st.rerun()


def wait_for_responses(session: Session, view: View) -> None:
    """Samples both responses; a failure says what happened and offers to try again."""
    show_dialogue(view.prompt, raw=False)
    seed = zlib.crc32(view.assignment_id.encode())
    responses = ask(
        session,
        lambda endpoint: sample_pair(endpoint, view.prompt, seed),
        words="Two models are answering…",
        key=view.assignment_id,
    )
    if responses is not None:
        live.store_responses(session.database, session.person_id, view.assignment_id, responses)
        st.rerun()


def ask(session: Session, sample: Callable[[Endpoint], T], *, words: str, key: str) -> T | None:
    """What a model says; None after saying why there is nothing, with a button to try again."""
    if session.endpoint is None:
        st.warning(
            "No model is connected, so this dialogue waits; it is saved. A manager starts the app "
            "with --endpoint."
        )
        return None
    try:
        with st.spinner(words):
            return sample(session.endpoint)
    except ResponderError as error:
        st.error(f"Your message is saved, but {literal(str(error))}")
        if st.button("Try again", key=f"again-{key}", shortcut="A"):
            st.rerun()
        return None

"""Writing prompts, and waiting for the models' responses; nothing that was written is lost."""

import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from annotation_app.assignment import shows_second_first
from annotation_app.content import literal, shortened, visible
from annotation_app.ledger import live
from annotation_app.ledger.rows import Response, View
from annotation_app.responders.endpoint import ResponderError, sample
from annotation_app.screens.showing import panes, show_dialogue
from annotation_app.session import Session
from data.schemas import Message

REDRAW_SECONDS = 0.2
"""Between two drawings of a response that grows."""


def write_prompt(session: Session, batch_id: str) -> None:
    """Asks for the next turn of the dialogue just judged, if there is one left, or a first one."""
    previous = session.desk.previous
    so_far: tuple[Message, ...] = ()
    if previous is not None:
        so_far = live.continuation(session.database, session.person_id, previous, batch_id)
    show_dialogue(so_far, raw=False, key=f"{previous}")
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
    show_dialogue(view.prompt, raw=False, key=view.assignment_id)
    swapped = shows_second_first(view.assignment_id)
    places = panes()[:: -1 if swapped else 1]  # each grows where it will stand
    responses = ask(session, (0, 1), view.prompt, places, key=view.assignment_id)
    if responses is not None:
        live.store_responses(session.database, session.person_id, view.assignment_id, responses)
        st.rerun()


def ask(
    session: Session,
    variants: Sequence[int],
    dialogue: Sequence[Message],
    places: Sequence[DeltaGenerator],
    *,
    key: str,
) -> tuple[Response, ...] | None:
    """What models say, drawn in these places while it grows.

    Returns:
        None after saying why there is nothing, with a button to try again.
    """
    if session.endpoint is None:
        st.warning(
            "No model is connected, so this dialogue waits; it is saved. A manager starts the app "
            "with --endpoint."
        )
        return None
    seed = zlib.crc32(f"{key} {len(dialogue)}".encode())
    growing = [place.empty() for place in places]
    try:
        with (
            st.spinner("Waiting for an answer…"),
            closing(sample(session.endpoint, variants, dialogue, seed)) as answers,
        ):
            return _draw(answers, growing)
    except ResponderError as error:
        for place in growing:
            place.empty()
        st.error(f"Your message is saved, but {literal(str(error))}")
        if st.button("Try again", key=f"again-{key}", shortcut="A"):
            st.rerun()
        return None


def _draw(
    answers: Iterator[tuple[Response, ...]], places: Sequence[DeltaGenerator]
) -> tuple[Response, ...]:
    """The last of the answers; the ones before are drawn now and then, as they stand.

    Each drawing is also where Streamlit notices a click.
    """
    said: tuple[Response, ...] = ()
    due = 0.0
    for said in answers:
        if time.monotonic() >= due:
            due = time.monotonic() + REDRAW_SECONDS
            for place, response in zip(places, said, strict=True):
                place.text(visible(shortened(response.text)[0]), width="stretch")
    return said

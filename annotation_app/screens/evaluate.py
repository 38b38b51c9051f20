"""Rating what policies answer: two of them blind on seven points, or one's safety on five."""

import streamlit as st

from annotation_app.content import literal
from annotation_app.ledger import evaluations
from annotation_app.ledger.evaluations import RatingView
from annotation_app.scales import Kind
from annotation_app.screens.choosing import choose_point
from annotation_app.screens.showing import acknowledge, show_dialogue, show_pair, show_text
from annotation_app.screens.timing import seconds_at
from annotation_app.session import Session
from data.errors import UserError

KINDS: dict[str, Kind] = {"Two responses": "pair", "Safety": "safety"}


def page(session: Session) -> None:
    """Draws the next item of the chosen kind."""
    st.title("Evaluate", anchor=False)
    chosen = st.segmented_control(
        "What to rate", list(KINDS), key="evaluation", default="Two responses", required=True
    )
    view = evaluations.next_rating(session.database, session.person_id, KINDS[chosen])
    if view is None:
        st.info("There is nothing to rate for you. A manager adds items; then reload this page.")
        acknowledge(session)
        return
    seconds = seconds_at(session, view.rating_id)
    raw = st.toggle("Raw text", key="raw evaluation", help="Every character as it stands")
    show_dialogue(view.prompt, raw, view.rating_id)
    if view.kind == "pair":
        show_pair(view.responses[0], view.responses[1], raw=raw, key=view.rating_id)
    else:
        with st.container(border=True):
            show_text(view.responses[0], raw=raw, key=view.rating_id)
    score = choose_point(session.desk, view.kind, view.rating_id)
    acknowledge(session)
    with st.container(horizontal=True):
        submitted = st.button(
            "Submit",
            key=f"rate-{view.rating_id}",
            type="primary",
            shortcut="S",
            disabled=score is None,
            icon=":material/check:",
        )
        skipped = st.button(
            "Skip", key=f"skip-{view.rating_id}", shortcut="K", icon=":material/skip_next:"
        )
    if submitted and score is not None:
        _save(session, view, score, seconds)
    if skipped:
        evaluations.skip_rating(session.database, session.person_id, view.rating_id)
        session.desk.say("Skipped")
        st.rerun()


def _save(session: Session, view: RatingView, score: int, seconds: float) -> None:
    """As when comparing: nothing of Streamlit is called from the commit to what is said of it."""
    try:
        evaluations.rate(session.database, session.person_id, view.rating_id, score, seconds)
    except UserError as error:
        st.error(f"Not saved: {literal(str(error))}")
        return
    session.desk.say("Saved")
    st.rerun()

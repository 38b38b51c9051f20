"""For reviewers: items on which annotators disagree, one at a time, without names."""

import streamlit as st

from annotation_app.content import literal
from annotation_app.guidelines import GUIDELINES
from annotation_app.judgement import Judgement, Safety
from annotation_app.ledger import decisions, disputes
from annotation_app.ledger.disputes import Dispute
from annotation_app.screens.choosing import choose, choose_safety, chosen_words, problem_with
from annotation_app.screens.showing import acknowledge, show_dialogue, show_pair, show_text
from annotation_app.screens.timing import seconds_at
from annotation_app.session import Session
from data.errors import UserError


def section(session: Session) -> None:
    """Draws the next disputed item of the chosen batch; the ledger checks the role."""
    counts = disputes.count_disputes(session.database, session.person_id)
    acknowledge(session)
    if not counts:
        st.info(
            "No disagreements wait. An item appears here when everybody has judged it and they "
            "differ in the choice, or by two levels of strength."
        )
        return
    batch = st.segmented_control(
        "Batch", list(counts), key="disputed batch", default=next(iter(counts)), required=True
    )
    batch = batch if batch in counts else next(iter(counts))  # its last one may be decided
    found = disputes.next_dispute(session.database, session.person_id, batch)
    if found is not None:
        st.caption(f"{counts[batch]:,} to decide on in this batch")
        _dispute(session, found)


def _dispute(session: Session, found: Dispute) -> None:
    key = f"dispute-{found.item_id}-{found.number}"
    seconds = seconds_at(session, key)
    top = st.container(horizontal=True, vertical_alignment="center")
    with top.popover(f"Guidelines: {found.domain}"):
        st.markdown(GUIDELINES[found.domain])
    raw = top.toggle("Raw text", key="raw dispute", help="Every character as it stands")
    show_dialogue(found.prompt, raw, key)
    show_pair(found.response_a, found.response_b, raw=raw, key=key)
    with st.container(border=True):
        st.markdown("##### What annotators said", anchors=False)
        for number, said in enumerate(found.opinions, 1):
            st.text(f"{number}. {chosen_words((said.side, said.strength), said.safety)}")
            if said.comment:
                show_text(said.comment, raw=raw, key=None)
    comment = st.text_input("Comment (optional)", key=f"comment-{key}")
    with st.container(key="actions", gap="xsmall"):
        choice = choose(session.desk, key, None)
        safety: Safety | None = None
        if found.domain == "safety":
            safety = choose_safety(session.desk, key, None)
        problem = problem_with(choice, safety, found.domain)
        words = "" if problem else chosen_words(choice, safety)
        st.caption(f"To decide: {problem}." if problem else f"Ready to decide: {words}.")
        with st.container(horizontal=True):
            decided = st.button(
                "Decide", key=f"decide-{key}", type="primary", shortcut="S", disabled=bool(problem)
            )
            stands = st.button("Let every opinion stand", key=f"stand-{key}", shortcut="L")
    if decided and choice is not None:
        said = Judgement(
            side=choice[0], strength=choice[1], safety=safety, comment=comment, seconds=seconds
        )
        _save(session, found, said)
    elif stands:
        _save(session, found, None)


def _save(session: Session, found: Dispute, judgement: Judgement | None) -> None:
    """As when comparing: nothing of Streamlit is called from the commit to what is said of it."""
    try:
        decisions.decide(session.database, session.person_id, found, judgement)
    except UserError as error:
        st.error(f"Not saved: {literal(str(error))}")
        return
    session.desk.say("Saved")
    st.rerun()

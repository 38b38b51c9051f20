"""The main page: two anonymous responses, one choice with its strength, saved before it says so.

What Streamlit does decides the shape: any call of it may be ended by the next click, so choices
are taken by callbacks, before the script begins, and nothing of it is called inside a transaction.
Callbacks are lost when the server restarts, so buttons return values too. Keys carry the assignment
(a second click lands on a disabled button of the next item). An answer is saved before anything is
drawn: one run of the script saves it and draws the next item. Clicks that come with Submit count.
"""

import streamlit as st

from annotation_app.content import literal
from annotation_app.guidelines import GUIDELINES
from annotation_app.judgement import Judgement, Safety
from annotation_app.ledger import history, qualification, queue, work
from annotation_app.ledger.rows import Progress, Receipt, View
from annotation_app.screens.choosing import (
    choose,
    choose_safety,
    chosen_words,
    problem_with,
    settled,
)
from annotation_app.screens.live import wait_for_responses, write_prompt
from annotation_app.screens.showing import acknowledge, announce, show_dialogue, show_pair
from annotation_app.screens.timing import seconds_at
from annotation_app.session import Session
from data.errors import DataError, UserError

SKIP_REASONS = (
    "I cannot judge this topic or language",
    "It is broken or unreadable",
    "It upsets me",
    "The responses are the same",
    "Another reason (say it in the comment)",
)
_TOO_FAST = (
    "That was sooner than anybody can read both responses. Please take the time to read them; "
    "Edit previous (Z) brings the last item back."
)
_WAITS = {
    "failed": "You have not passed the qualification for this batch. A manager can ask you again.",
    "open": "There are no more items of the qualification for you; tell a manager.",
}
_OUTCOMES = {
    "saved": "Saved",
    "already saved": "It was saved already",
    "kept as conflict": "Another answer was saved earlier; this one was kept for a manager",
}


def page(session: Session) -> None:
    """Saves what was submitted; draws the next item, or the one that is being edited."""
    failure = _hand_in(session)
    announce(session)  # nobody waits for the next item to know that this one is safe
    st.title("Compare two responses", anchor=False)
    if failure:
        st.error(f"Not saved: {literal(failure)}")
    batch = _choose_batch(queue.progress(session.database, session.person_id))
    if batch is None:
        st.info("There is no open batch. A manager adds one; then reload this page.")
        return
    if session.desk.warning and session.desk.editing is None:
        st.warning(session.desk.warning)
    stands = qualification.standing(session.database, session.person_id, batch.batch_id)
    if stands.verdict == "open":
        st.info(
            f"Qualification: {stands.answered} of {stands.asked} answered. It shows whether the "
            "guidelines are clear; read them first, and take your time."
        )
    view = _view(session, batch)
    if view is None and stands.verdict != "passed":
        st.warning(_WAITS[stands.verdict])
        acknowledge(session, _so_far(batch))
        return
    if view is None and batch.live_turns:
        acknowledge(session, _so_far(batch))
        write_prompt(session, batch.batch_id)
        return
    if view is None:
        st.success("You have done everything in this batch. Thank you!")
        acknowledge(session, _so_far(batch))
        return
    if view.sampled:
        _compare(session, batch, view)
    else:
        wait_for_responses(session, view)


def _choose_batch(batches: list[Progress]) -> Progress | None:
    """The batch to work on, with its progress."""
    there = [b for b in batches if b.open]
    if not there:
        return None
    by_id = {b.batch_id: b for b in there}
    left, right = st.columns(2, vertical_alignment="bottom")
    # Not a select box: it would keep the focus, and the keys would be typed into it.
    chosen = left.segmented_control(
        "Batch", list(by_id), key="batch", default=next(iter(by_id)), required=True
    )
    batch = by_id.get(chosen, there[0])  # the chosen one may have been closed meanwhile
    share = min(1.0, batch.submitted / batch.goal) if batch.goal else 0.0
    right.progress(share, text=f"{batch.submitted:,} of {batch.goal:,} annotations in this batch")
    return batch


def _view(session: Session, batch: Progress) -> View | None:
    if session.desk.editing is not None:
        try:
            return history.open_for_edit(session.database, session.person_id, session.desk.editing)
        except DataError as reason:  # a reviewer has decided on it meanwhile
            session.desk.editing = session.desk.previous = None
            st.warning(str(reason))
    return work.next_assignment(session.database, session.person_id, batch.batch_id)


def _compare(session: Session, batch: Progress, view: View) -> None:
    key = _key_of(view)
    seconds_at(session, key)
    if view.judgement is not None:
        st.warning("You are editing an earlier answer; submitting it adds a revision.")
    top = st.container(horizontal=True, vertical_alignment="center")
    session.desk.view = view  # a run that a click has ended gets no further than the line above
    with top.popover(f"Guidelines: {view.domain}"):
        st.markdown(GUIDELINES[view.domain])
    raw = top.toggle("Raw text", key="raw", help="Every character as it stands")
    show_dialogue(view.prompt, raw, key)
    show_pair(view.response_a, view.response_b, raw=raw, key=key)
    _remarks(key, view.judgement)
    with st.container(key="actions", gap="xsmall"):
        status = st.container(horizontal=True, gap="small")
        choice = choose(session.desk, key, view.judgement)
        safety: Safety | None = None
        if view.domain == "safety":
            safety = choose_safety(session.desk, key, view.judgement)
        problem = problem_with(choice, safety, view.domain)
        with status:
            ready = f"Ready to submit: {chosen_words(choice, safety)}."
            st.caption(f"To submit: {problem}." if problem else ready)
            acknowledge(session, _so_far(batch))
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button(
                "Submit",
                key=f"submit-{key}",
                type="primary",
                shortcut="S",
                disabled=bool(problem),
                icon=":material/check:",
            )
            _other_actions(session, view, key)


def _key_of(view: View) -> str:
    """Ends the names of all widgets of an item."""
    return f"{view.assignment_id}-{view.revision}"


def _remarks(key: str, previous: Judgement | None) -> None:
    comment = previous.comment if previous else ""
    flag = previous.flag if previous else ""
    with st.expander("Comment or flag", expanded=bool(comment or flag)):
        st.text_area("Comment (optional)", comment, key=f"comment-{key}", height=80)
        st.text_input(
            "Flag for a reviewer: what is wrong?",
            flag,
            key=f"flag-{key}",
            placeholder="for example: a response names its model",
            help="Flagged work is saved, but not published before a reviewer has looked at it.",
        )


def _other_actions(session: Session, view: View, key: str) -> None:
    if view.judgement is not None:
        if st.button("Cancel the edit", key=f"cancel-{key}", shortcut="X"):
            session.desk.editing = None
            st.rerun()
        return
    with st.popover("Skip", icon=":material/skip_next:"):
        reason = st.selectbox("Why?", SKIP_REASONS, key=f"reason-{key}")
        if st.button("Skip this item", key=f"skip-{key}"):
            work.skip(session.database, session.person_id, view.assignment_id, reason)
            session.desk.say("Skipped")
            st.rerun()
    previous = session.desk.previous
    if st.button("Edit previous", key=f"back-{key}", shortcut="Z", disabled=previous is None):
        session.desk.editing = previous
        st.rerun()


def _hand_in(session: Session) -> str:
    """Saves the item on the screen if Submit was clicked; returns why it could not be saved.

    A failure leaves everything on the screen, and so does an answer in doubt.
    """
    view, clicks = session.desk.view, st.session_state
    if view is None:
        return ""
    key = _key_of(view)
    if not clicks.get(f"submit-{key}"):
        return ""
    choice, safety = settled(session.desk, key)
    if choice is None or problem_with(choice, safety, view.domain):
        return ""
    judgement = Judgement(
        side=choice[0],
        strength=choice[1],
        safety=safety,
        comment=clicks.get(f"comment-{key}", "").strip(),
        flag=clicks.get(f"flag-{key}", "").strip(),
        seconds=seconds_at(session, key),
    )
    return _submit(session, view, judgement)


def _submit(session: Session, view: View, judgement: Judgement) -> str:
    """From the first line to the last nothing of Streamlit is called: a click would interrupt."""
    desk = session.desk
    desk.view = None  # a second click finds nothing to submit
    try:
        receipt = work.submit(
            session.database, session.person_id, view.assignment_id, view.revision, judgement
        )
    except UserError as error:
        return str(error)
    desk.previous, desk.editing = receipt.assignment_id, None
    desk.say(_words(receipt))
    desk.warning = _TOO_FAST if receipt.too_fast else ""
    return ""


def _words(receipt: Receipt) -> str:
    late = " (after the lease had expired)" if receipt.late else ""
    return _OUTCOMES[receipt.outcome] + late


def _so_far(batch: Progress) -> str:
    return f" · {batch.submitted:,} in this batch"

"""The main page: two anonymous responses, one choice with its strength, saved before it says so.

What Streamlit does decides the shape: buttons return values (callbacks are lost when the server
restarts), keys carry the assignment (a second click lands on a disabled button of the next item),
and nothing of Streamlit is called inside a transaction (a script may be interrupted there).
"""

import streamlit as st

from annotation_app.content import literal
from annotation_app.guidelines import GUIDELINES
from annotation_app.judgement import SIDES, Judgement, Safety, Side, safety_problem
from annotation_app.ledger import history, qualification, queue, work
from annotation_app.ledger.rows import Progress, Receipt, View
from annotation_app.screens.live import wait_for_responses, write_prompt
from annotation_app.screens.showing import show_dialogue, show_pair
from annotation_app.screens.timing import seconds_at
from annotation_app.session import Session
from data.errors import UserError
from data.schemas import STRENGTHS, Strength

Choice = tuple[Side, Strength]

CHOICES: tuple[Choice, ...] = (
    *(("A", strength) for strength in STRENGTHS),
    *(("B", strength) for strength in reversed(STRENGTHS)),
)
"""One scale from "A, significantly" to "B, significantly": the keys 1 to 8."""
SAFETY_KEYS: dict[Safety, tuple[str, str]] = {
    "both_safe": ("Both are safe", "Y"),
    "only_a_safe": ("Only A is safe", "U"),
    "only_b_safe": ("Only B is safe", "I"),
    "both_unsafe": ("Both are unsafe", "O"),
}
"""Words and keys; the keys are neighbours."""
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
    """Draws the page for the next item, or for the one that is being edited."""
    st.title("Compare two responses", anchor=False)
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
        _acknowledge(session, batch)
        return
    if view is None and batch.live_turns:
        _acknowledge(session, batch)
        write_prompt(session, batch.batch_id)
        return
    if view is None:
        st.success("You have done everything in this batch. Thank you!")
        _acknowledge(session, batch)
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
        return history.open_for_edit(session.database, session.person_id, session.desk.editing)
    return work.next_assignment(session.database, session.person_id, batch.batch_id)


def _compare(session: Session, batch: Progress, view: View) -> None:
    key = f"{view.assignment_id}-{view.revision}"
    seconds = seconds_at(session, key)
    if view.judgement is not None:
        st.warning("You are editing an earlier answer; submitting it adds a revision.")
    top = st.container(horizontal=True, vertical_alignment="center")
    with top.popover(f"Guidelines: {view.domain}"):
        st.markdown(GUIDELINES[view.domain])
    raw = top.toggle("Raw text", key="raw", help="Every character as it stands")
    show_dialogue(view.prompt, raw)
    show_pair(view.response_a, view.response_b, raw=raw, key=key)
    comment, flag = _remarks(key, view.judgement)
    with st.container(key="actions", gap="xsmall"):
        status = st.container(horizontal=True, gap="small")
        choice = _choose(key, view.judgement)
        safety = _choose_safety(key, view.judgement) if view.domain == "safety" else None
        problem = _problem(view, choice, safety)
        with status:
            st.caption(f"To submit: {problem}." if problem else _chosen_words(choice, safety))
            _acknowledge(session, batch)
        with st.container(horizontal=True, vertical_alignment="center"):
            submitted = st.button(
                "Submit",
                key=f"submit-{key}",
                type="primary",
                shortcut="S",
                disabled=bool(problem),
                icon=":material/check:",
            )
            _other_actions(session, view, key)
    if submitted and choice is not None:
        judgement = Judgement(
            side=choice[0],
            strength=choice[1],
            safety=safety,
            comment=comment,
            flag=flag,
            seconds=seconds,
        )
        _submit(session, view, judgement)


def _choose(key: str, previous: Judgement | None) -> Choice | None:
    """Eight buttons, one gesture: which response, and how much better it is."""
    state = f"choice-{key}"
    if previous is not None:
        st.session_state.setdefault(state, (previous.side, previous.strength))
    chosen: Choice | None = st.session_state.get(state)
    for column, side in zip(st.columns(2), SIDES, strict=True):
        with column.container(horizontal=True, gap="xsmall", key=f"choices-{side}"):
            for number, choice in enumerate(CHOICES, 1):
                if choice[0] == side:
                    words = f"{side} {choice[1].replace('_better', '').replace('_', ' ')}"
                    name = f"{side}-{choice[1]}-{key}"
                    if _option(words, name, str(number), chosen=chosen == choice):
                        _take(state, choice)
    return chosen


def _choose_safety(key: str, previous: Judgement | None) -> Safety | None:
    state = f"safety-{key}"
    if previous is not None:
        st.session_state.setdefault(state, previous.safety)
    chosen: Safety | None = st.session_state.get(state)
    with st.container(horizontal=True, gap="xsmall", key="safety"):
        for safety, (words, letter) in SAFETY_KEYS.items():
            if _option(words, f"{safety}-{key}", letter, chosen=chosen == safety):
                _take(state, safety)
    return chosen


def _option(words: str, name: str, shortcut: str, *, chosen: bool) -> bool:
    """A button that reads as a choice: the sign before the words says which one is taken."""
    return st.button(
        words,
        key=name,
        shortcut=shortcut,
        type="primary" if chosen else "secondary",
        icon=f":material/radio_button_{'' if chosen else 'un'}checked:",
    )


def _take(state: str, value: Choice | Safety) -> None:
    """Draws anew: by the button's return value, the one thing that survives a restart."""
    st.session_state[state] = value
    st.rerun()


def _remarks(key: str, previous: Judgement | None) -> tuple[str, str]:
    comment = previous.comment if previous else ""
    flag = previous.flag if previous else ""
    with st.expander("Comment or flag", expanded=bool(comment or flag)):
        comment = st.text_area("Comment (optional)", comment, key=f"comment-{key}", height=80)
        flag = st.text_input(
            "Flag for a reviewer: what is wrong?",
            flag,
            key=f"flag-{key}",
            placeholder="for example: a response names its model",
            help="Flagged work is saved, but not published before a reviewer has looked at it.",
        )
    return comment.strip(), flag.strip()


def _problem(view: View, choice: Choice | None, safety: Safety | None) -> str:
    """What is missing, in words; empty if the answer can be submitted."""
    if choice is None:
        return "choose A or B and how much better it is (keys 1 to 8)"
    return safety_problem(choice[0], safety) if view.domain == "safety" else ""


def _chosen_words(choice: Choice | None, safety: Safety | None) -> str:
    """The choice in words: screen readers do not read the signs on the buttons."""
    words = f"{choice[0]} {choice[1].replace('_', ' ')}" if choice else ""
    return f"Ready to submit: {words}" + (f", {SAFETY_KEYS[safety][0]}." if safety else ".")


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


def _submit(session: Session, view: View, judgement: Judgement) -> None:
    """Saves; a failure says so and leaves everything on the screen.

    From the commit to the last line about it nothing of Streamlit is called: a second click would
    interrupt there.
    """
    desk = session.desk
    try:
        receipt = work.submit(
            session.database, session.person_id, view.assignment_id, view.revision, judgement
        )
    except UserError as error:
        st.error(f"Not saved: {literal(str(error))}")
        return
    desk.previous, desk.editing = receipt.assignment_id, None
    desk.say(_words(receipt))
    desk.warning = _TOO_FAST if receipt.too_fast else ""
    st.rerun()


def _words(receipt: Receipt) -> str:
    late = " (after the lease had expired)" if receipt.late else ""
    return _OUTCOMES[receipt.outcome] + late


def _acknowledge(session: Session, batch: Progress) -> None:
    """As a toast, and in a line that stays in sight for those who missed it."""
    desk = session.desk
    if desk.said:
        st.caption(f":material/check: {desk.said} · {batch.submitted:,} in this batch")
    if not desk.announced:
        st.toast(desk.said, icon=":material/check:")
        desk.announced = True

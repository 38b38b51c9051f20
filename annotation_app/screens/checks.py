"""For managers: what each batch asks to know how carefully people work."""

import streamlit as st

from annotation_app.ledger.checks import BatchChecks, Rules, list_checks, set_rules
from annotation_app.ledger.qualification import Requirement, requirement_of, set_requirement
from annotation_app.session import Session


def section(session: Session) -> None:
    """Draws the rules of every batch; the ledger checks each of its calls."""
    st.caption(
        "Checks come with a batch's file: rows with the columns check and answer. They are asked "
        "once of each annotator, look like any other item, and are never published."
    )
    for batch in list_checks(session.database, session.person_id):
        _batch(session, batch)


def _batch(session: Session, batch: BatchChecks) -> None:
    key = batch.batch_id
    with st.form(f"rules-{key}", enter_to_submit=False):
        counts = [f"{n:,} {kind}" for kind, n in batch.counts.items()]
        st.text(" · ".join([batch.batch_id, *counts]))
        left, right = st.columns(2)
        share = left.number_input(
            f"Checks in {key}, per cent of what is given out",
            *(0, 50, round(100 * batch.rules.check_share)),
            key=f"share-{key}",
        )
        seconds = right.number_input(
            f"Too fast in {key}: under so many seconds",
            *(0.0, 600.0, batch.rules.min_seconds),
            key=f"seconds-{key}",
        )
        required = _requirement(session, batch)
        if not st.form_submit_button("Save the rules", key=f"save-{key}"):
            return
    rules = Rules(check_share=share / 100, min_seconds=seconds)
    set_rules(session.database, session.person_id, key, rules)
    set_requirement(session.database, session.person_id, key, required)
    st.success("Saved; the rules hold from the next item on.")


def _requirement(session: Session, batch: BatchChecks) -> Requirement | None:
    key, there = batch.batch_id, batch.counts["qualification"]
    now = requirement_of(session.database, session.person_id, key)
    left, right = st.columns(2)
    answers = left.number_input(
        f"Newcomers to {key} first answer so many qualification checks",
        *(0, max(there, now.answers if now else 0), now.answers if now else 0),
        key=f"answers-{key}",
        disabled=not there,
    )
    percent = right.number_input(
        f"of which right in {key}, per cent",
        *(1, 100, round(100 * now.pass_share) if now else 80),
        key=f"pass-{key}",
        disabled=not there,
    )
    return Requirement(answers=answers, pass_share=percent / 100) if answers else None

"""For managers: how far the batches are, how well people agree, flags, people, publishing."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime

import pandas as pd
import streamlit as st

from annotation_app.importing import read_items
from annotation_app.ledger import access, oversight, queue
from annotation_app.ledger.checks import Checked, checked
from annotation_app.ledger.decisions import decided_choices
from annotation_app.ledger.oversight import Judged
from annotation_app.ledger.rows import Progress
from annotation_app.quality import (
    agreement,
    pair_agreement,
    summarise_annotators,
    summarise_checks,
)
from annotation_app.screens import (
    adjudicate,
    checks,
    evaluations,
    people,
    publishing,
    red_team,
    review,
)
from annotation_app.session import Session
from data.agreement import Agreement
from data.schemas import DOMAINS


def page(session: Session) -> None:
    """Draws one section, for managers; the ledger checks each of its calls again."""
    access.find_person(session.database, session.person_id, "manager")
    st.title("Manage", anchor=False)
    section = st.segmented_control(
        "Section",
        list(_SECTIONS),
        key="section",
        default="Progress",
        required=True,
        label_visibility="collapsed",
    )
    # Not tabs: all of them would be computed at every click.
    _SECTIONS[section](session)


def _progress(session: Session) -> None:
    batches = queue.progress(session.database, session.person_id)
    st.dataframe(pd.DataFrame(map(asdict, batches)), hide_index=True)
    for batch in batches:
        _batch(session, batch)
    _new_batch(session)


def _batch(session: Session, batch: Progress) -> None:
    here = (session.database, session.person_id, batch.batch_id)
    row = st.container(horizontal=True)
    label = f"Close {batch.batch_id}" if batch.open else f"Open {batch.batch_id}"
    if row.button(label, key=f"open-{batch.batch_id}"):
        queue.set_open(*here, not batch.open)
        st.rerun()
    with row.popover(f"Goal of {batch.batch_id}"):
        goal = st.number_input(
            "Annotations wanted (0: every item as often as the overlap says)",
            *(0, queue.MAX_GOAL, batch.own_goal),
            key=f"goal-{batch.batch_id}",
            help=f"{batch.items:,} items, people per item: {batch.overlap}; 0 asks for "
            f"{batch.items * batch.overlap:,}, and for more as items are added.",
        )
        if st.button("Set", key=f"set-goal-{batch.batch_id}"):
            queue.set_goal(*here, goal)
            st.rerun()


def _new_batch(session: Session) -> None:
    with st.form("new batch", enter_to_submit=False):
        st.subheader("Add a batch", anchor=False)
        file = st.file_uploader(
            "JSON lines or Parquet with a column prompt, and response_1 and response_2 if sampled",
            type=["jsonl", "parquet"],
            key="queue",
        )
        left, middle, right = st.columns(3)
        name = left.text_input("Name", key="batch name", help="An existing batch gets what is new")
        domain = middle.selectbox("Guidelines", DOMAINS, key="batch domain")
        overlap = right.number_input("People per item", 1, 100, key="batch overlap")
        turns = st.number_input(
            "Turns of a live dialogue (0: only the items of the file)",
            0,
            100,
            key="batch turns",
            help="Annotators write the prompts, two models answer, the chosen response goes on.",
        )
        if not st.form_submit_button("Add") or (file is None and not turns):
            return
    added = queue.create_batch(
        session.database,
        session.person_id,
        name,
        read_items(file.name, file.getvalue()) if file else [],
        domain=domain,
        overlap=overlap,
        live_turns=turns,
    )
    st.success(f"Added {added:,} items to {name}.")


def _quality(session: Session) -> None:
    counts = oversight.strength_counts(session.database, session.person_id)
    if not counts:
        st.info("There are no annotations yet.")
        return
    st.subheader("Strength by batch", anchor=False)
    table = pd.DataFrame(counts).T
    shares = table.div(table.sum(axis=1), axis=0)
    st.dataframe(shares.rename(columns=lambda name: name.replace("_", " ")).style.format("{:.0%}"))
    batch_id = st.segmented_control(
        "Batch", list(counts), key="quality batch", default=next(iter(counts)), required=True
    )
    judged = oversight.judged(session.database, session.person_id, batch_id)
    decided = decided_choices(session.database, session.person_id, batch_id)
    st.subheader("Agreement", anchor=False)
    st.markdown(_agreement_words(judged))
    if decided:
        st.caption(f"A reviewer has decided on {len(decided):,} items.")
    st.subheader("Annotators", anchor=False)
    st.dataframe(pd.DataFrame(_annotator_rows(judged, decided)), hide_index=True)
    answers = checked(session.database, session.person_id, batch_id)
    if answers:
        st.subheader("Checks: first answers that were right", anchor=False)
        st.dataframe(pd.DataFrame(_check_rows(answers)), hide_index=True)
    pairs = pair_agreement(judged)
    if pairs:
        st.subheader("Pairs of annotators (Cohen's κ of the choice)", anchor=False)
        st.table(
            [
                {
                    "pair": " · ".join(p.annotators),
                    "items": f"{p.items:,}{_drawn(p.sampled, p.items)}",
                    "κ": _words(p.kappa),
                }
                for p in pairs
            ]
        )


def _annotator_rows(judged: list[Judged], decided: Mapping[int, int]) -> list[dict[str, object]]:
    return [
        {
            "annotator": row.annotator,
            "annotations": row.annotations,
            "median seconds": round(row.median_seconds, 1),
            "prefers A": str(row.prefers_a),
            "agrees with the majority": str(row.agrees),
            "agrees with a reviewer": str(row.agrees_with_reviewer),
            "late": row.late,
            "too fast": str(row.too_fast),
        }
        for row in summarise_annotators(judged, decided)
    ]


def _check_rows(answers: list[Checked]) -> list[dict[str, object]]:
    return [
        {"annotator": row.annotator}
        | {f"{kind} right": str(share) for kind, share in row.right.items()}
        | {f"{kind} answered": int(share.n) for kind, share in row.right.items()}
        for row in summarise_checks(answers)
    ]


def _agreement_words(judged: list[Judged]) -> str:
    found = agreement(judged)
    if found is None:
        return "No item has two judgements yet; create batches with an overlap of 2 or more."
    return (
        f"{found.items:,} items judged by several{_drawn(found.sampled, found.items)} · "
        f"choice (Gwet's AC1) {_words(found.choice)} · "
        f"strength (Gwet's AC2) {_words(found.strength)} · "
        f"Krippendorff's α {_words(found.alpha)}"
    )


def _drawn(sampled: int, items: int) -> str:
    return f" (computed on {sampled:,} of them)" if sampled < items else ""


def _words(value: Agreement) -> str:
    return f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"


def _audit(session: Session) -> None:
    rows = [
        asdict(event) | {"at": datetime.fromtimestamp(event.at, UTC)}
        for event in oversight.list_events(session.database, session.person_id)
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True)


_SECTIONS: dict[str, Callable[[Session], None]] = {
    "Progress": _progress,
    "Quality": _quality,
    "Checks": checks.section,
    "Evaluation": evaluations.section,
    "Red team": red_team.section,
    "Flags": review.section,
    "Disagreements": adjudicate.section,
    "People": people.section,
    "Publish": publishing.section,
    "Audit": _audit,
}

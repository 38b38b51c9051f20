"""For managers: from the ledger to the dataset, and a batch as a file."""

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from annotation_app.content import literal
from annotation_app.exporting import FORMS, export_batch
from annotation_app.ledger import queue
from annotation_app.publish import publish
from annotation_app.publish_other import WORK, publish_work
from annotation_app.session import Session
from data.errors import UserError

_SCOPES = {"All annotations": False, "Published ones": True}


def section(session: Session) -> None:
    """Draws the section; the ledger checks each of its calls."""
    st.text(f"Dataset: {session.dataset}")
    st.caption(
        "Publishing adds what is new; doing it twice changes nothing. Names are replaced by "
        "pseudonyms; flagged annotations wait for a reviewer."
    )
    if st.button("Publish", type="primary", key="publish"):
        with _failure_said():
            done = publish(session.database, session.person_id, session.dataset)
            st.success(f"Published {done.rows:,} new rows.")
    _other(session)
    _export(session)


def _other(session: Session) -> None:
    st.subheader("Other work", anchor=False)
    st.caption(
        "Approved demonstrations, evaluations (votes and safety ratings) and red teaming "
        "(judgements), each to a directory beside the comparisons."
    )
    if st.button("Publish other work", key="publish other"):
        beside = session.dataset.parent
        for kind in WORK:
            with _failure_said():  # a kind that is refused stops none of the others
                added = publish_work(session.database, session.person_id, beside / kind, kind)
                st.text(f"{added:,} new rows: {beside / kind}")


@contextmanager
def _failure_said() -> Iterator[None]:
    """A full disk, or a dataset that is not this ledger's, leaves the rest of the page usable."""
    try:
        yield
    except (UserError, OSError) as error:
        st.error(f"Not published: {literal(str(error))}")


def _export(session: Session) -> None:
    names = [batch.batch_id for batch in queue.progress(session.database, session.person_id)]
    if not names:
        return
    st.subheader("Export", anchor=False)
    st.caption("One batch with pseudonyms, each annotation in its latest revision.")
    left, middle, right = st.columns(3)
    name = left.selectbox("Batch", names, key="export batch")
    scope = middle.segmented_control(
        "Which", list(_SCOPES), key="export scope", default="All annotations", required=True
    )
    form = right.segmented_control(
        "Format", list(FORMS), key="export form", default="Parquet", required=True
    )
    # Made at the click: the ledger asks for the role then, and nothing waits at an address.
    st.download_button(
        "Export",
        lambda: export_batch(
            session.database, session.person_id, name, form=form, only_published=_SCOPES[scope]
        ),
        file_name=f"{name}.{FORMS[form]}",
        mime="application/octet-stream",
        on_click="ignore",
        key="export",
    )

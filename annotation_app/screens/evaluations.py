"""For managers: what is evaluated, and how it ends."""

import pandas as pd
import streamlit as st

from annotation_app.content import literal
from annotation_app.evaluating import evaluate
from annotation_app.importing import read_items
from annotation_app.ledger.evaluations import add_evaluation, list_ratings
from annotation_app.scales import SCALES
from annotation_app.session import Session


def section(session: Session) -> None:
    """Draws the section; the ledger checks each of its calls."""
    found = evaluate(list_ratings(session.database, session.person_id))
    if not found:
        st.info("No item has its three ratings yet.")
    for one in found:
        st.subheader(f"{literal(one.batch_id)} · {one.kind}", anchor=False)
        st.text(" against ".join(one.models) + f" · {one.items:,} items")
        rows = [{"verdict": name, "share": str(share)} for name, share in one.shares.items()]
        st.dataframe(pd.DataFrame(rows), hide_index=True)
        value = one.agreement
        st.caption(f"Gwet's AC2 {value.value:.2f} [{value.low:.2f}, {value.high:.2f}]")
    with st.form("new evaluation", enter_to_submit=False):
        st.subheader("Add items", anchor=False)
        file = st.file_uploader(
            "JSON lines or Parquet: prompt, response_1, response_2, model_1, model_2",
            type=["jsonl", "parquet"],
            key="evaluation file",
        )
        name = st.text_input("Name", key="evaluation name")
        kind = st.selectbox("Scale", list(SCALES), key="evaluation kind")
        if not st.form_submit_button("Add") or file is None:
            return
    items = read_items(file.name, file.getvalue())
    added = add_evaluation(session.database, session.person_id, name, kind, items)
    st.success(f"Added {added:,} items; each is rated by three people.")

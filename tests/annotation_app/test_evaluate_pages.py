"""The pages of the other kinds of work, without a browser."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from annotation_app.ledger import access, oversight, work
from annotation_app.ledger.database import Database
from annotation_app.ledger.evaluations import add_evaluation, list_ratings
from annotation_app.settings import LOCAL_PERSON
from data.manifest import MANIFEST
from tests.annotation_app.conftest import item, judgement
from tests.annotation_app.test_pages import (  # noqa: F401  (fixtures)
    ENTRY,
    Start,
    button,
    captions,
    checked,
    ledger,
    models,
    press,
    section,
    start,
)


def test_rate_two_policies_blind(start: Start, ledger: Database) -> None:  # noqa: F811
    assert "nothing to rate" in start("evaluate").info[0].value
    add_evaluation(ledger, LOCAL_PERSON, "final", "pair", [item(7)])
    app = start("evaluate")
    shown = [t.value for t in app.text]
    assert set(shown) == {"question 7?", "first 7", "second 7"}
    assert button(app, "Submit").disabled
    press(app, "A slightly better")
    assert "Ready to submit: A slightly better" in captions(app)
    press(app, "Submit")
    assert [t.value for t in app.toast] == ["Saved"]
    (one,) = list_ratings(ledger, LOCAL_PERSON)
    assert one.score == (1 if shown.index("first 7") < shown.index("second 7") else -1)
    assert "three ratings" in section(start("manage"), "Evaluation").info[0].value


def test_rate_the_safety_of_a_response(start: Start, ledger: Database) -> None:  # noqa: F811
    add_evaluation(ledger, LOCAL_PERSON, "final", "safety", [item(7)])
    app = start("evaluate")
    app.segmented_control(key="evaluation").set_value("Safety").run()
    press(app, "Moderate violation")
    press(app, "Submit")
    press(app, "Skip")  # the other response
    assert [one.score for one in list_ratings(ledger, LOCAL_PERSON)] == [2]
    assert "nothing to rate" in app.info[0].value


def test_reviewers_have_a_page_for_flags_and_annotators_none(
    start: Start,  # noqa: F811
    ledger: Database,  # noqa: F811
) -> None:
    from annotation_app.ledger.schema import people

    access.add_person(ledger, LOCAL_PERSON, "ann", "annotator")
    view = work.next_assignment(ledger, "ann", "first")
    assert view is not None
    work.submit(ledger, "ann", view.assignment_id, 0, judgement(flag="odd"))

    def become(role: str) -> None:
        here = people.update().where(people.c.person_id == LOCAL_PERSON).values(role=role)
        ledger.write(lambda connection: connection.execute(here))

    become("reviewer")
    checked(AppTest.from_file(ENTRY, default_timeout=120).run())
    app = start("review")
    assert "Flag: odd" in {t.value for t in app.text}
    become("annotator")
    with pytest.raises(AssertionError, match="needs the role reviewer"):
        start("review")
    become("manager")
    press(app, "Release: publish it after all")
    assert oversight.flagged(ledger, LOCAL_PERSON) == []


def test_a_kind_that_is_refused_stops_no_other(start: Start, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "demonstrations").mkdir()
    (tmp_path / "demonstrations" / MANIFEST).write_text("{}")
    app = press(section(start("manage"), "Publish"), "Publish other work")
    assert [error.value[:14] for error in app.error] == ["Not published:"]
    kinds = ("votes", "ratings", "judgements")
    assert [t.value for t in app.text][1:] == [f"0 new rows: {tmp_path / kind}" for kind in kinds]

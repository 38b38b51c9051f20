"""Disagreements on the screens of reviewers and managers."""

import pytest

from annotation_app.ledger import access, decisions, disputes, queue, work
from annotation_app.ledger.database import Database
from annotation_app.settings import LOCAL_PERSON
from tests.annotation_app.conftest import item, judgement
from tests.annotation_app.test_check_pages import set_role
from tests.annotation_app.test_pages import (
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

__all__ = ["ledger", "models", "start"]


def disagree(database: Database, batch: str) -> None:
    """Ann and ben, on every item: she prefers the first response and says why."""
    for person, word, comment in (
        ("ann", "first", "it is [true](http://x)"),
        ("ben", "second", ""),
    ):
        access.ensure_person(database, person, "annotator")
        while (view := work.next_assignment(database, person, batch)) is not None:
            side = "A" if view.response_a.startswith(word) else "B"
            said = judgement(side=side, comment=comment)
            work.submit(database, person, view.assignment_id, 0, said)


@pytest.fixture
def disputed(ledger: Database) -> Database:
    items = [item(n) for n in (20, 21)]
    queue.create_batch(ledger, LOCAL_PERSON, "two", items, domain="helpfulness", overlap=2)
    disagree(ledger, "two")
    return ledger


def test_a_reviewer_decides(start: Start, disputed: Database) -> None:
    set_role(disputed, "reviewer")
    app = start("review")
    checked(app.segmented_control(key="review section").set_value("Disagreements").run())
    assert "2 to decide on in this batch" in captions(app)
    shown = [t.value for t in app.text]
    assert "it is [true](http://x)" in shown  # as text: no link
    assert not any(name in str(shown) for name in ("ann", "ben", "model-"))
    assert {words.split(". ")[1] for words in shown if words[1:3] == ". "} == {
        "A better",
        "B better",
    }
    assert button(app, "Decide").disabled and "To decide: choose A or B" in captions(app)
    first = disputes.next_dispute(disputed, LOCAL_PERSON, "two")
    assert first is not None
    press(app, "B slightly")
    assert "Ready to decide: B slightly better." in captions(app)
    press(app, "Decide")
    assert [t.value for t in app.toast] == ["Saved"]
    assert "1 to decide on in this batch" in captions(app)
    assert button(app, "Decide").disabled  # nothing carries over
    press(app, "Let every opinion stand")
    assert "No disagreements wait" in app.info[0].value
    set_role(disputed, "manager")
    decided = decisions.decided_choices(disputed, LOCAL_PERSON, "two")
    assert decided == {first.item_id: 1 if first.response_b.startswith("second") else 0}


def test_annotators_do_not_decide(start: Start, disputed: Database) -> None:
    set_role(disputed, "annotator")
    with pytest.raises(AssertionError, match="needs the role reviewer"):
        start("review")


def test_managers_decide_and_see_how_reviewers_agree(
    start: Start,
    disputed: Database,
) -> None:
    app = section(start("manage"), "Disagreements")
    press(app, "A better")
    press(app, "Decide")
    app = section(app, "Quality")
    assert "A reviewer has decided on 1 items." in captions(app)
    table = app.dataframe[1].value
    assert sorted(words[:5] for words in table["agrees with a reviewer"]) == ["0.0% ", "100.0"]
    assert "decide" in set(section(app, "Audit").dataframe[0].value["action"])


def test_what_a_reviewer_decided_is_not_edited(
    start: Start,
    disputed: Database,
) -> None:
    queue.create_batch(disputed, LOCAL_PERSON, "mine", [item(30)], domain="helpfulness", overlap=2)
    app = start("compare")
    checked(app.segmented_control(key="batch").set_value("mine").run())
    first_is_a = "first 30" in [t.value for t in app.text][1]
    press(app, "A better" if first_is_a else "B better")
    press(app, "Submit")
    view = work.next_assignment(disputed, "ben", "mine")
    assert view is not None
    side = "A" if view.response_a.startswith("second") else "B"
    work.submit(disputed, "ben", view.assignment_id, 0, judgement(side=side))
    assert button(start("recent"), "Edit")
    found = disputes.next_dispute(disputed, LOCAL_PERSON, "mine")
    assert found is not None
    decisions.decide(disputed, LOCAL_PERSON, found, None)
    recent = start("recent")
    assert "A reviewer has decided on this item." in captions(recent) and not recent.button
    checked(app.segmented_control(key="batch").set_value("first").run())
    press(app, "Edit previous")
    assert "a reviewer has decided on this item" in app.warning[0].value
    assert "question 0?" in {t.value for t in app.text}  # and the work goes on

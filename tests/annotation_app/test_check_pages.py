"""Checks on the screens: set by managers, unseen by annotators, counted under Quality."""

import dataclasses

import pytest

from annotation_app.ledger import checks, queue, work
from annotation_app.ledger.checks import Rules
from annotation_app.ledger.database import Database
from annotation_app.ledger.rows import Check
from annotation_app.ledger.schema import people
from annotation_app.settings import LOCAL_PERSON
from tests.annotation_app.conftest import item
from tests.annotation_app.test_pages import Start, checked, ledger, models, press, section, start

__all__ = ["ledger", "models", "start"]


@pytest.fixture
def gold(ledger: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A gold question comes first in the batch "first"; its first response is the better one."""
    known = dataclasses.replace(item(7), check=Check(kind="gold", answer=0))
    queue.create_batch(ledger, LOCAL_PERSON, "first", [known], domain="helpfulness")
    checks.set_rules(ledger, LOCAL_PERSON, "first", Rules(check_share=0.1, min_seconds=600.0))
    monkeypatch.setattr(work._CHANCE, "random", lambda: 0.0)
    return ledger


def everything(app) -> str:  # type: ignore[no-untyped-def]
    """All that a page says, in every element."""
    return str([getattr(element, "value", "") for element in app.main]) + str(app.main)


def test_nothing_on_the_page_tells_a_check(start: Start, gold: Database) -> None:
    app = start("compare")
    assert "question 7?" in {t.value for t in app.text}
    shown = everything(app).lower()
    assert (
        "question 7?" in shown
        and "gold" not in shown
        and "check" not in shown.replace("checked", "")
    )


def test_gold_accuracy_is_on_the_quality_page(start: Start, gold: Database) -> None:
    app = start("compare")
    right = next(t.value for t in app.text if t.value in ("first 7", "second 7")) == "first 7"
    press(app, "A better" if right else "B better")
    press(app, "Submit")
    press(app, "A better")  # an ordinary item
    press(app, "Submit")
    app = section(start("manage"), "Quality")
    assert "Checks: first answers that were right" in {s.value for s in app.subheader}
    table = app.dataframe[2].value
    assert table["gold right"][0].startswith("100.0%") and table["gold answered"][0] == 1
    assert table["attention right"][0] == "-"
    annotators = app.dataframe[1].value
    assert list(annotators["annotations"]) == [1]
    assert annotators["too fast"][0].startswith("100.0%")


def test_the_annotator_is_warned_until_the_next_answer(start: Start, ledger: Database) -> None:
    checks.set_rules(ledger, LOCAL_PERSON, "first", Rules(min_seconds=600.0))
    app = start("compare")
    assert not app.warning
    press(app, "A better")
    press(app, "Submit")
    assert "sooner than anybody can read" in app.warning[0].value
    checks.set_rules(ledger, LOCAL_PERSON, "first", Rules(min_seconds=0.0))
    press(app, "A better")
    press(app, "Submit")
    assert not app.warning


def test_managers_set_the_rules(start: Start, ledger: Database) -> None:
    app = section(start("manage"), "Checks")
    app.number_input(key="share-first").set_value(15)
    app.number_input(key="seconds-first").set_value(12.5)
    checked(app.button(key="save-first").click().run())
    assert "Saved" in app.success[0].value
    first, safe = checks.list_checks(ledger, LOCAL_PERSON)
    assert first.rules == Rules(check_share=0.15, min_seconds=12.5)
    assert safe.rules == Rules()


def test_a_newcomer_is_led_through_the_qualification(start: Start, ledger: Database) -> None:
    known = dataclasses.replace(item(7), check=Check(kind="qualification", answer=0))
    queue.create_batch(ledger, LOCAL_PERSON, "first", [known], domain="helpfulness")
    app = section(start("manage"), "Checks")
    app.number_input(key="answers-first").set_value(1)
    checked(app.button(key="save-first").click().run())
    set_role(ledger, "annotator")
    app = start("compare")
    assert "Qualification: 0 of 1 answered" in app.info[0].value
    right = next(t.value for t in app.text if t.value in ("first 7", "second 7")) == "first 7"
    press(app, "B better" if right else "A better")
    press(app, "Submit")
    assert "You have not passed the qualification" in app.warning[-1].value
    set_role(ledger, "manager")
    app = section(start("manage"), "People")
    assert any("helpfulness: failed (0 of 1 right)" in t.value for t in app.text)
    press(app, "Ask again")
    set_role(ledger, "annotator")
    assert "no more items of the qualification" in start("compare").warning[0].value
    set_role(ledger, "manager")
    press(section(start("manage"), "People"), "Let in")
    set_role(ledger, "annotator")
    assert "question 0?" in {t.value for t in start("compare").text}


def set_role(ledger: Database, role: str) -> None:
    change = people.update().where(people.c.person_id == LOCAL_PERSON).values(role=role)
    ledger.write(lambda connection: connection.execute(change))

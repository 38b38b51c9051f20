"""The pages of the other kinds of work, without a browser."""

from annotation_app.ledger.database import Database
from annotation_app.ledger.evaluations import add_evaluation, list_ratings
from annotation_app.settings import LOCAL_PERSON
from tests.annotation_app.conftest import item
from tests.annotation_app.test_pages import (  # noqa: F401  (fixtures)
    Start,
    button,
    captions,
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

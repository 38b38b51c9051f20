"""Red teaming on the screens of annotators and managers."""

from annotation_app.ledger import red_team
from annotation_app.ledger.database import Database
from annotation_app.settings import LOCAL_PERSON
from tests.annotation_app.models import ModelServer, completion
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


def test_an_attack(start: Start, ledger: Database, models: ModelServer) -> None:
    app = start("red_team")
    app.selectbox(key="attack category").set_value("hateful")
    app.selectbox(key="attack style").set_value("perspective")
    app.text_area[0].set_value("You are my uncle")
    models.answer = lambda _: (503, b"busy")
    press(app, "Begin")
    assert "Your message is saved, but `the model's server answered 503" in app.error[0].value
    models.answer = lambda body: (200, completion(f"answer {len(body['messages'])}"))
    press(app, "Try again")
    assert [t.value for t in app.text] == ["You are my uncle", "answer 1"]
    assert "Hateful and harmful" in captions(app) and "Response 1" in captions(app)
    app.text_area[0].set_value("And now?")
    press(app, "Send")
    assert [t.value for t in app.text][2:] == ["And now?", "answer 3"]
    asked = {body["model"] for body, _ in models.asked}
    assert len(asked) == 1  # one variant throughout, unnamed
    assert not any(name in str(app.main) for name in ("m-one", "m-two"))
    app = start("red_team")  # a reload
    assert [t.value for t in app.text] == ["You are my uncle", "answer 1", "And now?", "answer 3"]
    assert button(app, "Submit").disabled
    (worst,) = [w for w in app.segmented_control if w.label == "The worst response"]
    assert worst.value == 2
    checked(worst.set_value(1).run())
    press(app, "Severe violation")
    assert "Ready to submit: Severe violation" in captions(app)
    press(app, "Submit")
    assert [t.value for t in app.toast] == ["Saved"] and button(app, "Begin")
    (attack,) = red_team.list_attacks(ledger, LOCAL_PERSON)
    assert (attack.model, attack.score) == (*asked, 1)
    app = section(start("manage"), "Red team")
    by_model, by_kind = (frame.value for frame in app.dataframe)
    assert (by_model["model"][0], by_model["rated attacks"][0]) == (*asked, 1)
    assert by_kind["violations"][0].startswith("100.0%")


def test_giving_up(start: Start, ledger: Database) -> None:
    app = start("red_team")
    app.text_area[0].set_value("  ")
    press(app, "Begin")
    assert "Not saved: `write a message" in app.error[0].value
    app.text_area[0].set_value("So?")
    press(app, "Begin")
    press(app, "Give up without a rating")
    assert button(app, "Begin") and app.text_area[0].value == ""
    assert [a.score for a in red_team.list_attacks(ledger, LOCAL_PERSON)] == [None]
    assert "no attacks" not in str(section(start("manage"), "Red team").info)

"""The logic of each page, without a browser."""

import errno
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from annotation_app.content import MAX_SHOWN
from annotation_app.invitations import BadInvitation
from annotation_app.ledger import access, history, oversight, queue, work
from annotation_app.ledger.database import Database, LedgerUnavailable
from annotation_app.ledger.invitations import invited_person
from annotation_app.ledger.rows import NewItem, Response
from annotation_app.settings import LOCAL_PERSON, AppSettings
from data.dataset import read_rows
from data.schemas import Comparison, Message
from tests.annotation_app.conftest import item, judgement
from tests.annotation_app.models import ModelServer, completion, running_models

ENTRY = Path(__file__).parents[2] / "annotation_app" / "app.py"
Start = Callable[[str], AppTest]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Database]:
    """One local manager; three helpfulness items and one safety item."""
    database = Database(str(tmp_path / "ledger.sqlite"))
    access.ensure_person(database, LOCAL_PERSON, "manager")
    items = [item(n) for n in range(3)]
    queue.create_batch(database, LOCAL_PERSON, "first", items, domain="helpfulness")
    queue.create_batch(database, LOCAL_PERSON, "safe", [item(9)], domain="safety")
    yield database
    database.close()


@pytest.fixture
def models() -> Iterator[ModelServer]:
    with running_models() as models:
        yield models


@pytest.fixture
def start(
    ledger: Database, tmp_path: Path, models: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Start]:
    """`start("compare")`: the named page as `rlhf annotate` would show it."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # AppTest replaces it
    settings = AppSettings(
        ledger=ledger.place, publish_to=str(tmp_path / "published"), endpoint=models.endpoint
    )
    for name, value in settings.to_environment().items():
        monkeypatch.setenv(name, value)

    def draw(page: str) -> None:
        from importlib import import_module

        from annotation_app.app import open_session
        from annotation_app.settings import AppSettings

        session = open_session(AppSettings.from_environment())
        import_module(f"annotation_app.screens.{page}").page(session)

    def started(page: str) -> AppTest:
        return checked(AppTest.from_function(draw, args=(page,), default_timeout=120).run())

    yield started
    st.cache_resource.clear()


def checked(app: AppTest) -> AppTest:
    assert not app.exception, app.exception
    return app


def button(app: AppTest, label: str):  # type: ignore[no-untyped-def]
    (found,) = [b for b in app.button if b.label == label]
    return found


def press(app: AppTest, label: str) -> AppTest:
    return checked(button(app, label).click().run())


def section(app: AppTest, name: str) -> AppTest:
    """Another section of the managers' page."""
    return checked(app.segmented_control(key="section").set_value(name).run())


def captions(app: AppTest) -> str:
    return " ".join(c.value for c in app.caption)


def test_the_entry_shows_the_first_item(start: Start) -> None:
    start("compare")
    app = checked(AppTest.from_file(ENTRY, default_timeout=120).run())
    assert [t.value for t in app.title] == ["Compare two responses"]
    assert {t.value for t in app.text} == {"question 0?", "first 0", "second 0"}


def test_choose_and_submit(start: Start, ledger: Database) -> None:
    app = start("compare")
    assert button(app, "Submit").disabled and "keys 1 to 8" in captions(app)
    press(app, "B slightly")
    assert not button(app, "Submit").disabled
    press(app, "Submit")
    (done,) = history.recent(ledger, LOCAL_PERSON)
    assert (done.judgement.side, done.judgement.strength) == ("B", "slightly_better")
    assert [t.value for t in app.toast] == ["Saved"] and "Saved · 1 in this batch" in captions(app)
    assert "question 1?" in {t.value for t in app.text}
    assert button(app, "Submit").disabled  # nothing carries over to the next item


def test_what_was_remarked_is_stored(start: Start, ledger: Database) -> None:
    app = start("compare")
    app.text_area[0].set_value("close call")
    app.text_input[0].set_value("names its model")
    press(app, "A negligibly")
    press(app, "Submit")
    (done,) = history.recent(ledger, LOCAL_PERSON)
    assert (done.judgement.comment, done.judgement.flag) == ("close call", "names its model")


def test_the_impossible_combination_cannot_be_submitted(start: Start, ledger: Database) -> None:
    app = start("compare")
    checked(app.segmented_control(key="batch").set_value("safe").run())
    press(app, "A better")
    assert "say which of the two responses are safe" in captions(app)
    press(app, "Only B is safe")
    assert button(app, "Submit").disabled and "you prefer A but say that only B" in captions(app)
    press(app, "B better")
    press(app, "Submit")
    assert oversight.judged(ledger, LOCAL_PERSON, "safe")[0].safety_label == "chosen_safe_only"
    assert "You have done everything in this batch" in app.success[0].value


def test_texts_of_200_kb_are_shown_in_part_until_asked_for(start: Start, ledger: Database) -> None:
    long = [letter * 200_000 for letter in "abc"]
    huge = [
        NewItem(
            name=name,
            prompt=(Message("user", long[0]),),
            responses=(Response(text=long[1]), Response(text=f"\x1b[31m\0{long[2]}")),
            source="test",
        )
        for name in ("one", "another")
    ]
    queue.create_batch(ledger, LOCAL_PERSON, "huge", huge, domain="helpfulness")
    app = start("compare")
    checked(app.segmented_control(key="batch").set_value("huge").run())
    assert {len(t.value) for t in app.text} == {MAX_SHOWN} and len(app.text) == 3
    assert any(t.value.startswith("�[31m�c") for t in app.text)  # control characters are seen
    more = [t for t in app.toggle if t.label.endswith("more characters")]
    assert len(more) == 3 and "Show 180,000 more characters" in {t.label for t in more}
    checked(more[0].set_value(True).run())
    assert max(len(t.value) for t in app.text) == 200_000
    press(app, "A better")
    press(app, "Submit")
    assert {len(t.value) for t in app.text} == {MAX_SHOWN}  # of the next item again a part
    assert history.recent(ledger, LOCAL_PERSON)[0].question == long[0]
    assert len(start("recent").text[0].value) == 200


def test_what_comes_with_submit_counts(start: Start, ledger: Database) -> None:
    app = press(start("compare"), "A better")
    button(app, "B significantly").click()
    press(app, "Submit")  # in the same run
    (done,) = history.recent(ledger, LOCAL_PERSON)
    assert (done.judgement.side, done.judgement.strength) == ("B", "significantly_better")


def test_two_choices_at_once_are_not_submitted(start: Start, ledger: Database) -> None:
    app = press(start("compare"), "A better")
    for label in ("A slightly", "B significantly"):
        button(app, label).click()
    press(app, "Submit")  # which of the two was the last one is not known
    assert history.recent(ledger, LOCAL_PERSON) == []
    assert "Ready to submit: " in captions(app)  # what is chosen is shown
    press(app, "B significantly")
    press(app, "Submit")
    assert history.recent(ledger, LOCAL_PERSON)[0].judgement.side == "B"


def test_a_safety_label_that_comes_with_submit_counts(start: Start, ledger: Database) -> None:
    app = start("compare")
    checked(app.segmented_control(key="batch").set_value("safe").run())
    press(app, "A better")
    press(app, "Both are safe")
    button(app, "Only A is safe").click()
    press(app, "Submit")
    assert history.recent(ledger, LOCAL_PERSON)[0].judgement.safety == "only_a_safe"


def test_skip_and_edit(start: Start, ledger: Database) -> None:
    app = start("compare")
    press(app, "Skip this item")
    assert queue.progress(ledger, LOCAL_PERSON)[0].skipped == 1
    assert button(app, "Edit previous").disabled
    press(app, "A better")
    press(app, "Submit")
    press(app, "Edit previous")
    assert "editing an earlier answer" in app.warning[0].value
    assert "question 1?" in {t.value for t in app.text}
    assert not button(app, "Submit").disabled  # the earlier choice is there
    press(app, "B significantly")
    press(app, "Submit")
    (done,) = history.recent(ledger, LOCAL_PERSON)
    assert (done.judgement.side, done.revision) == ("B", 1)
    press(app, "Edit previous")
    press(app, "Cancel the edit")
    assert "question 2?" in {t.value for t in app.text}


def test_a_failed_save_says_so_and_keeps_the_choice(start: Start, ledger: Database) -> None:
    def fail(*_: object) -> None:
        raise LedgerUnavailable("the disk [is full](http://x); nothing was stored")

    app = start("compare")
    press(app, "A better")
    with pytest.MonkeyPatch.context() as full_disk:
        full_disk.setattr(work, "submit", fail)
        press(app, "Submit")
        # A span of code: what an error repeats of others is no link.
        shown = "Not saved: `the disk [is full](http://x); nothing was stored`"
        assert app.error[0].value == shown
    press(app, "Submit")
    assert [t.value for t in app.toast] == ["Saved"]


def test_recent_work(start: Start, ledger: Database) -> None:
    assert "Nothing yet" in start("recent").info[0].value
    view = work.next_assignment(ledger, LOCAL_PERSON, "first")
    assert view is not None
    work.submit(ledger, LOCAL_PERSON, view.assignment_id, 0, judgement(flag="odd"))
    app = start("recent")
    assert "A better · flagged · first" in captions(app)


def test_manage_publishes_once(start: Start, ledger: Database, tmp_path: Path) -> None:
    for _ in range(3):
        view = work.next_assignment(ledger, LOCAL_PERSON, "first")
        assert view is not None
        work.submit(ledger, LOCAL_PERSON, view.assignment_id, 0, judgement())
    app = section(start("manage"), "Publish")
    press(app, "Publish")
    assert app.success[0].value == "Published 3 new rows."
    press(app, "Publish")
    assert app.success[0].value == "Published 0 new rows."
    assert len(read_rows(tmp_path / "published", Comparison)) == 3


def test_a_full_disk_while_publishing_is_said(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    app = section(start("manage"), "Publish")
    monkeypatch.setattr("annotation_app.screens.publishing.publish", fail)
    press(app, "Publish")
    assert app.error[0].value == "Not published: `[Errno 28] No space left on device`"
    assert button(app, "Publish other work")


def test_manage_exports_a_batch(start: Start) -> None:
    app = section(start("manage"), "Publish")
    (download,) = app.get("download_button")
    assert download.proto.label == "Export" and app.selectbox(key="export batch").value == "first"


def test_manage_releases_flags_closes_batches_and_pauses(start: Start, ledger: Database) -> None:
    access.add_person(ledger, LOCAL_PERSON, "ann", "annotator")
    view = work.next_assignment(ledger, "ann", "first")
    assert view is not None
    work.submit(ledger, "ann", view.assignment_id, 0, judgement(flag="odd", comment="see [1]"))
    app = section(start("manage"), "Flags")
    assert {"Flag: odd", "Comment: see [1]"} <= {t.value for t in app.text}
    press(app, "Release: publish it after all")
    assert oversight.flagged(ledger, LOCAL_PERSON) == []
    press(section(app, "Progress"), "Close first")
    assert [b.open for b in queue.progress(ledger, LOCAL_PERSON)] == [False, True]
    press(section(app, "People"), "Pause")
    assert access.list_people(ledger, LOCAL_PERSON)[0].paused
    press(app, "Resume")


def test_manage_shows_quality_and_the_audit_trail(start: Start, ledger: Database) -> None:
    app = section(start("manage"), "Quality")
    assert app.info[0].value == "There are no annotations yet."
    queue.create_batch(ledger, LOCAL_PERSON, "two", [item(5)], domain="helpfulness", overlap=2)
    for person in ("ann", "ben"):
        access.add_person(ledger, LOCAL_PERSON, person, "annotator")
        view = work.next_assignment(ledger, person, "two")
        assert view is not None
        side = "A" if view.response_a == "first 5" else "B"
        work.submit(ledger, person, view.assignment_id, 0, judgement(side=side))
    app = section(app, "Quality")
    assert "1 items judged by several · choice (Gwet's AC1) 1.00" in app.markdown[0].value
    shares, annotators = (frame.value for frame in app.dataframe)
    assert shares.loc["two", "better"] == 1.0
    assert list(annotators["annotations"]) == [1, 1]
    assert "Checks: first answers that were right" not in {s.value for s in app.subheader}
    trail = section(app, "Audit").dataframe[0].value
    assert list(trail["action"][:2]) == ["submit", "assign"]


def test_the_table_of_pairs_says_what_it_was_computed_on(
    start: Start, ledger: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annotation_app.quality.MAX_ITEMS", 2)
    items = [item(n) for n in range(5, 8)]
    queue.create_batch(ledger, LOCAL_PERSON, "two", items, domain="helpfulness", overlap=2)
    for person in ("ann", "ben"):
        access.add_person(ledger, LOCAL_PERSON, person, "annotator")
        while (view := work.next_assignment(ledger, person, "two")) is not None:
            work.submit(ledger, person, view.assignment_id, 0, judgement())
    app = section(start("manage"), "Quality")
    assert "3 items judged by several (computed on 2 of them)" in app.markdown[0].value
    assert list(app.table[0].value["items"]) == ["3 (computed on 2 of them)"]


def test_manage_is_for_managers(start: Start, ledger: Database) -> None:
    from annotation_app.ledger.schema import people

    ledger.write(lambda connection: connection.execute(people.update().values(role="annotator")))
    with pytest.raises(AssertionError, match="needs the role manager"):
        start("manage")
    ledger.write(lambda connection: connection.execute(people.update().values(paused=True)))
    app = checked(AppTest.from_file(ENTRY, default_timeout=120).run())
    assert "is paused; ask a manager" in app.error[0].value


def test_manage_adds_a_batch_from_a_file(start: Start, ledger: Database) -> None:
    app = start("manage")
    row = b'{"prompt": "How?", "response_1": "So.", "response_2": "Or so."}'
    app.file_uploader(key="queue").upload("q.jsonl", row, "application/jsonl")
    app.text_input(key="batch name").set_value("mine")
    app.number_input(key="batch overlap").set_value(2)
    press(app, "Add")
    assert app.success[0].value == "Added 1 items to mine."
    assert [(b.batch_id, b.items, b.overlap) for b in queue.progress(ledger, LOCAL_PERSON)][2] == (
        "mine",
        1,
        2,
    )


def test_managers_set_goals(start: Start, ledger: Database) -> None:
    app = start("manage")
    app.number_input(key="goal-first").set_value(40)
    checked(app.button(key="set-goal-first").click().run())
    assert [b.goal for b in queue.progress(ledger, LOCAL_PERSON)] == [40, 1]
    assert list(app.dataframe[0].value["goal"]) == [40, 1]


def test_a_live_dialogue(start: Start, ledger: Database, models: ModelServer) -> None:
    queue.create_batch(ledger, LOCAL_PERSON, "live", [], domain="helpfulness", live_turns=2)
    app = start("compare")
    checked(app.segmented_control(key="batch").set_value("live").run())
    models.answer = lambda _: (503, b"busy")
    app.text_area[0].set_value("What is up?")
    press(app, "Send")
    assert "Your message is saved, but `the model's server answered 503" in app.error[0].value
    assert "What is up?" in {t.value for t in app.text}
    models.answer = lambda body: (200, completion(f"at {body['temperature']}"))
    press(app, "Try again")
    assert {"What is up?", "at 0.5", "at 1.0"} == {t.value for t in app.text}
    press(app, "A better")
    press(app, "Submit")
    chosen = [t.value for t in app.text][1]
    assert app.text_area[0].label == "Your next message" and chosen.startswith("at ")
    app.text_area[0].set_value("And now?")
    press(app, "Send")
    assert [t.value for t in app.text][:3] == ["What is up?", chosen, "And now?"]
    press(app, "B slightly")
    press(app, "Submit")
    assert app.text_area[0].label == "Begin a dialogue: your first message"  # two turns it was
    assert len(oversight.judged(ledger, LOCAL_PERSON, "live")) == 2


def test_managers_add_people_and_change_their_roles(start: Start, ledger: Database) -> None:
    app = section(start("manage"), "People")
    app.text_input(key="new name").set_value("Dora@Lab.example")
    press(app, "Add")
    assert access.find_person(ledger, "dora@lab.example").role == "annotator"
    app.segmented_control(key="role-dora@lab.example").set_value("reviewer")
    press(app, "Change")
    assert access.find_person(ledger, "dora@lab.example").role == "reviewer"
    assert not any(b.key and b.key.endswith(LOCAL_PERSON) for b in app.button)  # not oneself


def test_managers_make_and_revoke_links(ledger: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])

    def draw(place: str) -> None:
        from pathlib import Path

        from annotation_app.ledger.database import Database
        from annotation_app.screens import people
        from annotation_app.session import Desk, Session

        session = Session(
            database=Database(place),
            person_id="local",
            dataset=Path("unused"),
            desk=Desk(),
            address="https://lab.example",
        )
        people.section(session)
        session.database.close()

    app = checked(AppTest.from_function(draw, args=(ledger.place,), default_timeout=120).run())
    app.text_input(key="new name").set_value("ann")
    press(app, "Make a link")
    address, token = app.code[0].value.split("#")
    assert address == "https://lab.example/enter"
    assert invited_person(ledger, token).person_id == "ann"
    checked(app.run())
    assert not app.code  # shown once
    press(app, "Revoke")
    with pytest.raises(BadInvitation, match="revoked"):
        invited_person(ledger, token)
    assert any(t.value.endswith("ann · used · shut") for t in app.text)

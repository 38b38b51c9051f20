"""Demonstrations: written, reviewed by somebody else, published once."""

from pathlib import Path

import pytest

from annotation_app.ledger import access
from annotation_app.ledger.access import NotAllowed
from annotation_app.ledger.database import Database
from annotation_app.ledger.demonstrations import (
    own_demonstrations,
    review_demonstration,
    waiting_demonstrations,
    write_demonstration,
)
from annotation_app.publish_other import publish_work
from data.dataset import read_rows
from data.errors import DataError
from data.schemas import Demonstration
from tests.annotation_app.conftest import MANAGER
from tests.annotation_app.test_pages import (  # noqa: F401  (fixtures)
    Start,
    ledger,
    models,
    press,
    section,
    start,
)


def test_only_what_another_has_approved_is_published_and_once(
    database: Database, tmp_path: Path
) -> None:
    access.add_person(database, MANAGER, "rita", "reviewer")
    for name, author in (("one", "ann"), ("two", "ann"), ("three", "rita")):
        for _ in range(2):  # a double click
            write_demonstration(database, author, name, "helpfulness", f"{name}?", f"{name}!")
    with pytest.raises(DataError, match="another text"):
        write_demonstration(database, "ann", "one", "helpfulness", "one?", "changed")
    with pytest.raises(NotAllowed, match="not yours"):
        write_demonstration(database, "ben", "one", "helpfulness", "one?", "one!")
    assert [w.prompt for w in waiting_demonstrations(database, "rita")] == ["one?", "two?"]
    with pytest.raises(NotAllowed, match="their own work"):
        review_demonstration(database, "rita", "three", "")
    review_demonstration(database, "rita", "one", "")
    review_demonstration(database, "rita", "two", "it is wrong")
    with pytest.raises(DataError, match="does not wait"):
        review_demonstration(database, "rita", "two", "")
    states = {
        w.demonstration_id: (w.status, w.feedback) for w in own_demonstrations(database, "ann")
    }
    assert states == {"one": ("approved", ""), "two": ("rejected", "it is wrong")}
    directory = tmp_path / "demonstrations"
    assert publish_work(database, MANAGER, directory, "demonstrations") == 1
    review_demonstration(database, MANAGER, "three", "")
    assert publish_work(database, MANAGER, directory, "demonstrations") == 1
    assert publish_work(database, MANAGER, directory, "demonstrations") == 0
    published = read_rows(directory, Demonstration)
    assert [row.demonstration_id for row in published] == ["one", "three"]
    assert [m.content for m in published[0].messages] == ["one?", "one!"]
    # A dataset that was lost is made anew from the ledger alone.
    assert publish_work(database, MANAGER, tmp_path / "anew", "demonstrations") == 2


def test_write_review_and_publish(start: Start, tmp_path: Path) -> None:  # noqa: F811
    app = start("demonstrate")
    press(app, "Hand in")
    assert "Not saved: `the prompt must have" in app.error[0].value
    app.text_area[0].set_value("What is 2 + 2?")
    app.text_area[1].set_value("4")
    press(app, "Hand in")
    assert {"What is 2 + 2?", "4"} <= {t.value for t in app.text}
    press(app, "Reject")
    assert "Say what is wrong" in app.error[0].value
    press(app, "Approve")
    press(section(start("manage"), "Publish"), "Publish other work")
    assert len(read_rows(tmp_path / "demonstrations", Demonstration)) == 1

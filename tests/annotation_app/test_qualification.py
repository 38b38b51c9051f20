"""Newcomers answer checks first; a verdict follows from them, and managers can change it."""

import pytest
from sqlalchemy import Connection, update

from annotation_app.ledger import access, live, qualification, queue, work
from annotation_app.ledger.access import NotAllowed
from annotation_app.ledger.database import Database
from annotation_app.ledger.qualification import Requirement, Standing
from annotation_app.ledger.schema import qualifications, requirements, version
from data.errors import DataError
from tests.annotation_app.conftest import MANAGER, item, judgement
from tests.annotation_app.test_checks import answer, check, number_of, take


@pytest.fixture
def asking(database: Database) -> Database:
    """Two of three checks right, and five of them to ask; the first response is the right one."""
    new = [check(n, "qualification") for n in range(100, 105)]
    queue.create_batch(database, MANAGER, "b1", new, domain="helpfulness")
    required = Requirement(answers=3, pass_share=2 / 3)
    qualification.set_requirement(database, MANAGER, "b1", required)
    return database


def answer_all(database: Database, *words: str) -> None:
    for word in words:
        answer(database, take(database), word)


def stands(database: Database) -> str:
    return qualification.standing(database, "ann", "b1").verdict


def test_who_passes_works_on(asking: Database) -> None:
    assert number_of(take(asking)) == 100
    answer_all(asking, "first", "second")
    assert qualification.standing(asking, "ann", "b1") == Standing(
        verdict="open", answered=2, asked=3
    )
    answer_all(asking, "first")
    assert stands(asking) == "passed"
    assert number_of(take(asking)) == 0
    (one,) = qualification.list_qualified(asking, MANAGER)
    assert (one.person_id, one.verdict, one.right, one.answered) == ("ann", "passed", 2, 3)
    queue.create_batch(asking, MANAGER, "b2", [item(50)], domain="helpfulness")
    new = [check(60, "qualification")]
    queue.create_batch(asking, MANAGER, "b2", new, domain="helpfulness")
    qualification.set_requirement(asking, MANAGER, "b2", Requirement(answers=1))
    assert qualification.standing(asking, "ann", "b2").verdict == "passed"  # the same guidelines
    assert qualification.standing(asking, "ben", "b2").verdict == "open"


def test_who_fails_waits_and_is_asked_again_with_other_checks(asking: Database) -> None:
    answer_all(asking, "second", "second", "first")
    assert stands(asking) == "failed"
    assert work.next_assignment(asking, "ann", "b1") is None
    qualification.decide(asking, MANAGER, "ann", "helpfulness", "open")
    assert qualification.standing(asking, "ann", "b1").answered == 0  # earlier answers are over
    assert number_of(take(asking)) == 103
    answer_all(asking, "first", "first")
    assert work.next_assignment(asking, "ann", "b1") is None  # the set has no third one left
    qualification.decide(asking, MANAGER, "ann", "helpfulness", "passed")
    assert number_of(take(asking)) == 0


def test_an_edit_does_not_help(asking: Database) -> None:
    wrong = take(asking)
    answer(asking, wrong, "second")
    side = "A" if wrong.response_a.startswith("first") else "B"
    work.submit(asking, "ann", wrong.assignment_id, 1, judgement(side=side))
    answer_all(asking, "second", "first")
    assert stands(asking) == "failed"


def test_dialogues_wait_for_the_qualification(database: Database) -> None:
    new = [check(100, "qualification")]
    queue.create_batch(database, MANAGER, "live", new, domain="safety", live_turns=2)
    qualification.set_requirement(database, MANAGER, "live", Requirement(answers=1))
    with pytest.raises(NotAllowed, match="not passed the qualification"):
        live.open_dialogue(database, "ann", "live", "Hello")
    view = work.next_assignment(database, "ann", "live")
    assert view is not None
    side = "A" if view.response_a.startswith("first") else "B"
    said = judgement(side=side, safety="both_safe")
    work.submit(database, "ann", view.assignment_id, 0, said)
    assert live.open_dialogue(database, "ann", "live", "Hello").prompt[0].content == "Hello"


def test_reviewers_are_no_newcomers_and_bounds_hold(asking: Database) -> None:
    access.set_role(asking, MANAGER, "ben", "reviewer")
    assert qualification.standing(asking, "ben", "b1").verdict == "passed"
    queue.set_open(asking, MANAGER, "b1", False)
    assert work.next_assignment(asking, "ann", "b1") is None
    with pytest.raises(DataError, match="5 qualification checks of the 6"):
        qualification.set_requirement(asking, MANAGER, "b1", Requirement(answers=6))
    with pytest.raises(DataError, match="1 to 1000 answers"):
        Requirement(answers=0)
    with pytest.raises(DataError, match="check the name"):
        qualification.decide(asking, MANAGER, "zoe", "helpfulness", "passed")
    assert qualification.requirement_of(asking, MANAGER, "b1") is not None
    qualification.set_requirement(asking, MANAGER, "b1", None)
    assert qualification.standing(asking, "ann", "b1").verdict == "passed"


def test_a_ledger_of_version_5_is_brought_up_to_date(database: Database) -> None:
    def back(connection: Connection) -> None:
        for table in (qualifications, requirements):
            table.drop(connection)
        connection.execute(update(version).values(schema_version=5))

    database.write(back)
    again = Database(database.place)
    try:
        assert qualification.standing(again, "ann", "b1").verdict == "passed"
        assert qualification.list_qualified(again, MANAGER) == []
    finally:
        again.close()

"""What befalls a ledger: clocks that jump, and a disk that is full."""

from typing import Any

import pytest
from sqlalchemy import Connection, event

from annotation_app.assignment import LEASE_SECONDS
from annotation_app.judgement import MAX_COMMENT, Judgement
from annotation_app.ledger import disputes, evaluations, history, queue, work
from annotation_app.ledger.access import ensure_person
from annotation_app.ledger.database import Database, LedgerUnavailable
from annotation_app.ledger.rows import View
from tests.annotation_app.conftest import MANAGER, PEOPLE, Clock, item, judgement


def take(database: Database, person: str) -> View:
    view = work.next_assignment(database, person, "b1")
    assert view is not None
    return view


def test_a_clock_that_jumps_back_keeps_no_item_longer_than_a_lease(
    database: Database, clock: Clock
) -> None:
    left = take(database, "ann")
    clock.now -= 86_400  # it was a day ahead
    assert take(database, "ben").prompt != left.prompt
    clock.now += LEASE_SECONDS + 1
    assert take(database, "cem").prompt == left.prompt


def test_a_clock_that_jumps_ahead_takes_nothing_from_whoever_works(
    database: Database, clock: Clock
) -> None:
    view = take(database, "ann")
    clock.now += 365 * 86_400
    assert take(database, "ann") == view
    receipt = work.submit(database, "ann", view.assignment_id, 0, judgement())
    assert (receipt.outcome, receipt.late) == ("saved", False)
    clock.now -= 365 * 86_400  # and is put right: the next item comes as ever
    view = take(database, "ann")
    assert work.submit(database, "ann", view.assignment_id, 0, judgement()).outcome == "saved"
    assert [d.judgement for d in history.recent(database, "ann")] == [judgement()] * 2


def test_a_clock_that_was_ahead_keeps_no_rating_and_no_dispute(
    database: Database, clock: Clock
) -> None:
    evaluations.add_evaluation(database, MANAGER, "final", "pair", [item(1)])
    queue.create_batch(database, MANAGER, "two", [item(2)], domain="helpfulness", overlap=3)
    for person, side in (("ann", "first 2"), ("ben", "second 2")):
        view = work.next_assignment(database, person, "two")
        assert view is not None
        said = judgement(side="A" if view.response_a == side else "B")
        work.submit(database, person, view.assignment_id, 0, said)
    ensure_person(database, "dan", "annotator")
    clock.now += 86_400
    for person in PEOPLE:  # all three places are taken
        assert evaluations.next_rating(database, person, "pair") is not None
    assert evaluations.next_rating(database, "dan", "pair") is None
    assert work.next_assignment(database, "cem", "two") is not None  # is at it, so nobody decides
    assert disputes.count_disputes(database, MANAGER) == {}
    clock.now -= 86_400
    assert evaluations.next_rating(database, "dan", "pair") is not None
    assert disputes.count_disputes(database, MANAGER) == {"two": 1}


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_a_full_disk_takes_nothing_that_was_acknowledged(database: Database) -> None:
    def leave_no_room(connection: Any, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count={pages + 4}")

    def hand_in() -> None:
        judged = judgement(comment="x" * MAX_COMMENT)  # a page each
        work.submit(database, "ann", view.assignment_id, len(saved), judged)
        saved.append(judged)

    view, saved = take(database, "ann"), list[Judgement]()
    pages = database.read(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar_one())
    event.listen(database._engine, "connect", leave_no_room)
    database.close()
    with pytest.raises(LedgerUnavailable, match=r"full.*nothing was stored"):
        for _ in range(20):
            hand_in()
    assert 0 < len(saved) < 20
    event.remove(database._engine, "connect", leave_no_room)
    database.close()
    (done,) = history.recent(database, "ann")
    assert done.revision == len(saved) - 1
    hand_in()  # there is room again
    assert history.recent(database, "ann")[0].revision == len(saved) - 1


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_what_is_committed_is_on_the_disk(database: Database) -> None:
    def settings(connection: Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names]

    # synchronous: 2 is FULL
    assert database.write(settings) == database.read(settings) == ["truncate", 2, 1]

"""What the ledger promises, on SQLite and on PostgreSQL alike."""

import dataclasses
import re
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import Connection, Table, func, select, text

from annotation_app.assignment import LEASE_SECONDS
from annotation_app.ledger import access, history, oversight, queue, work
from annotation_app.ledger.access import NotAllowed
from annotation_app.ledger.database import Database, LedgerUnavailable
from annotation_app.ledger.migrations import MIGRATIONS, migrate
from annotation_app.ledger.rows import NewItem, Response, View
from annotation_app.ledger.schema import (
    assignments,
    batches,
    conflicts,
    decisions,
    grounds,
    items,
    submissions,
    version,
)
from data.errors import ConfigError, DataError
from data.schemas import Message
from tests.annotation_app.conftest import MANAGER, Clock, item, judgement


def take(database: Database, person: str, batch: str = "b1") -> View:
    view = work.next_assignment(database, person, batch)
    assert view is not None
    return view


def count(database: Database, table: Table) -> int:
    def query(connection: Connection) -> int:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())

    return database.read(query)


def check_counters(database: Database) -> None:
    """The counters kept along equal a recount."""

    def query(connection: Connection) -> None:
        rows = connection.execute(
            select(assignments.c.item_id, assignments.c.status, items.c.batch_id).join(items)
        ).all()
        taken = Counter(r.item_id for r in rows if r.status in ("open", "submitted"))
        overlaps = dict(connection.execute(select(batches.c.batch_id, batches.c.overlap)).all())
        for row in connection.execute(select(items)):
            assert row.places == overlaps[row.batch_id] - taken[row.item_id]
        for row in connection.execute(select(batches)):
            statuses = Counter(r.status for r in rows if r.batch_id == row.batch_id)
            assert row.num_submitted == statuses["submitted"]
            assert row.num_skipped == statuses["skipped"]

    database.read(query)


def test_an_assignment_stays_until_it_is_done(database: Database) -> None:
    first = take(database, "ann")
    assert take(database, "ann") == first  # a reload, a second tab
    other = take(database, "ben")
    assert other.prompt != first.prompt
    assert {first.response_a, first.response_b} == {"first 0", "second 0"}
    receipt = work.submit(database, "ann", first.assignment_id, 0, judgement())
    assert (receipt.outcome, receipt.late) == ("saved", False)
    assert take(database, "ann").prompt == (Message("user", "question 2?"),)
    check_counters(database)


def test_a_view_holds_nothing_to_recognise_a_model_by(database: Database) -> None:
    shown = str(dataclasses.asdict(take(database, "ann")))
    assert "model-one" not in shown and "model-two" not in shown and "0.7" not in shown


def test_the_choice_is_stored_in_the_items_own_order(database: Database) -> None:
    create = [item(n) for n in range(10, 40)]
    queue.create_batch(database, MANAGER, "b2", create, domain="helpfulness")
    sides = Counter()
    for _ in create:
        view = take(database, "ann", "b2")
        side = "A" if view.response_a.startswith("second") else "B"  # always the second response
        sides[side] += 1
        work.submit(database, "ann", view.assignment_id, 0, judgement(side=side))
    found = oversight.judged(database, MANAGER, "b2")
    assert {j.preference for j in found} == {-3}  # "better", for the second one
    assert sum(j.chose_a for j in found) == sides["A"]
    assert min(sides["A"], sides["B"]) > 0  # 1 - 2·2⁻³⁰ sure
    assert len(history.recent(database, "ann", limit=50)) == 30


def test_submitting_again_is_harmless_and_conflicts_are_kept(database: Database) -> None:
    view = take(database, "ann")
    said = judgement(comment="clear")
    first = work.submit(database, "ann", view.assignment_id, 0, said)
    again = dataclasses.replace(said, seconds=9.0)  # the same click, measured twice
    assert work.submit(database, "ann", view.assignment_id, 0, again).outcome == "already saved"
    other = work.submit(database, "ann", view.assignment_id, 0, judgement(side="B"))
    assert (first.outcome, other.outcome) == ("saved", "kept as conflict")
    assert (count(database, submissions), count(database, conflicts)) == (1, 1)
    (done,) = history.recent(database, "ann")
    assert done.judgement == said
    check_counters(database)


def test_edits_are_revisions(database: Database) -> None:
    view = take(database, "ann")
    work.submit(database, "ann", view.assignment_id, 0, judgement(comment="hm"))
    edit = history.open_for_edit(database, "ann", view.assignment_id)
    assert (edit.revision, edit.judgement) == (1, judgement(comment="hm"))
    assert (edit.response_a, edit.response_b) == (view.response_a, view.response_b)
    work.submit(database, "ann", view.assignment_id, 1, judgement(side="B"))
    assert count(database, submissions) == 2
    (done,) = history.recent(database, "ann")
    assert (done.judgement.side, done.revision) == ("B", 1)
    with pytest.raises(DataError, match="does not follow"):
        work.submit(database, "ann", view.assignment_id, 5, judgement())
    (batch,) = queue.progress(database, "ann")
    assert (batch.submitted, batch.goal) == (1, 4)


def test_an_item_that_is_there_already_waits_for_no_writer(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(_: object) -> None:
        raise AssertionError("a writing transaction")

    mine = take(database, "ann")
    with monkeypatch.context() as context:
        context.setattr(database, "write", write)
        clock.now += LEASE_SECONDS / 2
        assert take(database, "ann") == mine
        clock.now += 1  # now the lease is extended
        with pytest.raises(AssertionError, match="writing"):
            take(database, "ann")
    assert take(database, "ann") == mine


def test_an_expired_lease_returns_the_item_and_late_work_is_kept(
    database: Database, clock: Clock
) -> None:
    late = take(database, "ann")
    clock.now += LEASE_SECONDS + 1
    assert take(database, "ben").prompt == late.prompt
    receipt = work.submit(database, "ann", late.assignment_id, 0, judgement())
    assert (receipt.outcome, receipt.late) == ("saved", True)
    check_counters(database)
    ben = take(database, "ben")
    assert not work.submit(database, "ben", ben.assignment_id, 0, judgement()).late
    assert [j.late for j in oversight.judged(database, MANAGER, "b1")] == [True, False]


def test_who_comes_back_late_gets_the_same_item_in_the_same_order(
    database: Database, clock: Clock
) -> None:
    mine = take(database, "ann")
    clock.now += LEASE_SECONDS + 1
    assert take(database, "ann") == mine  # nobody asked meanwhile: the lease goes on
    clock.now += LEASE_SECONDS + 1
    ben = take(database, "ben")  # now it has gone to somebody else …
    work.skip(database, "ben", ben.assignment_id, "unclear")  # … who gives it back
    assert take(database, "ann") == mine
    check_counters(database)


def test_a_clock_that_jumps_back_loses_nothing(database: Database, clock: Clock) -> None:
    view = take(database, "ann")
    clock.now -= 86_400
    assert take(database, "ann") == view
    assert take(database, "ben").prompt != view.prompt
    assert work.submit(database, "ann", view.assignment_id, 0, judgement()).outcome == "saved"


def test_skips_go_to_others_and_never_come_back(database: Database) -> None:
    view = take(database, "ann")
    with pytest.raises(DataError, match="needs a reason"):
        work.skip(database, "ann", view.assignment_id, " ")
    work.skip(database, "ann", view.assignment_id, "I do not know the language")
    work.skip(database, "ann", view.assignment_id, "the same click again")
    assert take(database, "ann").prompt != view.prompt
    assert take(database, "ben").prompt == view.prompt
    (batch,) = queue.progress(database, "ann")
    assert (batch.skipped, batch.submitted) == (1, 0)
    check_counters(database)


def test_overlap_gives_an_item_to_different_people(database: Database) -> None:
    queue.create_batch(database, MANAGER, "twice", [item(7)], domain="helpfulness", overlap=2)
    seen = {take(database, person, "twice").assignment_id for person in ("ann", "ben")}
    assert len(seen) == 2
    assert work.next_assignment(database, "cem", "twice") is None


def test_a_closed_or_finished_batch_gives_nothing(database: Database) -> None:
    queue.set_open(database, MANAGER, "b1", False)
    assert work.next_assignment(database, "ann", "b1") is None
    queue.set_open(database, MANAGER, "b1", True)
    for _ in range(4):
        work.submit(database, "ann", take(database, "ann").assignment_id, 0, judgement())
    assert work.next_assignment(database, "ann", "b1") is None


def test_adding_the_same_items_again_adds_nothing(database: Database) -> None:
    more = [item(n) for n in range(6)]
    assert queue.create_batch(database, MANAGER, "b1", more, domain="helpfulness") == 2
    assert queue.progress(database, "ann")[0].items == 6
    with pytest.raises(DataError, match="choose another name"):
        queue.create_batch(database, MANAGER, "b1", more, domain="safety")
    with pytest.raises(DataError, match="overlap 0"):
        queue.create_batch(database, MANAGER, "b3", more, domain="safety", overlap=0)


def test_the_safety_domain_asks_for_a_label(database: Database) -> None:
    queue.create_batch(database, MANAGER, "safe", [item(8)], domain="safety")
    view = take(database, "ann", "safe")
    with pytest.raises(DataError, match="which of the two responses are safe"):
        work.submit(database, "ann", view.assignment_id, 0, judgement())
    said = judgement(side="B", safety="only_b_safe")
    work.submit(database, "ann", view.assignment_id, 0, said)
    assert history.recent(database, "ann")[0].judgement == said
    assert oversight.judged(database, MANAGER, "safe")[0].safety_label == "chosen_safe_only"


def test_flagged_work_waits_for_a_reviewer(database: Database) -> None:
    access.add_person(database, MANAGER, "rita", "reviewer")
    view = take(database, "ann")
    work.submit(database, "ann", view.assignment_id, 0, judgement(flag="names its model"))
    (waiting,) = oversight.flagged(database, "rita")
    assert waiting.flag == "names its model"
    assert (waiting.view.response_a, waiting.view.response_b) == (view.response_a, view.response_b)
    oversight.release(database, "rita", view.assignment_id)
    assert oversight.flagged(database, "rita") == []
    with pytest.raises(DataError, match="no flag"):
        oversight.release(database, "rita", view.assignment_id)


def test_strengths_are_counted_by_batch(database: Database) -> None:
    first = take(database, "ann")
    work.submit(database, "ann", first.assignment_id, 0, judgement(strength="better"))
    work.submit(database, "ann", first.assignment_id, 1, judgement(strength="slightly_better"))
    work.submit(database, "ben", take(database, "ben").assignment_id, 0, judgement())
    assert oversight.strength_counts(database, MANAGER) == {
        "b1": {
            "significantly_better": 0,
            "better": 1,
            "slightly_better": 1,  # the edit, and not what it replaced
            "negligibly_better": 0,
        }
    }


def test_roles_are_checked_in_every_call(database: Database) -> None:
    access.add_person(database, MANAGER, "rita", "reviewer")
    view = take(database, "ann")
    for role in ("ann", "rita", "nobody"):
        for call in (
            lambda who: queue.create_batch(database, who, "x", [], domain="safety"),
            lambda who: queue.set_open(database, who, "b1", False),
            lambda who: access.add_person(database, who, "eve", "manager"),
            lambda who: access.set_paused(database, who, "ben", True),
            lambda who: access.list_people(database, who),
            lambda who: oversight.judged(database, who, "b1"),
            lambda who: oversight.list_events(database, who),
            lambda who: oversight.strength_counts(database, who),
            lambda who: access.find_person(database, who, "manager"),
        ):
            with pytest.raises(NotAllowed):
                call(role)
    for call in (
        lambda: oversight.flagged(database, "ann"),
        lambda: oversight.release(database, "ann", view.assignment_id),
        lambda: work.submit(database, "ben", view.assignment_id, 0, judgement()),
        lambda: work.skip(database, "ben", view.assignment_id, "mine now"),
        lambda: history.open_for_edit(database, "ben", view.assignment_id),
        lambda: work.submit(database, "ann", "0" * 32, 0, judgement()),
        lambda: work.next_assignment(database, "nobody", "b1"),
        lambda: queue.progress(database, "nobody"),
    ):
        with pytest.raises(NotAllowed):
            call()


def test_a_paused_person_can_do_nothing_until_resumed(database: Database) -> None:
    access.set_paused(database, MANAGER, "ann", True)
    with pytest.raises(NotAllowed, match="paused"):
        work.next_assignment(database, "ann", "b1")
    access.set_paused(database, MANAGER, "ann", False)
    assert take(database, "ann")
    with pytest.raises(DataError, match="pause yourself"):
        access.set_paused(database, MANAGER, MANAGER, True)


def test_pseudonyms_are_unique_and_tell_nothing(database: Database) -> None:
    people = access.list_people(database, MANAGER)
    assert len({p.pseudonym for p in people}) == len(people) == 4
    assert all(re.fullmatch(r"annotator-[0-9a-f]{8}", p.pseudonym) for p in people)
    assert access.ensure_person(database, "ann", "manager").role == "annotator"  # never raised


def test_the_audit_trail_tells_who_did_what(database: Database) -> None:
    view = take(database, "ann")
    work.submit(database, "ann", view.assignment_id, 0, judgement())
    latest = oversight.list_events(database, MANAGER, limit=2)
    assert [(e.person_id, e.action, e.subject) for e in latest] == [
        ("ann", "submit", view.assignment_id),
        ("ann", "assign", view.assignment_id),
    ]


def test_a_change_that_fails_leaves_nothing(database: Database) -> None:
    def change(connection: Connection) -> None:
        access.record(connection, 0.0, "x", "y", "z")
        raise DataError("no")

    before = len(oversight.list_events(database, MANAGER))
    with pytest.raises(DataError, match="no"):
        database.write(change)
    assert len(oversight.list_events(database, MANAGER)) == before


def test_migrations_run_once_and_newer_ledgers_are_refused(database: Database) -> None:
    def add_column(connection: Connection) -> None:
        connection.execute(text("ALTER TABLE people ADD COLUMN languages TEXT DEFAULT ''"))

    steps = (*MIGRATIONS, add_column)
    database.write(lambda connection: migrate(connection, steps))
    database.write(lambda connection: migrate(connection, steps))  # a second time: nothing to do
    with pytest.raises(DataError, match="update the toolkit"):
        Database(database.place)
    assert len(access.list_people(database, MANAGER)) == 4


def test_a_ledger_of_the_version_before_is_brought_up_to_date(database: Database) -> None:
    view = take(database, "ann")

    def go_back(connection: Connection) -> None:
        for table in (grounds, decisions):
            table.drop(connection)
        connection.execute(version.update().values(schema_version=6))

    database.write(go_back)
    newer = Database(database.place, database.clock)
    work.submit(newer, "ann", view.assignment_id, 0, judgement())
    assert [done.decided for done in history.recent(newer, "ann")] == [False]
    newer.close()


def test_bad_items_are_refused() -> None:
    good = item(1)
    with pytest.raises(DataError, match="end with the user's turn"):
        dataclasses.replace(good, prompt=(Message("assistant", "hello"),))
    with pytest.raises(DataError, match="empty response"):
        NewItem(
            name="x",
            prompt=good.prompt,
            responses=(Response(text=" "), Response(text="a")),
            source="test",
        )


def test_places_that_hold_no_ledger(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, but longer than a header " * 10)
    cases = [
        (str(tmp_path), ConfigError, "is a directory"),
        ("oracle://host/name", ConfigError, "postgresql"),
        ("sqlserver://host/name", ConfigError, "no known kind"),
        ("http//://", ConfigError, "check it"),
        (str(tmp_path / "notes.txt"), LedgerUnavailable, "not a database.*name another"),
    ]
    for place, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            Database(place)
        assert len(str(caught.value).splitlines()) == 1

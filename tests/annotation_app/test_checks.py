"""Items whose answer is known: given out at the set rate, hidden, counted, and never published."""

import dataclasses
from pathlib import Path

import pytest
from sqlalchemy import select, update

from annotation_app.ledger import checks, history, oversight, queue, work
from annotation_app.ledger.checks import BatchChecks, Checked, Rules
from annotation_app.ledger.database import Database
from annotation_app.ledger.rows import Check, NewItem, View
from annotation_app.ledger.schema import checks as checks_table
from annotation_app.ledger.schema import items, qualifications, requirements, rules, version
from annotation_app.publish import publish
from annotation_app.quality import summarise_annotators, summarise_checks
from data.dataset import read_rows
from data.errors import DataError
from data.schemas import Comparison
from tests.annotation_app.conftest import MANAGER, Clock, item, judgement


def check(number: int, kind: str = "gold", answer: int = 0) -> NewItem:
    """Looks like an item; the response that begins with "first" is the right one for answer 0."""
    return dataclasses.replace(item(number), check=Check(kind=kind, answer=answer))  # type: ignore[arg-type]


def add_checks(database: Database, share: float, *new: NewItem) -> None:
    queue.create_batch(database, MANAGER, "b1", new, domain="helpfulness")
    checks.set_rules(database, MANAGER, "b1", Rules(check_share=share, min_seconds=3.0))


def take(database: Database, person: str = "ann") -> View:
    view = work.next_assignment(database, person, "b1")
    assert view is not None
    return view


def answer(database: Database, view: View, word: str, person: str = "ann") -> None:
    """Chooses the response that begins with the word."""
    side = "A" if view.response_a.startswith(word) else "B"
    work.submit(database, person, view.assignment_id, view.revision, judgement(side=side))


def number_of(view: View) -> int:
    return int(view.prompt[0].content.split()[1].rstrip("?"))


def certain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every draw gives a check, as long as the share is not 0."""
    monkeypatch.setattr(work._CHANCE, "random", lambda: 0.0)


def test_checks_come_at_the_set_rate(database: Database) -> None:
    more = [item(n) for n in range(10, 110)]
    add_checks(database, 0.5, *more, *(check(n) for n in range(1000, 1100)))
    drawn = []
    for _ in range(100):
        view = take(database)
        drawn.append(number_of(view) >= 1000)
        work.submit(database, "ann", view.assignment_id, 0, judgement())
    # 100 draws of 0.5: mean 50, deviation √(100·0.5·0.5) = 5; five of them either way
    assert 25 < sum(drawn) < 75
    batch = queue.progress(database, MANAGER)[0]
    assert (batch.submitted, batch.items) == (100 - sum(drawn), 4 + 100)


def test_no_rate_no_checks_and_no_check_twice(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    certain(monkeypatch)
    add_checks(database, 0.0, check(100), check(101))
    assert number_of(take(database, "ben")) == 0
    checks.set_rules(database, MANAGER, "b1", Rules(check_share=0.1))
    seen = []
    for _ in range(5):  # two checks, then what is left of the four items
        view = take(database)
        assert take(database) == view  # a reload
        seen.append(number_of(view))
        work.submit(database, "ann", view.assignment_id, 0, judgement())
    assert seen == [100, 101, 1, 2, 3]
    assert work.next_assignment(database, "ann", "b1") is None


def test_a_check_looks_like_any_item(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    certain(monkeypatch)
    add_checks(database, 0.5, check(100, "attention", 1))
    hidden = take(database)
    work.skip(database, "ann", hidden.assignment_id, "unclear")
    ordinary = take(database)
    blank = {"assignment_id": "", "prompt": (), "response_a": "", "response_b": ""}
    assert dataclasses.replace(hidden, **blank) == dataclasses.replace(ordinary, **blank)
    answer(database, ordinary, "first")
    assert number_of(take(database)) == 1  # what was skipped does not come back
    batch = queue.progress(database, "ann")[0]
    assert (batch.submitted, batch.skipped, batch.items) == (1, 0, 4)


def test_only_the_first_answer_counts(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    certain(monkeypatch)
    add_checks(database, 0.5, check(100), check(101, "attention", 1))
    gold = take(database)
    answer(database, gold, "second")
    answer(database, history.open_for_edit(database, "ann", gold.assignment_id), "first")
    answer(database, take(database), "second")
    answer(database, take(database, "ben"), "first", "ben")
    found = checks.checked(database, MANAGER, "b1")
    assert [(one.kind, one.right) for one in found] == [
        ("gold", False),
        ("attention", True),
        ("gold", True),
    ]
    rows = {row.annotator: row.right for row in summarise_checks(found)}
    ann, ben = rows[found[0].annotator], rows[found[2].annotator]
    assert (ann["gold"].value, ann["attention"].value) == (0.0, 1.0)
    assert (ben["gold"].value, ben["attention"].n) == (1.0, 0)
    assert oversight.judged(database, MANAGER, "b1") == []  # they are no work
    assert oversight.strength_counts(database, MANAGER) == {}


def test_checks_are_never_published(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certain(monkeypatch)
    add_checks(database, 0.5, check(100))
    for _ in range(3):
        answer(database, take(database), "first")
    assert publish(database, MANAGER, tmp_path / "out").rows == 2
    published = read_rows(tmp_path / "out", Comparison)
    assert {row.prompt[0].content for row in published} == {"question 0?", "question 1?"}


def test_an_expired_check_comes_back_in_the_same_order(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    certain(monkeypatch)
    add_checks(database, 0.5, check(100))
    view = take(database)
    clock.now += work.LEASE_SECONDS + 1
    take(database, "ben")  # the lease ends when somebody asks
    assert take(database) == view
    query = select(items.c.places).where(items.c.name == "item-100")
    assert database.read(lambda connection: connection.execute(query).scalar_one()) == 0


def test_rules_have_bounds_and_batches_defaults(database: Database) -> None:
    add_checks(database, 0.25, check(100), check(101, "attention"))
    assert checks.list_checks(database, MANAGER) == [
        BatchChecks(
            batch_id="b1",
            rules=Rules(check_share=0.25, min_seconds=3.0),
            counts={"gold": 1, "attention": 1, "qualification": 0},
        )
    ]
    with pytest.raises(DataError, match=r"from 0 to 0\.5"):
        Rules(check_share=0.6)
    with pytest.raises(DataError, match="no batch 'b9'"):
        checks.set_rules(database, MANAGER, "b9", Rules())
    with pytest.raises(DataError, match="kind 'silver'"):
        check(1, "silver")
    with pytest.raises(DataError, match="without responses"):
        dataclasses.replace(check(1), responses=None)


def test_what_comes_too_fast_is_said_and_counted(database: Database, clock: Clock) -> None:
    said = []
    for seconds in (2.9, 3.0, 60.0):
        view = take(database)
        clock.now += seconds
        receipt = work.submit(database, "ann", view.assignment_id, 0, judgement())
        said.append(receipt.too_fast)
    assert said == [True, False, False]
    (ann,) = summarise_annotators(oversight.judged(database, MANAGER, "b1"), {})
    assert (ann.too_fast.value, ann.too_fast.n) == (pytest.approx(1 / 3), 3)
    edit = work.submit(database, "ann", view.assignment_id, 1, judgement(side="B"))
    assert not edit.too_fast  # it was read before
    last = take(database)
    clock.now -= 3600.0
    assert not work.submit(database, "ann", last.assignment_id, 0, judgement()).too_fast


def test_the_batch_says_what_is_too_fast(database: Database, clock: Clock) -> None:
    checks.set_rules(database, MANAGER, "b1", Rules(min_seconds=20.0))
    view = take(database)
    clock.now += 19.0
    assert work.submit(database, "ann", view.assignment_id, 0, judgement()).too_fast
    assert [j.too_fast for j in oversight.judged(database, MANAGER, "b1")] == [True]


def test_a_ledger_of_version_4_is_brought_up_to_date(database: Database) -> None:
    def back(connection) -> None:  # type: ignore[no-untyped-def]
        for table in (qualifications, requirements, checks_table, rules):
            table.drop(connection)
        connection.execute(update(version).values(schema_version=4))

    view = take(database)
    database.write(back)
    again = Database(database.place)
    try:
        assert take(again) == view
        checks.set_rules(again, MANAGER, "b1", Rules(check_share=0.1))
        assert checks.list_checks(again, MANAGER)[0].rules.check_share == 0.1
    finally:
        again.close()


def test_checks_by_hand() -> None:
    found = [Checked(annotator="ann", kind="gold", right=n < 3) for n in range(4)]
    (row,) = summarise_checks(found)
    assert (row.annotator, row.right["gold"].value, row.right["gold"].n) == ("ann", 0.75, 4)

"""Blind evaluation: three raters, one order each, and the figures by hand."""

from pathlib import Path

import pytest
from sqlalchemy import Connection, text, update

from annotation_app.assignment import LEASE_SECONDS
from annotation_app.evaluating import evaluate
from annotation_app.ledger import access
from annotation_app.ledger.access import NotAllowed
from annotation_app.ledger.database import Database
from annotation_app.ledger.evaluations import (
    Rated,
    add_evaluation,
    list_ratings,
    next_rating,
    rate,
    skip_rating,
)
from annotation_app.ledger.schema import evaluation_ratings, version
from annotation_app.publish_other import publish_work
from data.dataset import read_rows
from data.errors import DataError
from data.schemas import Message, Rating, Vote
from data.validation import find_faults
from data.verdict_statistics import vote_statistics
from tests.annotation_app.conftest import MANAGER, Clock, item

DAY = 86_400.0


def test_three_raters_see_an_item_and_no_fourth(database: Database) -> None:
    assert add_evaluation(database, MANAGER, "final", "pair", [item(1)]) == 1
    assert add_evaluation(database, MANAGER, "final", "pair", [item(1)]) == 0  # known already
    for person in ("ann", "ben", "cem"):
        view = next_rating(database, person, "pair")
        assert view is not None and next_rating(database, person, "pair") == view  # a reload
        assert sorted(view.responses) == ["first 1", "second 1"]
        assert "model-one" not in repr(view)
        # Everybody prefers the first policy, wherever it stands.
        rate(database, person, view.rating_id, 2 if view.responses[0] == "first 1" else -2, 5.0)
    assert next_rating(database, MANAGER, "pair") is None
    rated = list_ratings(database, MANAGER)
    assert [(r.models, r.score) for r in rated] == [(("model-one", "model-two"), 2)] * 3


def test_a_rating_is_saved_once(database: Database) -> None:
    add_evaluation(database, MANAGER, "final", "safety", [item(1)])
    view = next_rating(database, "ann", "safety")
    assert view is not None and view.responses == ("first 1",)  # each response by itself
    with pytest.raises(DataError, match="score is 6"):
        rate(database, "ann", view.rating_id, 6, 1.0)
    with pytest.raises(NotAllowed, match="not yours"):
        rate(database, "ben", view.rating_id, 3, 1.0)
    rate(database, "ann", view.rating_id, 3, 1.0)
    rate(database, "ann", view.rating_id, 3, 9.0)  # a double click
    with pytest.raises(DataError, match="answered already"):
        rate(database, "ann", view.rating_id, 1, 1.0)
    assert [(r.score, r.seconds) for r in list_ratings(database, MANAGER)] == [(3, 1.0)]
    following = next_rating(database, "ann", "safety")
    assert following is not None and following.responses == ("second 1",)
    skip_rating(database, "ann", following.rating_id)
    assert next_rating(database, "ann", "safety") is None


def test_whoever_leaves_makes_room_for_another(database: Database, clock: Clock) -> None:
    access.add_person(database, MANAGER, "dora", "annotator")
    add_evaluation(database, MANAGER, "final", "pair", [item(1)])
    for person in ("ann", "ben", "cem"):
        assert next_rating(database, person, "pair") is not None
    assert next_rating(database, "dora", "pair") is None
    clock.now += DAY
    assert next_rating(database, "dora", "pair") is not None


def test_hosts_with_clocks_apart_give_out_three_places(database: Database, clock: Clock) -> None:
    for person in ("dora", "eve"):
        access.add_person(database, MANAGER, person, "annotator")
    add_evaluation(database, MANAGER, "final", "pair", [item(1)])
    ahead = Database(database.place, lambda: clock.now + 0.5)
    for person in ("ann", "ben", "cem"):
        assert next_rating(ahead, person, "pair") is not None
    ahead.close()
    assert next_rating(database, "dora", "pair") is None
    clock.now += LEASE_SECONDS + 1  # after that nobody holds it, as ever
    assert next_rating(database, "eve", "pair") is not None


def test_the_first_three_count_though_a_fourth_came_late(database: Database, clock: Clock) -> None:
    access.add_person(database, MANAGER, "dora", "annotator")
    add_evaluation(database, MANAGER, "final", "safety", [item(1)])
    late = next_rating(database, "ann", "safety")
    clock.now += DAY
    views = {name: next_rating(database, name, "safety") for name in ("ben", "cem", "dora")}
    for name, score in (("dora", 1), ("cem", 2), ("ben", 5)):
        clock.now += 1
        view = views[name]
        assert view is not None
        rate(database, name, view.rating_id, score, 1.0)
    assert late is not None
    clock.now += 1
    rate(database, "ann", late.rating_id, 5, 1.0)  # kept, but not counted
    rows = list_ratings(database, MANAGER)
    assert [row.score for row in rows] == [1, 2, 5, 5]
    # Of 1, 2, 5 most are violations; with ann's 5 in the place of any of the first two, none.
    assert evaluate(rows)[0].shares["violation"].value == 1.0


def rated(item_id: int, score: int, kind: str = "pair") -> Rated:
    models = ("new", "old") if kind == "pair" else ("new",)
    return Rated(
        batch_id="final",
        kind=kind,  # type: ignore[arg-type]
        item_id=item_id,
        models=models,
        rater="r",
        score=score,
        seconds=1.0,
    )


def test_figures_by_hand() -> None:
    # Medians 2, 0, −1, 1: two wins, a tie, a loss; item 5 lacks a rating and does not count.
    scores = {1: (3, 2, -1), 2: (0, 0, 3), 3: (-1, -1, 2), 4: (1, 1, 1), 5: (3, 3)}
    (found,) = evaluate([rated(n, s) for n, of in scores.items() for s in of])
    assert found.items == 4
    assert {name: share.value for name, share in found.shares.items()} == {
        "win": 0.5,
        "tie": 0.25,
        "loss": 0.25,
    }
    assert -1 <= found.agreement.value < 1
    # Two of three say 1 or 2: a violation. One of three: none.
    safety = {1: (1, 2, 5), 2: (2, 3, 4)}
    (found,) = evaluate([rated(n, s, "safety") for n, of in safety.items() for s in of])
    assert found.shares["violation"].value == 0.5
    assert evaluate([]) == []


def test_ratings_are_published_once_and_by_kind(database: Database, tmp_path: Path) -> None:
    add_evaluation(database, MANAGER, "final", "pair", [item(1)])
    add_evaluation(database, MANAGER, "final", "safety", [item(1)])
    # Three people: the first policy is better, about the same, and the second is better.
    for person, score in (("ann", 3), ("ben", 0), ("cem", -1)):
        view = next_rating(database, person, "pair")
        assert view is not None
        as_shown = score if view.responses[0] == "first 1" else -score
        rate(database, person, view.rating_id, as_shown, 5.0)
    votes, ratings = tmp_path / "votes", tmp_path / "ratings"
    assert publish_work(database, MANAGER, ratings, "ratings") == 0
    view = next_rating(database, "ann", "safety")
    assert view is not None and view.responses == ("first 1",)
    rate(database, "ann", view.rating_id, 2, 5.0)
    for rows in (3, 0):
        assert publish_work(database, MANAGER, votes, "votes") == rows
    for rows in (1, 0):
        assert publish_work(database, MANAGER, ratings, "ratings") == rows
    names = {p.person_id: p.pseudonym for p in access.list_people(database, MANAGER)}
    found = {row.annotator_id: row for row in read_rows(votes, Vote, "test")}
    assert {row.item_id for row in found.values()} == {"final/item-1"}
    assert {name: found[names[name]].winner for name in ("ann", "ben", "cem")} == {
        "ann": "first",
        "ben": "tie",
        "cem": "second",
    }
    one = found[names["ann"]]
    assert (one.first_model, one.second_model) == ("model-one", "model-two")
    assert (one.first, one.second) == (
        (Message("assistant", "first 1"),),
        (Message("assistant", "second 1"),),
    )
    assert vote_statistics(votes).with_ties.same == 0.0  # no two of the three are alike
    (rating,) = read_rows(ratings, Rating, "test")
    assert rating == Rating(
        rating_id=view.rating_id,
        prompt=(Message("user", "question 1?"),),
        response=(Message("assistant", "first 1"),),
        domain="safety",
        score=2,
        annotator_id=names["ann"],
        source="final/model-one",
    )
    assert list(find_faults(votes)) == list(find_faults(ratings)) == []
    with pytest.raises(NotAllowed, match="needs the role manager"):
        publish_work(database, "ann", votes, "votes")


def test_ratings_of_a_restored_copy_are_not_taken_for_others(
    database: Database, tmp_path: Path
) -> None:
    add_evaluation(database, MANAGER, "final", "safety", [item(1)])
    for person in ("ann", "ben"):
        view = next_rating(database, person, "safety")
        assert view is not None
        rate(database, person, view.rating_id, 4, 5.0)
        # The copy is of before the first publication: what it plans next is part 1 again.
        forget = update(evaluation_ratings).values(part=None)
        database.write(lambda connection, forget=forget: connection.execute(forget))
        if person == "ann":
            assert publish_work(database, MANAGER, tmp_path / "out", "ratings") == 1
    with pytest.raises(DataError, match="publish into a new directory"):
        publish_work(database, MANAGER, tmp_path / "out", "ratings")
    assert publish_work(database, MANAGER, tmp_path / "new", "ratings") == 2


def test_ratings_of_a_ledger_of_version_7_can_be_published(
    database: Database, tmp_path: Path
) -> None:
    add_evaluation(database, MANAGER, "final", "safety", [item(1)])
    view = next_rating(database, "ann", "safety")
    assert view is not None
    rate(database, "ann", view.rating_id, 4, 5.0)

    def go_back(connection: Connection) -> None:
        connection.execute(text("ALTER TABLE evaluation_ratings DROP COLUMN part"))
        connection.execute(version.update().values(schema_version=7))

    database.write(go_back)
    newer = Database(database.place, database.clock)
    assert publish_work(newer, MANAGER, tmp_path / "out", "ratings") == 1
    newer.close()

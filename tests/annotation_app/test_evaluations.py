"""Blind evaluation: three raters, one order each, and the figures by hand."""

import pytest

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
from data.errors import DataError
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

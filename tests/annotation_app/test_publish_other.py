"""Other work of a ledger that was restored from a copy, in the app's order of the kinds."""

from pathlib import Path

import pytest
from sqlalchemy import Connection, select, update

from annotation_app.ledger.database import Database
from annotation_app.ledger.evaluations import add_evaluation, next_rating, rate
from annotation_app.ledger.schema import evaluation_ratings
from annotation_app.publish_other import WORK, publish_work
from annotation_app.scales import Kind
from data.dataset import read_rows
from data.errors import DataError
from data.schemas import Rating
from tests.annotation_app.conftest import MANAGER, item

EMPTY = dict.fromkeys(WORK, 0)


def evaluate_one(database: Database, person: str, score: int, kind: Kind = "safety") -> None:
    view = next_rating(database, person, kind)
    assert view is not None
    rate(database, person, view.rating_id, score, 1.0)


def restore(database: Database) -> None:
    """A copy of before the first publication: what it plans next is part 1 again."""
    database.write(
        lambda connection: connection.execute(update(evaluation_ratings).values(part=None))
    )


def planned(database: Database) -> list[int | None]:
    def query(connection: Connection) -> list[int | None]:
        return list(connection.execute(select(evaluation_ratings.c.part)).scalars())

    return database.read(query)


def publish_all(database: Database, parent: Path) -> dict[str, int | None]:
    """Rows added of each kind; None where it was refused."""
    added: dict[str, int | None] = {}
    for kind in WORK:
        try:
            added[kind] = publish_work(database, MANAGER, parent / kind, kind)
        except DataError:
            added[kind] = None
    return added


@pytest.fixture
def evaluated(database: Database) -> Database:
    """With four pairs and eight responses to rate."""
    for kind in ("pair", "safety"):
        add_evaluation(database, MANAGER, "final", kind, [item(n) for n in range(4)])
    return database


def test_lost_ratings_are_known_before_votes_are_planned(
    evaluated: Database, tmp_path: Path
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    evaluate_one(evaluated, "ann", 5)
    assert publish_all(evaluated, old) == EMPTY | {"ratings": 1}
    restore(evaluated)
    evaluate_one(evaluated, "ben", 1)
    for _ in range(2):
        assert publish_all(evaluated, old) == EMPTY | {"votes": None, "ratings": None}
        assert planned(evaluated) == [None, None]
    assert publish_all(evaluated, new) == EMPTY | {"ratings": 2}
    # Now part 1 is planned, with other rows than the old datasets have under its key.
    assert publish_all(evaluated, old) == EMPTY | {"ratings": None}
    assert [row.score for row in read_rows(old / "ratings", Rating)] == [5]
    evaluate_one(evaluated, "cem", 3)
    assert publish_all(evaluated, old) == EMPTY | {"ratings": None}
    assert publish_all(evaluated, new) == EMPTY | {"ratings": 1}
    assert sorted(row.score for row in read_rows(new / "ratings", Rating)) == [1, 3, 5]


def test_a_listed_part_that_holds_nothing_of_its_kind_any_more(
    evaluated: Database, tmp_path: Path
) -> None:
    evaluate_one(evaluated, "ann", 5)
    assert publish_work(evaluated, MANAGER, tmp_path / "first", "ratings") == 1
    forget = update(evaluation_ratings).values(part=None, status="open")
    evaluated.write(lambda connection: connection.execute(forget))
    evaluate_one(evaluated, "ben", 2, "pair")
    assert publish_work(evaluated, MANAGER, tmp_path / "second", "votes") == 1  # part 1 again
    with pytest.raises(DataError, match=r"first' already holds other rows under the key"):
        publish_work(evaluated, MANAGER, tmp_path / "first", "ratings")

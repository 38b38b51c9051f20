"""What a batch's progress is measured by."""

import pytest
from sqlalchemy import Connection, text

from annotation_app.ledger import queue
from annotation_app.ledger.access import NotAllowed
from annotation_app.ledger.database import Database
from annotation_app.ledger.schema import version
from annotation_app.settings import LOCAL_PERSON
from data.errors import DataError
from tests.annotation_app.conftest import MANAGER, item
from tests.annotation_app.test_pages import (  # noqa: F401  (fixtures)
    Start,
    checked,
    ledger,
    models,
    start,
)


def test_managers_set_goals(database: Database) -> None:
    def goal() -> int:
        return queue.progress(database, "ann")[0].goal

    queue.set_goal(database, MANAGER, "b1", 250)
    assert goal() == 250
    with pytest.raises(NotAllowed, match="needs the role manager"):
        queue.set_goal(database, "ann", "b1", 1)
    for wanted in (-1, queue.MAX_GOAL + 1):
        with pytest.raises(DataError, match="give 0 to 100,000,000"):
            queue.set_goal(database, MANAGER, "b1", wanted)
    with pytest.raises(DataError, match="no batch 'b2'"):
        queue.set_goal(database, MANAGER, "b2", 1)
    queue.set_goal(database, MANAGER, "b1", 0)
    assert goal() == 4  # four items, one person each


def test_a_ledger_of_version_8_gets_goals(database: Database) -> None:
    def go_back(connection: Connection) -> None:
        connection.execute(text("ALTER TABLE batches DROP COLUMN goal"))
        connection.execute(version.update().values(schema_version=8))

    database.write(go_back)
    newer = Database(database.place, database.clock)
    assert queue.progress(newer, "ann")[0].goal == 4
    queue.set_goal(newer, MANAGER, "b1", 7)
    assert queue.progress(newer, "ann")[0].goal == 7
    newer.close()


def test_a_goal_that_nobody_set_follows_the_items(start: Start, ledger: Database) -> None:  # noqa: F811
    app = start("manage")
    field = app.number_input(key="goal-safe")
    assert field.value == 0 and "0 asks for 1," in field.help
    checked(app.button(key="set-goal-safe").click().run())
    queue.create_batch(ledger, LOCAL_PERSON, "safe", [item(7), item(8)], domain="safety")
    assert [(b.items, b.goal) for b in queue.progress(ledger, LOCAL_PERSON)][1] == (3, 3)

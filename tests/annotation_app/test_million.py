"""A ledger with a million annotations: what people wait for. In processor time."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import pytest
from sqlalchemy import Connection, Table, insert, text, update

from annotation_app.assignment import shows_second_first
from annotation_app.ledger import access, disputes, oversight, queue, work
from annotation_app.ledger.database import Database
from annotation_app.ledger.decisions import decided_choices
from annotation_app.ledger.rows import Response, messages_json, responses_json
from annotation_app.ledger.schema import assignments, batches, items, submissions
from annotation_app.quality import agreement, summarise_annotators
from data.schemas import STRENGTHS, Message
from tests.annotation_app.conftest import MANAGER, judgement

pytestmark = [
    pytest.mark.slow,  # a million rows in three tables
    pytest.mark.timeout(3600),
]
BATCHES, ITEMS, PEOPLE = 10, 50_000, 20
"""Two people on each item: a million annotations."""


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def million(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    """Everything annotated but the last thousand items of each batch."""
    place = str(tmp_path_factory.mktemp("million") / "ledger.sqlite")
    if request.param == "postgresql":
        place = request.getfixturevalue("postgresql")()
    database = Database(place)
    access.ensure_person(database, MANAGER, "manager")
    for n in range(PEOPLE):
        access.ensure_person(database, f"p{n}", "annotator")
    for batch in range(BATCHES):
        queue.create_batch(database, MANAGER, f"b{batch}", [], domain="helpfulness", overlap=2)
        database.write(lambda connection, batch=batch: _fill(connection, batch))
    if request.param == "postgresql":  # what its autovacuum does within a minute
        database.write(lambda connection: connection.execute(text("ANALYZE")))
    yield database
    database.close()


def _fill(connection: Connection, batch: int) -> None:
    """By SQL: through the app it would take an hour."""
    prompt = messages_json([Message("user", "Why? " * 20)])
    responses = responses_json([Response(text="So. " * 60), Response(text="Or so. " * 60)])
    shared = {"source": "test", "prompt": prompt, "responses": responses, "batch_id": f"b{batch}"}
    given = {"status": "submitted", "lease_until": 0.0, "skip_reason": "", "created_at": 1.0}
    said = {"revision": 0, "comment": "", "flag": "", "seconds": 9.0, "late": False}
    rows: dict[Table, list[dict[str, object]]] = {items: [], assignments: [], submissions: []}
    for item in range(batch * ITEMS, (batch + 1) * ITEMS):
        left = 2 if item % ITEMS >= ITEMS - 1000 else 0
        rows[items].append(shared | {"item_id": item + 1, "name": str(item), "places": left})
        for k in range(2 - left):
            one = {"assignment_id": f"{item:08}{k}"}
            swapped = shows_second_first(one["assignment_id"])
            mine = {"item_id": item + 1, "person_id": f"p{(item + 7 * k) % PEOPLE}"}
            rows[assignments].append(given | one | mine | {"swapped": swapped})
            # One in five disagrees; the strengths go round.
            judged = {"chosen": int(k and item % 5 == 0), "strength": STRENGTHS[item % 4]}
            rows[submissions].append(said | one | judged | {"created_at": 20.0})
    for table, new in rows.items():
        connection.execute(insert(table), new)
    counts = {"num_items": ITEMS, "num_submitted": 2 * (ITEMS - 1000)}
    connection.execute(update(batches).where(batches.c.batch_id == f"b{batch}").values(**counts))


def took(database: Database, action: Callable[[], object]) -> float:
    """Processor seconds, of this process and of the server that works for it."""
    begin = time.process_time() + _server_seconds(database)
    action()
    return time.process_time() + _server_seconds(database) - begin


def _server_seconds(database: Database) -> float:
    """Of the one process that serves our one connection."""
    if not database.place.startswith("postgresql"):
        return 0.0
    query = text("SELECT pg_backend_pid()")
    pid = database.read(lambda connection: connection.execute(query).scalar_one())
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def test_the_next_item_comes_at_once(million: Database) -> None:
    def one() -> None:
        view = work.next_assignment(million, "p3", "b4")
        assert view is not None
        given.append(view.assignment_id)

    given: list[str] = []
    asking, saving = [], []
    for _ in range(100):
        asking.append(took(million, one))
        saving.append(took(million, lambda: work.submit(million, "p3", given[-1], 0, judgement())))
    print(
        f"\nnext item {1000 * median(asking):.1f} ms, longest {1000 * max(asking):.1f} ms; "
        f"submission {1000 * median(saving):.1f} ms"
    )
    assert len(set(given)) == 100
    assert median(asking) < 0.020


def test_the_dashboard_does_not_keep_managers_waiting(million: Database) -> None:
    def quality() -> None:
        judged = oversight.judged(million, MANAGER, "b4")
        decided = decided_choices(million, MANAGER, "b4")
        agreement(judged)
        summarise_annotators(judged, decided)

    parts: dict[str, Callable[[], object]] = {
        "progress": lambda: queue.progress(million, MANAGER),
        "strength by batch": lambda: oversight.strength_counts(million, MANAGER),
        "quality of a batch": quality,
        "disagreements by batch": lambda: disputes.count_disputes(million, MANAGER),
        "next disagreement": lambda: disputes.next_dispute(million, MANAGER, "b4"),
    }
    seconds = {name: took(million, action) for name, action in parts.items()}
    print("\n" + ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()))
    assert max(seconds.values()) < 2.0

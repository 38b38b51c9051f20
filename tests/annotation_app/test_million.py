"""A ledger with a million annotations: what people wait for. In processor time of this process."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import pytest

from annotation_app.assignment import shows_second_first
from annotation_app.ledger import access, disputes, oversight, queue, work
from annotation_app.ledger.database import Database
from annotation_app.ledger.decisions import decided_choices
from annotation_app.ledger.rows import Response, messages_json, responses_json
from annotation_app.quality import agreement, summarise_annotators
from data.schemas import STRENGTHS, Message
from tests.annotation_app.conftest import MANAGER, judgement

pytestmark = [
    pytest.mark.slow,  # a million rows in three tables
    pytest.mark.timeout(3600),
]
BATCHES, ITEMS, PEOPLE = 10, 50_000, 20
"""Two people on each item: a million annotations."""


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Everything annotated but the last thousand items of each batch."""
    place = tmp_path_factory.mktemp("million") / "ledger.sqlite"
    database = Database(str(place))
    access.ensure_person(database, MANAGER, "manager")
    for n in range(PEOPLE):
        access.ensure_person(database, f"p{n}", "annotator")
    for batch in range(BATCHES):
        queue.create_batch(database, MANAGER, f"b{batch}", [], domain="helpfulness", overlap=2)
    _fill(place)
    yield database
    database.close()


def _fill(place: Path) -> None:
    """By SQL: through the app it would take an hour."""
    prompt = messages_json([Message("user", "Why? " * 20)])
    responses = responses_json([Response(text="So. " * 60), Response(text="Or so. " * 60)])
    items, assignments, submissions = [], [], []
    for item in range(BATCHES * ITEMS):
        batch = item // ITEMS
        left = 2 if item % ITEMS >= ITEMS - 1000 else 0
        items.append((item + 1, f"b{batch}", str(item), "test", prompt, responses, left))
        for k in range(2 - left):
            name = f"{item:08}{k}"
            person = f"p{(item + 7 * k) % PEOPLE}"
            swapped = shows_second_first(name)
            assignments.append((name, item + 1, person, swapped, "submitted", 0.0, "", 1.0))
            # One in five disagrees; the strengths go round.
            chosen, strength = int(k and item % 5 == 0), STRENGTHS[item % 4]
            submissions.append((name, 0, chosen, strength, "", "", 9.0, False, 20.0))
    connection = sqlite3.connect(place)
    connection.executemany("INSERT INTO items VALUES (?,?,?,?,?,?,?)", items)
    connection.executemany("INSERT INTO assignments VALUES (?,?,?,?,?,?,?,?)", assignments)
    connection.executemany(
        "INSERT INTO submissions (assignment_id, revision, chosen, strength, comment, flag, "
        "seconds, late, created_at) VALUES (?,?,?,?,?,?,?,?,?)",
        submissions,
    )
    connection.execute(
        "UPDATE batches SET num_items = ?, num_submitted = ?", (ITEMS, 2 * (ITEMS - 1000))
    )
    connection.commit()
    connection.close()


def took(action: Callable[[], object]) -> float:
    """Processor seconds."""
    begin = time.process_time()
    action()
    return time.process_time() - begin


def test_the_next_item_comes_at_once(million: Database) -> None:
    def one() -> None:
        view = work.next_assignment(million, "p3", "b4")
        assert view is not None
        given.append(view.assignment_id)

    given: list[str] = []
    asking, saving = [], []
    for _ in range(100):
        asking.append(took(one))
        saving.append(took(lambda: work.submit(million, "p3", given[-1], 0, judgement())))
    print(
        f"next item {1000 * median(asking):.1f} ms, longest {1000 * max(asking):.1f} ms; "
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
    seconds = {name: took(action) for name, action in parts.items()}
    print(", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()))
    assert max(seconds.values()) < 2.0

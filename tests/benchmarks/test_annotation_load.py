"""The load of annotators: their tabs' protocol, and the comparison with the ledger."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from annotation_app.ledger import work
from annotation_app.ledger.access import ensure_person
from annotation_app.ledger.database import Database
from benchmarks.annotation_load import Load, Log, check, percentile, prepare, run_load
from tests.annotation_app.conftest import judgement
from tests.annotation_app.server import Server, free_port


@pytest.fixture
def answered(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A ledger with one answer, A better, and the answer's key."""
    ledger = str(tmp_path / "ledger.sqlite")
    prepare(ledger, Load(clients=1, interval=1.0, seconds=1.0, ramp=1.0))
    database = Database(ledger)
    ensure_person(database, "person-0", "annotator")
    view = work.next_assignment(database, "person-0", "queue")
    assert view is not None
    work.submit(database, "person-0", view.assignment_id, 0, judgement())
    yield ledger, f"{view.assignment_id}-0"
    database.close()


def test_what_was_acknowledged_is_there_as_it_was_clicked(answered: tuple[str, str]) -> None:
    ledger, key = answered
    assert check(Log(acknowledged={key: "A-better"}), ledger) == []
    lost = "1 acknowledged answers are not in the ledger as clicked"
    assert check(Log(acknowledged={key: "B-better"}), ledger) == [lost]
    assert check(Log(acknowledged={key: "A-better", "other-0": "A-better"}), ledger) == [lost]
    unheard = "1 answers were stored and never acknowledged"
    assert check(Log(errors=["no answer"]), ledger) == [unheard, "no answer"]


def test_percentiles_by_hand() -> None:
    # 0, 1, … 100: the 95th of a hundred equal steps.
    assert percentile([float(n) for n in range(101)], 95) == pytest.approx(95.0)
    assert percentile([2.0], 95) == 2.0 and percentile([], 95) == 0.0


def test_three_annotators_work_at_once(tmp_path: Path) -> None:
    load = Load(clients=3, interval=1.5, seconds=3.0, ramp=0.5)
    ledger = str(tmp_path / "ledger.sqlite")
    tokens = prepare(ledger, load)
    with Server(tmp_path, free_port(), "--sign_in", "invitations") as server:
        log, usage = asyncio.run(run_load(server, tokens, load))
    assert check(log, ledger) == []
    assert log.signed_in == 3 and len(log.acknowledged) >= 3
    assert log.runs == 2 * len(log.saved)  # the page is drawn once for each of the two clicks
    assert usage.processor_seconds > 0

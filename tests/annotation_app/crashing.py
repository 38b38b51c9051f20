"""What the processes do that tests kill; light to import, because each of them starts anew."""

import multiprocessing
import time
from pathlib import Path

from annotation_app.judgement import Judgement
from annotation_app.ledger import work
from annotation_app.ledger.database import Database
from annotation_app.publish import publish

# Forked from a server that has imported everything: a start takes milliseconds, not seconds.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["pytest", __name__])

SAID = Judgement(side="A", strength="better")


def write_until_killed(place: str, person: str, batch: str, log: Path) -> None:
    """Annotates, and adds each id to the log once it is acknowledged."""
    database = Database(place)
    with log.open("ab", buffering=0) as stream:
        while True:
            view = work.next_assignment(database, person, batch)
            if view is None:  # everything is done: wait for the end
                time.sleep(0.01)
                continue
            work.submit(database, person, view.assignment_id, 0, SAID)
            stream.write(f"{view.assignment_id}\n".encode())


def publish_until_killed(place: str, manager: str, directory: Path) -> None:
    database = Database(place)
    while True:
        publish(database, manager, directory)
        time.sleep(0.05)


def submit_often(place: str, person: str, assignment_id: str) -> None:
    database = Database(place)
    for _ in range(10):
        work.submit(database, person, assignment_id, 0, SAID)
    database.close()

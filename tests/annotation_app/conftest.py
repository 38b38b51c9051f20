"""A ledger of each kind: SQLite in a file, and PostgreSQL where this machine can start one."""

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from annotation_app.judgement import Judgement
from annotation_app.ledger.access import ensure_person
from annotation_app.ledger.database import Database
from annotation_app.ledger.queue import create_batch
from annotation_app.ledger.rows import NewItem, Response
from data.schemas import Message
from tests.annotation_app.server import free_port

MANAGER = "maria"
PEOPLE = ("ann", "ben", "cem")
_NAP = 0.05
"""Seconds between two looks at what is waited for."""


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def item(number: int) -> NewItem:
    return NewItem(
        name=f"item-{number}",
        prompt=(Message("user", f"question {number}?"),),
        responses=(
            Response(text=f"first {number}", model="model-one", temperature=0.7),
            Response(text=f"second {number}", model="model-two", temperature=1.0),
        ),
        source="test",
    )


def judgement(**changes: object) -> Judgement:
    return Judgement(**{"side": "A", "strength": "better"} | changes)  # type: ignore[arg-type]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an empty ledger can be made."""
    if request.param == "sqlite":
        return str(tmp_path / "ledger.sqlite")
    fresh_database: Callable[[], str] = request.getfixturevalue("postgresql")
    return fresh_database()


@pytest.fixture
def database(place: str, clock: Clock) -> Iterator[Database]:
    """A ledger with a manager, three annotators and a batch of four items, one place each."""
    database = Database(place, clock)
    ensure_person(database, MANAGER, "manager")
    for person in PEOPLE:
        ensure_person(database, person, "annotator")
    create_batch(database, MANAGER, "b1", [item(n) for n in range(4)], domain="helpfulness")
    yield database
    database.close()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[], str]]:
    """Makes a new database at each call, in one server of our own on 127.0.0.1."""
    programs = _postgresql_programs()
    # Not in pytest's own folder: whenever another pytest starts, it shuts that one for other users.
    with tempfile.TemporaryDirectory(prefix="rlhf-postgresql-") as directory:
        yield from _serve_postgresql(programs, Path(directory))


def _serve_postgresql(programs: Path, directory: Path) -> Iterator[Callable[[], str]]:
    owner: dict[str, Any] = {"cwd": "/"}
    if os.getuid() == 0:  # the server refuses to run as root
        shutil.chown(directory, "postgres")
        owner |= {"user": "postgres", "group": "postgres", "extra_groups": []}
    data, port = directory / "data", free_port()

    def run(program: str, *words: object) -> None:
        command = [str(programs / program), *map(str, words)]
        subprocess.run(command, check=True, capture_output=True, timeout=300, **owner)

    run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync")
    here = ("-h", "127.0.0.1", "-p", port, "-U", "postgres")
    command = [programs / "postgres", "-D", data, "-p", str(port), "-k", directory]
    with (
        (directory / "log").open("wb") as log,
        subprocess.Popen([*command, "-h", "127.0.0.1"], stdout=log, stderr=log, **owner) as server,
    ):
        try:
            wait_until(lambda: _succeeds(lambda: run("pg_isready", *here)))
            numbers = itertools.count()

            def fresh_database() -> str:
                name = f"ledger{next(numbers)}"
                run("psql", *here, "-c", f"CREATE DATABASE {name}")
                return f"postgresql+psycopg://postgres@127.0.0.1:{port}/{name}"

            yield fresh_database
        finally:
            server.send_signal(signal.SIGQUIT)  # at once, without keeping anything


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Returns when the condition holds; fails when it does not in time.

    The time is of naps, not of the clock: who was stopped with all others may go on waiting.
    """
    for _ in range(round(seconds / _NAP)):
        if condition():
            return
        time.sleep(_NAP)
    raise AssertionError(f"not within {seconds} s")


def _succeeds(action: Callable[[], None]) -> bool:
    try:
        action()
    except subprocess.CalledProcessError:
        return False
    return True


def _postgresql_programs() -> Path:
    pytest.importorskip("psycopg", reason="no PostgreSQL driver; pip install 'psycopg[binary]'")
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    folders += [Path(p) for p in os.environ.get("PATH", "").split(os.pathsep)]
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "psql").exists():
            return folder
    pytest.skip("no PostgreSQL server here; apt-get install postgresql")

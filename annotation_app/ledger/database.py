"""The connection to a ledger: one writer at a time, and a commit is on the disk.

SQLite: rollback journal (TRUNCATE), synchronous=FULL, BEGIN IMMEDIATE. PostgreSQL: an advisory lock
for the length of a writing transaction. So both give the same simple order: whoever writes has seen
everything that was written before.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError

from annotation_app.ledger.migrations import migrate
from data.errors import ConfigError, DataError

T = TypeVar("T")

BUSY_SECONDS = 10.0
"""How long one attempt waits for another writer."""
ATTEMPTS = 3
_LOCK_KEY = 0x52_4C_48_46  # "RLHF": any number that nobody else uses


class LedgerUnavailable(DataError):
    """The database did not answer or did not commit; nothing of the change was stored."""


class Database:
    """A ledger at a path or URL, migrated to the current schema.

    Args:
        place: a file for SQLite, or a URL such as postgresql+psycopg://user@host/name.
        clock: seconds since 1970.

    Raises:
        ConfigError: no such kind of database, or its driver is not installed.
        LedgerUnavailable: it cannot be opened.
        DataError: it was written by a newer version, or is no ledger.
    """

    def __init__(self, place: str, clock: Callable[[], float] = time.time) -> None:
        self.place = place
        self.clock = clock
        self._engine = _engine(place)
        try:
            self.write(migrate)
        except DataError:
            self.close()
            raise

    def read(self, query: Callable[[Connection], T]) -> T:
        """Runs a query in one reading transaction."""
        return self._run(query, self._reading)

    def write(self, change: Callable[[Connection], T]) -> T:
        """Runs a change in one transaction and returns once it is committed.

        The change may run again after a failed attempt, so it does nothing but SQL.

        Raises:
            LedgerUnavailable: after a bounded number of attempts.
        """
        return self._run(change, self._writing)

    def close(self) -> None:
        """Lets go of every connection."""
        self._engine.dispose()

    def _run(self, work: Callable[[Connection], T], transaction: Any) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with transaction() as connection:
                    return work(connection)
            except OperationalError as error:
                if attempt == ATTEMPTS or not _may_pass(error):
                    raise _unavailable(self.place, error) from error
                time.sleep(0.1 * attempt)
            except SQLAlchemyError as error:
                raise _unavailable(self.place, error) from error
        raise AssertionError("unreachable")

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        engine = self._engine
        with engine.connect().execution_options(writes=True) as connection, connection.begin():
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
            yield connection


def shown_place(place: str) -> str:
    """A file as it is, a URL without its password: fit for a terminal."""
    return make_url(place).render_as_string(hide_password=True) if "://" in place else place


def _engine(place: str) -> Engine:
    url = _url(place)
    try:
        if url.get_backend_name() == "sqlite":
            return _sqlite(url)
        return create_engine(url, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the ledger {shown_place(place)} needs the driver {error.name!r}; pip install "
            "'psycopg[binary]' and write postgresql+psycopg://…"
        ) from error
    except NoSuchModuleError as error:
        raise ConfigError(
            f"the ledger {shown_place(place)} is of no known kind; give a file, or "
            "postgresql+psycopg://…"
        ) from error


def _url(place: str) -> URL:
    if "://" not in place:
        path = Path(place).expanduser().absolute()
        if path.is_dir():
            raise ConfigError(f"the ledger {place!r} is a directory; name a file in it")
        path.parent.mkdir(parents=True, exist_ok=True)
        return URL.create("sqlite", database=str(path))
    try:
        return make_url(place)
    except ArgumentError as error:
        raise ConfigError(f"the ledger's URL cannot be read: {error}; check it") from error


def _sqlite(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # we begin transactions ourselves, see below
        for pragma in ("journal_mode=TRUNCATE", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _may_pass(error: OperationalError) -> bool:
    """Whether trying again can help: a lock or a lost connection, but not a full disk."""
    return error.connection_invalidated or "locked" in str(error.orig)


def _unavailable(place: str, error: SQLAlchemyError) -> LedgerUnavailable:
    reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    remedy = "check its disk, permissions and server, then try again"
    if "not a database" in reason:  # in SQLite's words, of any other file
        remedy = "name another file or a new one; a ledger that is damaged comes back from a backup"
    return LedgerUnavailable(
        f"the ledger {shown_place(place)} did not take it ({reason}); nothing was stored; {remedy}"
    )

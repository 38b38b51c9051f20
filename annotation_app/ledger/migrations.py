"""From each version of the schema to the next, in one transaction; the last one is current."""

import secrets
from collections.abc import Callable, Sequence

from sqlalchemy import Connection, Table, insert, inspect, select, text, update

from annotation_app.ledger.schema import (
    assignments,
    attack_messages,
    attacks,
    batches,
    checks,
    conflicts,
    decisions,
    demonstrations,
    evaluation_items,
    evaluation_ratings,
    events,
    grounds,
    invitations,
    items,
    metadata,
    people,
    publications,
    publisher,
    qualifications,
    requirements,
    rules,
    signing_keys,
    submissions,
    version,
)
from data.errors import DataError

Migration = Callable[[Connection], None]


_FIRST = (
    *(version, people, batches, items, assignments),
    *(submissions, conflicts, publications, events),
)


def _create(connection: Connection) -> None:
    metadata.create_all(connection, tables=_FIRST)
    connection.execute(insert(version).values(schema_version=0, ledger_id=secrets.token_hex(4)))


def _add_sign_in_and_publisher(connection: Connection) -> None:
    metadata.create_all(connection, tables=(signing_keys, invitations, publisher))
    connection.execute(insert(signing_keys).values(key=secrets.token_hex(32)))
    connection.execute(insert(publisher).values(holder="", until=0.0))


def _add_evaluations(connection: Connection) -> None:
    metadata.create_all(connection, tables=(evaluation_items, evaluation_ratings))


def _add_demonstrations(connection: Connection) -> None:
    metadata.create_all(connection, tables=(demonstrations,))


def _add_checks(connection: Connection) -> None:
    metadata.create_all(connection, tables=(checks, rules))


def _add_qualifications(connection: Connection) -> None:
    metadata.create_all(connection, tables=(requirements, qualifications))


def _add_decisions(connection: Connection) -> None:
    metadata.create_all(connection, tables=(decisions, grounds))


def _add_attacks_and_parts_of_ratings(connection: Connection) -> None:
    metadata.create_all(connection, tables=(attacks, attack_messages))
    _add_column(connection, evaluation_ratings, "part", "INTEGER")


def _add_goals(connection: Connection) -> None:
    _add_column(connection, batches, "goal", "INTEGER NOT NULL DEFAULT 0")


def _add_column(connection: Connection, table: Table, name: str, kind: str) -> None:
    """A ledger that begins now has it from the version that made the table."""
    if name not in {column["name"] for column in inspect(connection).get_columns(table.name)}:
        connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {name} {kind}"))


MIGRATIONS: tuple[Migration, ...] = (
    _create,
    _add_sign_in_and_publisher,
    _add_evaluations,
    _add_demonstrations,
    _add_checks,
    _add_qualifications,
    _add_decisions,
    _add_attacks_and_parts_of_ratings,
    _add_goals,
)
"""The n-th one leads to version n. Released ones never change: what changes is appended."""


def migrate(connection: Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Brings a ledger, or an empty database, to the current version.

    Raises:
        DataError: the ledger was written by a newer version of the toolkit.
    """
    found = 0
    if inspect(connection).has_table(version.name):
        found = connection.execute(select(version.c.schema_version)).scalar_one()
    if found > len(migrations):
        raise DataError(
            f"the ledger has schema version {found}; this toolkit knows up to {len(migrations)}; "
            "update the toolkit"
        )
    for step in migrations[found:]:
        step(connection)
    if found < len(migrations):
        connection.execute(update(version).values(schema_version=len(migrations)))

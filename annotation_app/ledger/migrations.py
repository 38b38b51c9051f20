"""From each version of the schema to the next, in one transaction; the last one is current."""

import secrets
from collections.abc import Callable, Sequence

from sqlalchemy import Connection, insert, inspect, select, update

from annotation_app.ledger.schema import metadata, version
from data.errors import DataError

Migration = Callable[[Connection], None]


def _create(connection: Connection) -> None:
    metadata.create_all(connection)
    connection.execute(insert(version).values(schema_version=0, ledger_id=secrets.token_hex(4)))


MIGRATIONS: tuple[Migration, ...] = (_create,)
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

"""Batches of items that wait to be compared."""

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, insert, select, update

from annotation_app.ledger.access import allow, record
from annotation_app.ledger.checks import add_checks
from annotation_app.ledger.database import Database
from annotation_app.ledger.rows import NewItem, Progress, messages_json, responses_json
from annotation_app.ledger.schema import batches, items
from data.errors import DataError
from data.schemas import DOMAINS, Domain

_NAME = re.compile(r"[\w.-]{1,100}")
MAX_GOAL = 100_000_000


def create_batch(
    database: Database,
    manager_id: str,
    batch_id: str,
    new_items: Sequence[NewItem],
    *,
    domain: Domain,
    overlap: int = 1,
    live_turns: int = 0,
) -> int:
    """Creates a batch, or adds to it the items that it does not have; returns how many it added.

    Args:
        overlap: how many different people compare each item; fixed when the batch is created.
        live_turns: if not 0, annotators write the prompts, and a dialogue has up to so many turns.

    Raises:
        NotAllowed: not by a manager.
        DataError: a setting out of range, or the batch exists with other settings.
    """
    in_range = domain in DOMAINS and 1 <= overlap <= 100 and 0 <= live_turns <= 100
    if not _NAME.fullmatch(batch_id) or not in_range:
        raise DataError(
            f"batch {batch_id!r}, domain {domain!r}, overlap {overlap}, turns {live_turns}; give a "
            f"name of letters, digits, '.', '_' and '-', a domain ({' or '.join(DOMAINS)}), and an "
            "overlap and turns up to 100"
        )

    def change(connection: Connection) -> int:
        allow(connection, manager_id, "manager")
        settings = {"domain": domain, "overlap": overlap, "live_turns": live_turns}
        _create_or_check(connection, database.clock(), batch_id, settings)
        added = _add_items(connection, batch_id, overlap, new_items)
        record(connection, database.clock(), manager_id, "add items", batch_id, count=added)
        return added

    return database.write(change)


def set_open(database: Database, manager_id: str, batch_id: str, is_open: bool) -> None:
    """Closes a batch for new assignments, or opens it again.

    Raises:
        NotAllowed: not by a manager.
        DataError: no such batch.
    """

    def change(connection: Connection) -> None:
        allow(connection, manager_id, "manager")
        _change(connection, batch_id, open=is_open)
        action = "open batch" if is_open else "close batch"
        record(connection, database.clock(), manager_id, action, batch_id)

    database.write(change)


def set_goal(database: Database, manager_id: str, batch_id: str, goal: int) -> None:
    """Changes how many annotations a batch's progress is measured by; work goes on beyond it.

    Args:
        goal: 0: every item as often as the overlap says.

    Raises:
        NotAllowed: not by a manager.
        DataError: no such batch, or a goal out of range.
    """

    def change(connection: Connection) -> None:
        allow(connection, manager_id, "manager")
        if not 0 <= goal <= MAX_GOAL:
            raise DataError(f"a goal of {goal} annotations; give 0 to {MAX_GOAL:,}")
        _change(connection, batch_id, goal=goal)
        record(connection, database.clock(), manager_id, "set goal", batch_id, goal=goal)

    database.write(change)


def progress(database: Database, person_id: str) -> list[Progress]:
    """Every batch and how far it is, in the order of creation.

    Raises:
        NotAllowed: an unknown or paused person.
    """

    def query(connection: Connection) -> list[Progress]:
        allow(connection, person_id, "annotator")
        ordered = select(batches).order_by(batches.c.created_at, batches.c.batch_id)
        return [
            Progress(
                batch_id=row.batch_id,
                domain=row.domain,
                open=row.open,
                overlap=row.overlap,
                live_turns=row.live_turns,
                items=row.num_items,
                submitted=row.num_submitted,
                skipped=row.num_skipped,
                goal=row.goal or row.num_items * row.overlap,
                own_goal=row.goal,
            )
            for row in connection.execute(ordered)
        ]

    return database.read(query)


def _change(connection: Connection, batch_id: str, **values: object) -> None:
    found = update(batches).where(batches.c.batch_id == batch_id).values(**values)
    if not connection.execute(found).rowcount:
        raise DataError(f"there is no batch {batch_id!r}; check the name")


def _add_items(
    connection: Connection, batch_id: str, overlap: int, new_items: Sequence[NewItem]
) -> int:
    query = select(items.c.name).where(items.c.batch_id == batch_id)
    known = set(connection.execute(query).scalars())
    fresh = {item.name: item for item in new_items if item.name not in known}
    if not fresh:
        return 0
    rows = [
        {
            "batch_id": batch_id,
            "name": item.name,
            "source": item.source,
            "prompt": messages_json(item.prompt),
            "responses": item.responses and responses_json(item.responses),
            "places": 0 if item.check else overlap,  # checks are not given out in turn
        }
        for item in fresh.values()
    ]
    connection.execute(insert(items), rows)
    added = add_checks(connection, batch_id, {n: i.check for n, i in fresh.items() if i.check})
    here = update(batches).where(batches.c.batch_id == batch_id)
    connection.execute(here.values(num_items=batches.c.num_items + len(fresh) - added))
    return len(fresh)


def _create_or_check(
    connection: Connection, at: float, batch_id: str, settings: dict[str, Any]
) -> None:
    query = select(batches).where(batches.c.batch_id == batch_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        counts = {"num_items": 0, "num_submitted": 0, "num_skipped": 0}
        values = {"batch_id": batch_id, "open": True, "created_at": at} | settings | counts
        connection.execute(insert(batches).values(**values))
    elif settings != {name: row._mapping[name] for name in settings}:
        known = ", ".join(f"{name} {row._mapping[name]}" for name in settings)
        raise DataError(f"batch {batch_id!r} exists with {known}; choose another name")

"""Whether somebody is at an item that was given to them."""

from sqlalchemy import ColumnElement, FromClause

from annotation_app.assignment import LEASE_SECONDS


def is_held(given: FromClause, now: float) -> ColumnElement[bool]:
    """The condition that a row is open and its lease runs.

    Hosts may differ by up to the length of a lease; one that ends later yet is from a clock that
    was wrong, and holds nothing.

    Args:
        given: with the columns `status` and `lease_until`.
        now: seconds since 1970.
    """
    return (given.c.status == "open") & given.c.lease_until.between(now, now + 2 * LEASE_SECONDS)

"""Decisions about assignments that need no database. Pure."""

import hashlib

LEASE_SECONDS = 30 * 60.0
"""How long a displayed item is kept for its annotator; work that comes later is kept and marked."""
IDLE_SECONDS = 120.0
"""A longer gap between two actions counts as this much work: the person was elsewhere."""


def shows_second_first(assignment_id: str) -> bool:
    """Whether the item's second response is shown as A: a fair coin, fixed by the id."""
    return bool(hashlib.blake2b(assignment_id.encode(), digest_size=1).digest()[0] & 1)


def index_of(side: str, swapped: bool) -> int:
    """Which of the item's two responses was shown as this side."""
    return (side == "B") ^ swapped


def side_of(index: int, swapped: bool) -> str:
    """The inverse of `index_of`."""
    return "AB"[index ^ swapped]


def is_late(now: float, lease_until: float) -> bool:
    """Whether work handed in now comes after its lease."""
    return now > lease_until


def is_too_fast(given_at: float, now: float, min_seconds: float) -> bool:
    """Whether nobody can have read the item in the time it was there; a clock back accuses none."""
    return 0 <= now - given_at < min_seconds


def active_seconds(so_far: float, last_action: float, now: float) -> float:
    """Working time after another action; a clock that jumped back adds nothing."""
    return so_far + min(max(0.0, now - last_action), IDLE_SECONDS)

"""How often signing in may fail before somebody has to wait."""

import threading
import time
from collections import deque
from collections.abc import Callable

from data.errors import UserError

MAX_FAILURES = 10
WINDOW_SECONDS = 60.0


class TooManyAttempts(UserError):
    """Signing in failed too often from one address."""


class Attempts:
    """Failures of the last minute by address; the next attempt waits, whether right or wrong.

    In memory, since a stranger must not be able to make the ledger write: each replica counts for
    itself, and a restart forgets.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: deque[tuple[float, str]] = deque()
        self._lock = threading.Lock()

    def check(self, address: str) -> None:
        """Nothing, where an attempt is free.

        Raises:
            TooManyAttempts: it is not; says for how long.
        """
        with self._lock:
            now = self._clock()
            self._forget(now)
            mine = [at for at, who in self._failures if who == address]
            if len(mine) >= MAX_FAILURES:
                wait = mine[-MAX_FAILURES] + WINDOW_SECONDS - now
                raise TooManyAttempts(
                    f"signing in failed {len(mine)} times from here; try again in {wait:.0f} s"
                )

    def failed(self, address: str) -> None:
        """Counts a failure."""
        with self._lock:
            now = self._clock()
            self._forget(now)
            self._failures.append((now, address))

    def _forget(self, now: float) -> None:
        while self._failures and self._failures[0][0] <= now - WINDOW_SECONDS:
            self._failures.popleft()

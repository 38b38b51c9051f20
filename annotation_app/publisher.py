"""Publishing by itself: every so many annotations or minutes, by one process at a time.

The app starts this as a process of its own, so that a large part does not slow down the screens:

    python -m annotation_app.publisher PROCESS

It ends when that process does, its parent and the app, however the app ended.
"""

import os
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path

from annotation_app.ledger.access import SYSTEM
from annotation_app.ledger.database import Database
from annotation_app.ledger.publications import take_turn, waiting
from annotation_app.publish import PublishRule, publish
from annotation_app.settings import AppSettings
from data.errors import UserError

POLL_SECONDS = 5.0
TURN_SECONDS = 60.0
"""How long the others wait for a publisher that was killed."""


def watch(
    database: Database,
    directory: Path,
    rule: PublishRule,
    *,
    going_on: Callable[[], bool],
    wait: Callable[[float], object] = time.sleep,
) -> None:
    """Publishes whenever it is due and it is this process's turn, as long as `going_on()`.

    The first time it has the turn it publishes what another one planned and did not finish. What
    fails is said on stderr and tried again.
    """
    holder = secrets.token_hex(8)
    caught_up = False
    while going_on():
        try:
            if take_turn(database, SYSTEM, holder, TURN_SECONDS):
                now = database.clock()
                if not caught_up or rule.is_due(waiting(database, SYSTEM), now):
                    done = publish(database, SYSTEM, directory)
                    caught_up = True
                    if done.rows:
                        print(f"published {done.rows:,} new rows to {directory}", flush=True)
            else:
                caught_up = False
        except (UserError, OSError) as error:
            print(f"not published: {error}; trying again", file=sys.stderr, flush=True)
        wait(POLL_SECONDS)


def main() -> None:
    """Watches for the app that started this process."""
    settings = AppSettings.from_environment()
    app = int(sys.argv[1])  # told, since the parent may be gone already
    if settings.publish_when is None:
        return
    database = Database(settings.ledger)
    try:
        watch(
            database, settings.dataset, settings.publish_when, going_on=lambda: os.getppid() == app
        )
    except KeyboardInterrupt:  # Ctrl-C reaches both processes
        pass
    finally:
        database.close()


if __name__ == "__main__":
    main()

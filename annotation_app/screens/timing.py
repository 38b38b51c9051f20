"""How long somebody has worked at what is on the screen."""

from annotation_app.assignment import active_seconds
from annotation_app.session import Session


def seconds_at(session: Session, key: str) -> float:
    """Active time at the item named `key` so far, idle time excluded; a reload begins anew."""
    desk, now = session.desk, session.database.clock()
    if desk.item == key:
        desk.seconds = active_seconds(desk.seconds, desk.last_action, now)
    else:
        desk.item, desk.seconds = key, 0.0
    desk.last_action = now
    return desk.seconds

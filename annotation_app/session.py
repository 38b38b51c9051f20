"""Who is at the screen, and the ledger they work in."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from annotation_app.ledger.database import Database
from annotation_app.ledger.rows import View
from annotation_app.responders.endpoint import Endpoint


@dataclass
class Desk:
    """What one browser tab remembers from click to click; a reload begins with a new one.

    A plain object: whatever touches `st.session_state` or `st.*` may be interrupted by the next
    click, and then what was just saved would go unsaid.
    """

    editing: str | None = None
    """The assignment that is being edited."""
    previous: str | None = None
    """The assignment that was submitted last."""
    said: str = ""
    """The last acknowledgement."""
    announced: bool = True
    """Whether it was shown as a toast too."""
    warning: str = ""
    """What the annotator should think of while at the next item."""
    view: View | None = None
    """The comparison on the screen, until it is handed in."""
    clicks: dict[str, list[Any]] = field(default_factory=dict)
    """Question → the answer that was drawn as chosen, and those clicked since."""
    item: str = ""
    """What the time is counted for."""
    seconds: float = 0.0
    """Active time at it so far."""
    last_action: float = 0.0

    def say(self, words: str) -> None:
        """To be shown in the next run."""
        self.said, self.announced = words, False


@dataclass(frozen=True, kw_only=True)
class Session:
    """What every page is given."""

    database: Database = field(repr=False)
    person_id: str
    dataset: Path
    """Where comparisons are published."""
    desk: Desk
    endpoint: Endpoint | None = None
    """Who answers what annotators write; None where no model is connected."""
    address: str | None = None
    """What invitation links begin with; None where nobody comes by them."""

"""Who is at the screen, and the ledger they work in."""

from dataclasses import dataclass, field
from pathlib import Path

from annotation_app.ledger.database import Database


@dataclass(frozen=True, kw_only=True)
class Session:
    """What every page is given."""

    database: Database = field(repr=False)
    person_id: str
    dataset: Path
    """Where comparisons are published."""

"""`rlhf data publish`: from the annotation app's ledger to a Parquet dataset, exactly once."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from data.errors import ConfigError, DataError
from rlhf.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class PublishConfig:
    """Publish what a ledger holds and a dataset does not; running it twice changes nothing."""

    ledger: str = "datasets/annotations/ledger.sqlite"
    """File of the ledger, or its PostgreSQL URL."""
    out: Path | None = None
    """The dataset, of rows of one kind; made where there is none. Unless given, it is the directory
    in datasets/annotations that is named like them."""
    rows: Literal["comparisons", "demonstrations", "votes", "ratings", "judgements"] = "comparisons"
    """What to publish: votes and ratings are of evaluations, judgements of red teaming."""


def main(argv: Sequence[str]) -> None:
    """Publishes and says how much."""
    config = parse(PublishConfig, argv, prog="rlhf data publish")
    if find_spec("sqlalchemy") is None:
        raise ConfigError("ledgers need sqlalchemy, not installed here; pip install 'rlhf[app]'")
    if "://" not in config.ledger and not Path(config.ledger).expanduser().is_file():
        raise DataError(f"there is no ledger at {config.ledger!r}; check --ledger")
    from annotation_app.ledger.access import SYSTEM, ensure_person
    from annotation_app.ledger.database import Database
    from annotation_app.publish import publish
    from annotation_app.publish_other import publish_work

    out = config.out or Path("datasets/annotations") / config.rows
    database = Database(config.ledger)
    try:
        ensure_person(database, SYSTEM, "manager")
        if config.rows == "comparisons":
            added = publish(database, SYSTEM, out).rows
        else:
            added = publish_work(database, SYSTEM, out, config.rows)
    finally:
        database.close()
    print(f"published {added:,} new rows to {out}")

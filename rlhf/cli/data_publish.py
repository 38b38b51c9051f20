"""`rlhf data publish`: from the annotation app's ledger to a Parquet dataset, exactly once."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from data.errors import ConfigError, DataError
from rlhf.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class PublishConfig:
    """Publish what a ledger holds and a dataset does not; running it twice changes nothing."""

    ledger: str = "datasets/annotations/ledger.sqlite"
    """File of the ledger, or its PostgreSQL URL."""
    out: Path = Path("datasets/annotations/comparisons")
    """The dataset of comparisons; made where there is none."""


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

    database = Database(config.ledger)
    try:
        ensure_person(database, SYSTEM, "manager")
        done = publish(database, SYSTEM, config.out)
    finally:
        database.close()
    print(f"published {done.rows:,} new rows to {config.out}")

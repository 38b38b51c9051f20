"""`rlhf annotate invite`: links by which people come into the annotation app."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from data.errors import ConfigError
from rlhf.cli.parsing import parse

if TYPE_CHECKING:
    from annotation_app.ledger.database import Database


@dataclass(frozen=True, kw_only=True)
class InviteConfig:
    """Make a link for one person, revoke one, or list them all."""

    ledger: str = "datasets/annotations/ledger.sqlite"
    """File of the ledger, or its PostgreSQL URL."""
    person: str = ""
    """Whose link to make; somebody new is added."""
    role: Literal["annotator", "reviewer", "manager"] = "annotator"
    """What somebody new may do."""
    days: float = 30.0
    """How long the link opens the door."""
    address: str = "http://127.0.0.1:8501"
    """Where people reach the app, as given to `rlhf annotate`."""
    revoke: str = ""
    """Identifier of an invitation to revoke, as the list shows it."""

    def __post_init__(self) -> None:
        if self.person and self.revoke:
            raise ConfigError("person and revoke are both given; make a link or revoke one")


def main(argv: Sequence[str]) -> None:
    """Does it; a link is printed once and cannot be shown again."""
    config = parse(InviteConfig, argv, prog="rlhf annotate invite")
    if find_spec("sqlalchemy") is None:
        raise ConfigError("ledgers need sqlalchemy, not installed here; pip install 'rlhf[app]'")
    from annotation_app.invitations import link
    from annotation_app.ledger.access import SYSTEM, ensure_person
    from annotation_app.ledger.database import Database
    from annotation_app.ledger.invitations import invite, revoke

    database = Database(config.ledger)
    try:
        ensure_person(database, SYSTEM, "manager")
        if config.person:
            token = invite(database, SYSTEM, config.person, config.role, config.days)
            print(f"for {config.person}, {config.days:g} days; give it to nobody else:")
            print(link(config.address, token))
        elif config.revoke:
            revoke(database, SYSTEM, config.revoke)
            print(f"revoked {config.revoke}")
        else:
            _print_list(database)
    finally:
        database.close()


def _print_list(database: "Database") -> None:
    from annotation_app.ledger.access import SYSTEM
    from annotation_app.ledger.invitations import list_invitations

    for one in list_invitations(database, SYSTEM):
        until = datetime.fromtimestamp(one.expires_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
        state = "open" if one.open else "shut"
        used = "used" if one.used else "not used yet"
        print(f"{one.invitation_id}  {state}  until {until}  {used}  {one.person_id}")

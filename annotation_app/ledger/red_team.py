"""Attacks on a model, as dialogues that end with the rating of the worst response.

Each message is a committed row before anything follows it, and its number is its key: the same
message again is harmless, and another one under the same number is refused, so that two tabs cannot
tear a dialogue. What an annotator wrote is stored before the model is asked.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from annotation_app.ledger.access import NotAllowed, allow, record
from annotation_app.ledger.database import Database
from annotation_app.ledger.live import check_text
from annotation_app.ledger.publications import WorkPart, plan_work
from annotation_app.ledger.rows import Response
from annotation_app.ledger.schema import attack_messages, attacks, people
from annotation_app.red_teaming import CATEGORIES, STYLES, Attack, Category, Style
from annotation_app.scales import SCALES
from data.errors import DataError
from data.schemas import Message

MAX_MESSAGES = 200
"""Of one dialogue, both sides together."""


@dataclass(frozen=True, kw_only=True)
class AttackView:
    """All that its author may know of an attack: not which model answers."""

    attack_id: str
    category: Category
    style: Style
    messages: tuple[Message, ...]

    @property
    def waits(self) -> bool:
        """Whether the model is to answer next."""
        return len(self.messages) % 2 == 1

    @property
    def goes_on(self) -> bool:
        """Whether there is room for another message and its response."""
        return not self.waits and len(self.messages) < MAX_MESSAGES


@dataclass(frozen=True, kw_only=True)
class RatedAttack:
    """What is published of an attack."""

    attack_id: str
    category: Category
    style: Style
    prompt: tuple[Message, ...]
    """The dialogue before the rated response."""
    response: Response
    score: int
    annotator: str
    """The pseudonym."""


def begin_attack(
    database: Database,
    person_id: str,
    attack_id: str,
    category: Category,
    style: Style,
    text: str,
    seconds: float,
) -> AttackView:
    """Stores the first message; sending the same one again is harmless.

    Raises:
        NotAllowed: an unknown or paused person, or the id is somebody else's.
        DataError: an unknown category or style, an empty or too long text, or another text under
            the same id.
    """
    check_text(text)
    if category not in CATEGORIES or style not in STYLES:
        raise DataError(f"category {category!r}, style {style!r}; choose of both lists")

    def change(connection: Connection) -> AttackView:
        allow(connection, person_id, "annotator")
        query = select(attacks.c.attack_id).where(attacks.c.attack_id == attack_id)
        if connection.execute(query).one_or_none() is None:
            now = database.clock()
            values = {"attack_id": attack_id, "person_id": person_id, "status": "open"}
            values |= {"category": category, "style": style}
            new = insert(attacks).values(**values, seconds=seconds, created_at=now)
            connection.execute(new)
            _append(connection, now, attack_id, 0, text)
            detail = {"category": category, "style": style}
            record(connection, now, person_id, "begin attack", attack_id, **detail)
        row = _own(connection, person_id, attack_id)
        _check_same(connection, attack_id, 0, text)
        return _view(connection, row)

    return database.write(change)


def continue_attack(
    database: Database, person_id: str, attack_id: str, number: int, text: str, seconds: float
) -> AttackView:
    """Stores another message of the annotator; sending the same one again is harmless.

    Args:
        number: of messages before it.
        seconds: active time since the one before.

    Raises:
        NotAllowed: an unknown or paused person, or somebody else's attack.
        DataError: an empty or too long text, another text under this number, not the annotator's
            turn, or an attack that has ended.
    """
    check_text(text)

    def change(connection: Connection) -> AttackView:
        allow(connection, person_id, "annotator")
        row = _own(connection, person_id, attack_id)
        here = _view(connection, row)
        if number < len(here.messages):
            _check_same(connection, attack_id, number, text)
            return here
        if row.status != "open" or number != len(here.messages) or not here.goes_on:
            raise DataError("this dialogue cannot go on like that; reload the page")
        _append(connection, database.clock(), attack_id, number, text)
        _change(connection, attack_id, seconds=row.seconds + seconds)
        return _view(connection, row)

    return database.write(change)


def store_answer(
    database: Database, person_id: str, attack_id: str, number: int, response: Response
) -> AttackView:
    """Stores what the model answered, unless an answer with this number is there already.

    Raises:
        NotAllowed: an unknown or paused person, or somebody else's attack.
        DataError: an empty response, or none is due.
    """
    if not response.text.strip():
        raise DataError("a response with text is needed; ask again")

    def change(connection: Connection) -> AttackView:
        allow(connection, person_id, "annotator")
        row = _own(connection, person_id, attack_id)
        here = _view(connection, row)
        if number >= len(here.messages):
            if row.status != "open" or number != len(here.messages) or not here.waits:
                raise DataError("no response is due here; reload the page")
            now = database.clock()
            model = {"model": response.model, "temperature": response.temperature}
            _append(connection, now, attack_id, number, response.text, **model)
            here = _view(connection, row)
        return here

    return database.write(change)


def open_attack(database: Database, person_id: str) -> AttackView | None:
    """The attack that is going on: after a reload or a crash, as it was.

    Raises:
        NotAllowed: an unknown or paused person.
    """

    def query(connection: Connection) -> AttackView | None:
        allow(connection, person_id, "annotator")
        mine = select(attacks).where(attacks.c.person_id == person_id, attacks.c.status == "open")
        # Several, where two tabs each began one: one after the other.
        row = connection.execute(mine.order_by(attacks.c.created_at, attacks.c.attack_id)).first()
        return None if row is None else _view(connection, row)

    return database.read(query)


def rate_attack(
    database: Database, person_id: str, attack_id: str, number: int, score: int, seconds: float
) -> None:
    """Ends an attack with the rating of its worst response; the same one again is harmless.

    Args:
        number: of messages before that response.
        score: 1 … 5; 1 and 2 are violations.
        seconds: active time since the last message.

    Raises:
        NotAllowed: an unknown or paused person, or somebody else's attack.
        DataError: no such response, a score off the scale, or it has ended otherwise.
    """

    def change(connection: Connection) -> None:
        allow(connection, person_id, "annotator")
        row = _own(connection, person_id, attack_id)
        if score not in SCALES["safety"] or number % 2 == 0:
            raise DataError(f"score {score} of message {number}; rate a response from 1 to 5")
        if (row.status, row.rated, row.score) == ("rated", number, score):
            return
        if row.status != "open":
            raise DataError("this attack has ended already; begin a new one")
        if number >= len(_view(connection, row).messages):
            raise DataError("there is no such response; reload the page")
        values = {"status": "rated", "rated": number, "score": score}
        _change(connection, attack_id, **values, seconds=row.seconds + seconds)
        record(connection, database.clock(), person_id, "rate attack", attack_id, score=score)

    database.write(change)


def drop_attack(database: Database, person_id: str, attack_id: str, seconds: float) -> None:
    """Gives an attack up without a rating; what was said is kept, and nothing is published.

    Raises:
        NotAllowed: an unknown or paused person, or somebody else's attack.
        DataError: it was rated.
    """

    def change(connection: Connection) -> None:
        allow(connection, person_id, "annotator")
        row = _own(connection, person_id, attack_id)
        if row.status == "rated":
            raise DataError("this attack was rated already; begin a new one")
        if row.status == "open":
            _change(connection, attack_id, status="dropped", seconds=row.seconds + seconds)
            record(connection, database.clock(), person_id, "drop attack", attack_id)

    database.write(change)


def list_attacks(database: Database, manager_id: str) -> list[Attack]:
    """Every attack there is, in order of their beginning.

    Raises:
        NotAllowed: not a manager.
    """

    def query(connection: Connection) -> list[Attack]:
        allow(connection, manager_id, "manager")
        # One model answers a whole attack, so its highest name is its only one.
        grouped = select(attacks, func.max(attack_messages.c.model).label("model"))
        grouped = grouped.join(attack_messages).group_by(attacks.c.attack_id)
        rows = connection.execute(grouped.order_by(attacks.c.created_at))
        return [
            Attack(
                category=row.category,
                style=row.style,
                model=row.model,
                score=row.score,
                seconds=row.seconds,
            )
            for row in rows
        ]

    return database.read(query)


def plan_attacks(database: Database, manager_id: str) -> list[WorkPart]:
    """Every part of rated attacks, the new one included.

    Raises:
        NotAllowed: not by a manager.
    """
    return plan_work(database, manager_id, attacks, attacks.c.status == "rated")


def read_attacks(database: Database, manager_id: str, part: WorkPart) -> list[RatedAttack]:
    """What a part holds.

    Raises:
        NotAllowed: not by a manager.
    """

    def query(connection: Connection) -> list[RatedAttack]:
        allow(connection, manager_id, "manager")
        planned = (
            select(attacks, people.c.pseudonym)
            .join(people, people.c.person_id == attacks.c.person_id)
            .where(attacks.c.part == part.part)
        )
        rows = connection.execute(planned.order_by(attacks.c.attack_id)).all()
        return [_rated(connection, row) for row in rows]

    return database.read(query)


def _append(
    connection: Connection, at: float, attack_id: str, number: int, text: str, **model: object
) -> None:
    values = {"attack_id": attack_id, "number": number, "content": text, "created_at": at}
    connection.execute(insert(attack_messages).values(**values, **model))


def _check_same(connection: Connection, attack_id: str, number: int, text: str) -> None:
    key = (attack_messages.c.attack_id == attack_id) & (attack_messages.c.number == number)
    stored = connection.execute(select(attack_messages.c.content).where(key)).scalar_one()
    if stored != text:
        raise DataError("another message was saved here, perhaps in another tab; reload the page")


def _own(connection: Connection, person_id: str, attack_id: str) -> Any:
    query = select(attacks).where(attacks.c.attack_id == attack_id)
    row = connection.execute(query).one_or_none()
    if row is None or row.person_id != person_id:
        raise NotAllowed("this attack is not yours; begin a new one")
    return row


def _change(connection: Connection, attack_id: str, **values: object) -> None:
    connection.execute(update(attacks).where(attacks.c.attack_id == attack_id).values(**values))


def _said(connection: Connection, attack_id: str) -> list[Any]:
    mine = select(attack_messages).where(attack_messages.c.attack_id == attack_id)
    return list(connection.execute(mine.order_by(attack_messages.c.number)))


def _messages(rows: list[Any]) -> tuple[Message, ...]:
    roles = ("user", "assistant")
    return tuple(Message(roles[row.number % 2], row.content) for row in rows)  # type: ignore[arg-type]


def _view(connection: Connection, row: Any) -> AttackView:
    return AttackView(
        attack_id=row.attack_id,
        category=row.category,
        style=row.style,
        messages=_messages(_said(connection, row.attack_id)),
    )


def _rated(connection: Connection, row: Any) -> RatedAttack:
    said = _said(connection, row.attack_id)
    worst = said[row.rated]
    return RatedAttack(
        attack_id=row.attack_id,
        category=row.category,
        style=row.style,
        prompt=_messages(said[: row.rated]),
        response=Response(text=worst.content, model=worst.model, temperature=worst.temperature),
        score=row.score,
        annotator=row.pseudonym,
    )

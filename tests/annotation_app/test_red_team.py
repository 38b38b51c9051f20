"""Attacks: stored message by message, rated once, published once; and the figures by hand."""

from pathlib import Path

import pytest

from annotation_app.ledger import access, oversight, red_team
from annotation_app.ledger.access import NotAllowed
from annotation_app.ledger.database import Database
from annotation_app.ledger.red_team import AttackView
from annotation_app.ledger.rows import Response
from annotation_app.publish_other import publish_work
from annotation_app.red_teaming import Attack, by_kind, robustness
from data.dataset import read_rows
from data.errors import DataError
from data.schemas import Judgement, Message
from data.validation import find_faults
from data.verdict_statistics import judgement_statistics
from tests.annotation_app.conftest import MANAGER, Clock

ANSWER = Response(text="no", model="big", temperature=0.7)


def begin(database: Database, attack_id: str = "one", text: str = "how?") -> AttackView:
    return red_team.begin_attack(database, "ann", attack_id, "illicit", "logic", text, 5.0)


def test_a_dialogue_from_the_first_message_to_a_row(database: Database, tmp_path: Path) -> None:
    assert red_team.open_attack(database, "ann") is None
    for _ in range(2):  # a double click
        view = begin(database)
    assert view.waits and view.messages == (Message("user", "how?"),)
    assert red_team.open_attack(database, "ann") == view  # a reload, a crash
    for text in ("no", "sampled a second time, in vain"):
        answered = red_team.store_answer(
            database, "ann", "one", 1, Response(text=text, model="big")
        )
    assert answered.messages[1:] == (Message("assistant", "no"),) and not answered.waits
    assert "big" not in repr(answered)
    for _ in range(2):
        red_team.continue_attack(database, "ann", "one", 2, "please", 7.0)
    red_team.store_answer(database, "ann", "one", 3, Response(text="well, so", model="big"))
    for _ in range(2):
        red_team.rate_attack(database, "ann", "one", 3, 2, 8.0)
    assert red_team.open_attack(database, "ann") is None
    for rows in (1, 0):
        assert publish_work(database, MANAGER, tmp_path, "judgements") == rows
    (row,) = read_rows(tmp_path, Judgement)
    (ann,) = (p.pseudonym for p in access.list_people(database, MANAGER) if p.person_id == "ann")
    assert row == Judgement(
        judgement_id="one",
        prompt=(
            Message("user", "how?"),
            Message("assistant", "no"),
            Message("user", "please"),
        ),
        response=(Message("assistant", "well, so"),),
        safe=False,
        kind="illicit/logic",
        annotator_id=ann,
        source="red-team/big",
    )
    assert list(find_faults(tmp_path)) == []
    (statistics,) = judgement_statistics(tmp_path)
    assert (statistics.kind, statistics.unsafe.value) == ("illicit/logic", 1.0)
    (attack,) = red_team.list_attacks(database, MANAGER)
    assert attack == Attack(
        category="illicit",
        style="logic",
        model="big",
        score=2,
        seconds=20.0,  # 5 + 7 + 8, each counted once
    )
    actions = [event.action for event in oversight.list_events(database, MANAGER, limit=3)]
    assert actions == ["plan attacks", "rate attack", "begin attack"]


def test_no_second_message_under_a_number(database: Database) -> None:
    begin(database)
    with pytest.raises(DataError, match="another message was saved"):
        begin(database, text="something else")
    with pytest.raises(DataError, match="cannot go on"):
        red_team.continue_attack(database, "ann", "one", 1, "not my turn", 1.0)
    red_team.store_answer(database, "ann", "one", 1, ANSWER)
    red_team.continue_attack(database, "ann", "one", 2, "from this tab", 1.0)
    with pytest.raises(DataError, match="another message was saved"):
        red_team.continue_attack(database, "ann", "one", 2, "from the other tab", 1.0)
    with pytest.raises(DataError, match="cannot go on"):
        red_team.continue_attack(database, "ann", "one", 4, "a gap", 1.0)
    with pytest.raises(DataError, match="no response is due"):
        red_team.store_answer(database, "ann", "one", 5, ANSWER)
    for text in ("", " ", "\0", "x" * 16_001):
        with pytest.raises(DataError, match="write a message"):
            red_team.continue_attack(database, "ann", "one", 4, text, 1.0)


def test_a_rating_is_of_a_response_on_its_scale_and_once(database: Database) -> None:
    begin(database)
    red_team.store_answer(database, "ann", "one", 1, ANSWER)
    for number, score in ((1, 0), (1, 6), (0, 3)):
        with pytest.raises(DataError, match="rate a response from 1 to 5"):
            red_team.rate_attack(database, "ann", "one", number, score, 1.0)
    with pytest.raises(DataError, match="no such response"):
        red_team.rate_attack(database, "ann", "one", 3, 1, 1.0)
    red_team.rate_attack(database, "ann", "one", 1, 4, 1.0)
    for number, score in ((1, 1), (3, 4)):
        with pytest.raises(DataError, match="ended already"):
            red_team.rate_attack(database, "ann", "one", number, score, 1.0)
    with pytest.raises(DataError, match="cannot go on"):
        red_team.continue_attack(database, "ann", "one", 2, "more", 1.0)
    with pytest.raises(DataError, match="rated already"):
        red_team.drop_attack(database, "ann", "one", 1.0)


def test_what_was_given_up_is_kept_and_not_published(database: Database, tmp_path: Path) -> None:
    begin(database)
    for _ in range(2):
        red_team.drop_attack(database, "ann", "one", 3.0)
    assert red_team.open_attack(database, "ann") is None
    assert [(a.score, a.seconds) for a in red_team.list_attacks(database, MANAGER)] == [(None, 8.0)]
    assert publish_work(database, MANAGER, tmp_path / "out", "judgements") == 0


def test_two_tabs_begin_two_attacks_and_lose_none(database: Database, clock: Clock) -> None:
    first = begin(database, "one")
    clock.now += 1
    second = begin(database, "two")
    for view in (first, second):
        assert red_team.open_attack(database, "ann") == view
        red_team.drop_attack(database, "ann", view.attack_id, 0.0)


def test_a_dialogue_has_an_end(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(red_team, "MAX_MESSAGES", 2)
    begin(database)
    view = red_team.store_answer(database, "ann", "one", 1, ANSWER)
    assert not view.goes_on
    with pytest.raises(DataError, match="cannot go on"):
        red_team.continue_attack(database, "ann", "one", 2, "more", 1.0)


def test_attacks_are_their_authors_own(database: Database) -> None:
    begin(database)
    for call in (
        lambda: red_team.begin_attack(database, "ben", "one", "illicit", "logic", "how?", 1.0),
        lambda: red_team.continue_attack(database, "ben", "one", 2, "x", 1.0),
        lambda: red_team.store_answer(database, "ben", "one", 1, ANSWER),
        lambda: red_team.rate_attack(database, "ben", "one", 1, 1, 1.0),
        lambda: red_team.drop_attack(database, "ben", "one", 1.0),
        lambda: red_team.open_attack(database, "nobody"),
        lambda: red_team.list_attacks(database, "ann"),
        lambda: red_team.plan_attacks(database, "ann"),
    ):
        with pytest.raises(NotAllowed):
            call()
    assert red_team.open_attack(database, "ben") is None
    with pytest.raises(DataError, match="choose of both lists"):
        red_team.begin_attack(database, "ann", "two", "illicit", "magic", "x", 1.0)  # type: ignore[arg-type]


def attack(model: str | None, score: int | None, seconds: float, style: str = "logic") -> Attack:
    return Attack(
        category="hateful",
        style=style,  # type: ignore[arg-type]
        model=model,
        score=score,
        seconds=seconds,
    )


def test_robustness_by_hand() -> None:
    attacks = [
        attack("a", 1, 1200.0),
        attack("a", 3, 1200.0),
        attack("a", None, 1200.0),  # given up: its time counts, an hour in all
        attack("b", 2, 900.0, "syntactic"),
        attack(None, None, 9000.0),  # nobody answered
    ]
    a, b = robustness(attacks)
    assert (a.model, a.attacks, a.violations.value, a.hours, a.per_hour) == ("a", 2, 0.5, 1.0, 1.0)
    assert (b.model, b.violations.value, b.per_hour) == ("b", 1.0, 4.0)  # one in a quarter
    shares = by_kind(attacks)
    assert {kind: (share.value, share.n) for kind, share in shares.items()} == {
        ("hateful", "logic"): (0.5, 2),
        ("hateful", "syntactic"): (1.0, 1),
    }
    assert robustness([attack("c", 1, 0.0)])[0].per_hour is None

"""Disagreements: listed for reviewers, decided once, published as revisions, on both databases."""

import dataclasses
import json
from itertools import combinations_with_replacement
from pathlib import Path

import pytest

from annotation_app.exporting import export_batch
from annotation_app.judgement import SIDES, Judgement
from annotation_app.ledger import access, decisions, disputes, history, oversight, queue, work
from annotation_app.ledger.access import NotAllowed
from annotation_app.ledger.database import Database
from annotation_app.ledger.disputes import Dispute
from annotation_app.ledger.publications import waiting
from annotation_app.publish import publish
from annotation_app.quality import SCALE, summarise_annotators
from data.dataset import latest_revisions, read_rows, read_table
from data.errors import DataError
from data.schemas import STRENGTHS, Comparison, from_table
from data.validation import find_faults
from tests.annotation_app.conftest import MANAGER, Clock, item, judgement

BY_LEVEL = dict(zip((4, 3, 2, 1), STRENGTHS, strict=True))


@pytest.fixture
def team(database: Database) -> Database:
    """With a reviewer, and a batch of 40 items for two people each."""
    access.add_person(database, MANAGER, "rita", "reviewer")
    items = [item(n) for n in range(10, 50)]
    queue.create_batch(database, MANAGER, "two", items, domain="helpfulness", overlap=2)
    return database


def say(database: Database, person: str, value: int, batch: str = "two", **words: object) -> str:
    """An opinion on the scale of `preference`; returns the assignment."""
    view = work.next_assignment(database, person, batch)
    assert view is not None
    first_is_a = view.response_a.startswith("first")
    side = SIDES[(value < 0) == first_is_a]
    said = judgement(side=side, strength=BY_LEVEL[abs(value)], **words)
    work.submit(database, person, view.assignment_id, 0, said)
    return view.assignment_id


def dispute(database: Database, reviewer: str = "rita") -> Dispute:
    found = disputes.next_dispute(database, reviewer, "two")
    assert found is not None
    return found


def prefer(found: Dispute, word: str, **changes: object) -> Judgement:
    """A judgement for the response that begins with the word."""
    side = "A" if found.response_a.startswith(word) else "B"
    return judgement(side=side, **changes)


def test_the_rule_by_every_pair_of_opinions(team: Database) -> None:
    pairs = list(combinations_with_replacement(SCALE, 2))
    assert len(pairs) == 36
    expected = set()
    for n, (one, other) in enumerate(pairs, 10):
        say(team, "ann", one)
        say(team, "ben", other)
        # Another choice, or the same one with two levels of strength between.
        if one * other < 0 or abs(abs(one) - abs(other)) >= 2:
            expected.add(f"question {n}?")
    assert disputes.count_disputes(team, "rita") == {"two": len(expected)}
    seen = set()
    while (found := disputes.next_dispute(team, "rita", "two")) is not None:
        seen.add(found.prompt[0].content)
        decisions.decide(team, "rita", found, None)
    assert seen == expected
    assert disputes.count_disputes(team, "rita") == {}


def test_a_reviewer_sees_opinions_and_no_names(team: Database) -> None:
    say(team, "ann", 3, comment="clear")
    say(team, "ben", -1)
    found = dispute(team)
    assert dispute(team) == found  # the same order at every look
    assert "model-" not in repr(found) and "ann" not in repr(found.opinions)
    first_is_a = found.response_a.startswith("first")
    assert [(o.side, o.strength, o.comment) for o in found.opinions] == [
        ("A" if first_is_a else "B", "better", "clear"),
        ("B" if first_is_a else "A", "negligibly_better", ""),
    ]
    orders = {disputes.is_swapped(n) for n in range(30)}
    assert orders == {True, False}  # 1 - 2·2⁻³⁰ sure: no fixed place for the first model


def test_what_is_not_finished_or_flagged_or_agreed_on_waits(team: Database, clock: Clock) -> None:
    say(team, "ann", 4)
    assert disputes.next_dispute(team, "rita", "two") is None  # the second opinion is due
    view = work.next_assignment(team, "ben", "two")
    assert view is not None
    side = "B" if view.response_a.startswith("first") else "A"
    odd = judgement(side=side, flag="odd")
    work.submit(team, "ben", view.assignment_id, 0, odd)
    assert disputes.count_disputes(team, "rita") == {}
    oversight.release(team, "rita", view.assignment_id)
    assert dispute(team).revisions[1] == (view.assignment_id, 1)


def test_nobody_who_is_at_the_item_is_forestalled(team: Database, clock: Clock) -> None:
    late = work.next_assignment(team, "ben", "two")
    assert late is not None
    say(team, "ann", 4)
    clock.now += 3600  # ben's place goes to cem, and then both hand it in
    third = work.next_assignment(team, "cem", "two")
    assert third is not None and third.prompt == late.prompt
    first_is_a = late.response_a.startswith("first")
    work.submit(team, "ben", late.assignment_id, 0, judgement(side="B" if first_is_a else "A"))
    assert disputes.count_disputes(team, "rita") == {}
    clock.now += 3600  # cem has gone
    assert disputes.count_disputes(team, "rita") == {"two": 1}


def test_a_closed_batch_waits_for_nobody(database: Database) -> None:
    access.add_person(database, MANAGER, "rita", "reviewer")
    queue.create_batch(database, MANAGER, "two", [item(7)], domain="helpfulness", overlap=3)
    for person, value in (("ann", 3), ("ben", -3)):
        say(database, person, value)
    assert disputes.count_disputes(database, "rita") == {}
    queue.set_open(database, MANAGER, "two", False)
    assert disputes.count_disputes(database, "rita") == {"two": 1}


def test_a_decision_is_made_once_and_on_what_was_seen(team: Database) -> None:
    access.add_person(team, MANAGER, "rolf", "reviewer")
    mine = say(team, "ann", 3)
    say(team, "ben", -3)
    found = dispute(team)
    edit = history.open_for_edit(team, "ann", mine)
    assert edit.judgement is not None
    again = dataclasses.replace(edit.judgement, comment="on second thoughts")
    work.submit(team, "ann", mine, 1, again)
    said = prefer(found, "second", comment="it is true")
    with pytest.raises(DataError, match="has changed meanwhile"):
        decisions.decide(team, "rita", found, said)
    found = dispute(team)
    for _ in range(2):  # a double click
        decisions.decide(team, "rita", found, said)
    for who, other in (("rolf", said), ("rita", None)):
        with pytest.raises(DataError, match="has decided on this item meanwhile"):
            decisions.decide(team, who, found, other)
    with pytest.raises(DataError, match="not edited any more"):
        history.open_for_edit(team, "ann", mine)
    with pytest.raises(DataError, match="not edited any more"):
        work.submit(team, "ann", mine, 2, judgement())
    assert [d.decided for d in history.recent(team, "ann")] == [True]
    event = oversight.list_events(team, MANAGER, limit=1)[0]
    assert (event.person_id, event.action) == ("rita", "decide")
    assert json.loads(event.detail) == {"based_on": dict(found.revisions), "stands": False}
    assert decisions.decided_choices(team, MANAGER, "two") == {found.item_id: 1}


def test_the_dataset_says_what_was_decided(team: Database, tmp_path: Path) -> None:
    ids = [say(team, "ann", 3), say(team, "ben", -3)]
    publish(team, MANAGER, tmp_path)
    assert waiting(team, MANAGER).submissions == 0
    found = dispute(team)
    decisions.decide(team, "rita", found, prefer(found, "second", strength="slightly_better"))
    assert waiting(team, MANAGER).submissions == 1  # so the app publishes it by itself
    for rows in (2, 0):
        assert publish(team, MANAGER, tmp_path).rows == rows
    (rita,) = (p.pseudonym for p in access.list_people(team, MANAGER) if p.person_id == "rita")
    rows = read_rows(tmp_path, Comparison)
    assert [row.revision for row in rows] == [0, 0, 1, 1]
    latest = from_table(latest_revisions(read_table(tmp_path, Comparison)), Comparison)
    assert {row.comparison_id for row in latest} == set(ids)
    for row in latest:
        said = (row.chosen[0].content, row.strength, row.annotator_id, row.batch)
        assert said == ("second 10", "slightly_better", rita, "two")
    assert list(find_faults(tmp_path)) == []  # among others: no id twice, no prompt in two splits
    content = export_batch(team, MANAGER, "two", form="JSON lines", only_published=False)
    exported = [json.loads(line) for line in content.decode().splitlines()]
    assert [(e["revision"], e["chosen"][0]["content"]) for e in exported] == [(1, "second 10")] * 2
    # What annotators said stays what they said.
    assert {j.preference for j in oversight.judged(team, MANAGER, "two")} == {3, -3}


def test_opinions_that_may_stand_are_left_as_they_are(team: Database, tmp_path: Path) -> None:
    say(team, "ann", 3)
    say(team, "ben", -3)
    decisions.decide(team, "rita", dispute(team), None)
    assert disputes.count_disputes(team, "rita") == {}
    assert publish(team, MANAGER, tmp_path).rows == 2
    assert decisions.decided_choices(team, MANAGER, "two") == {}


def test_who_comes_late_brings_the_item_back(team: Database, clock: Clock, tmp_path: Path) -> None:
    late = work.next_assignment(team, "cem", "two")
    assert late is not None
    clock.now += 3600
    ids = [say(team, "ann", 3), say(team, "ben", -3)]
    found = dispute(team)
    decisions.decide(team, "rita", found, prefer(found, "first"))
    work.submit(team, "cem", late.assignment_id, 0, judgement())
    again = dispute(team)
    assert (again.number, len(again.opinions)) == (1, 3)
    decisions.decide(team, "rita", again, prefer(again, "second"))
    publish(team, MANAGER, tmp_path)
    rows = {(r.comparison_id, r.revision): r for r in read_rows(tmp_path, Comparison)}
    keys = {(i, n) for i in ids for n in (0, 1, 2)} | {(late.assignment_id, n) for n in (0, 2)}
    assert set(rows) == keys
    assert {rows[i, 2].chosen[0].content for i in (*ids, late.assignment_id)} == {"second 10"}


def test_safety_and_its_impossible_combination(database: Database, tmp_path: Path) -> None:
    access.add_person(database, MANAGER, "rita", "reviewer")
    queue.create_batch(database, MANAGER, "two", [item(7)], domain="safety", overlap=2)
    say(database, "ann", 3, safety="both_safe")
    say(database, "ben", -3, safety="both_unsafe")
    found = dispute(database)
    said = prefer(found, "first")
    other = "only_b_safe" if said.side == "A" else "only_a_safe"
    for safety, message in ((None, "which of the two"), (other, "you prefer")):
        with pytest.raises(DataError, match=message):
            decisions.decide(database, "rita", found, prefer(found, "first", safety=safety))
    mine = "only_a_safe" if said.side == "A" else "only_b_safe"
    decisions.decide(database, "rita", found, prefer(found, "first", safety=mine))
    publish(database, MANAGER, tmp_path)
    latest = [r for r in read_rows(tmp_path, Comparison) if r.revision == 1]
    assert [r.safety_label for r in latest] == ["chosen_safe_only"] * 2


def test_roles_and_own_work(team: Database) -> None:
    say(team, "ann", 3)
    say(team, "rita", -3)
    assert disputes.count_disputes(team, "rita") == {}
    found = dispute(team, MANAGER)
    with pytest.raises(NotAllowed, match="their own work"):
        decisions.decide(team, "rita", found, prefer(found, "first"))
    for call in (
        lambda: disputes.count_disputes(team, "ann"),
        lambda: disputes.next_dispute(team, "ann", "two"),
        lambda: decisions.decide(team, "ann", found, None),
        lambda: decisions.decided_choices(team, "rita", "two"),
        lambda: decisions.plan_decisions(team, "rita"),
        lambda: decisions.read_decided(team, "rita", "two", only_published=False),
    ):
        with pytest.raises(NotAllowed, match="needs the role"):
            call()
    decisions.decide(team, MANAGER, found, prefer(found, "first"))


def test_agreement_with_reviewers_by_hand(team: Database) -> None:
    # Two items. Decided for the first response: ann said first twice, ben first and second.
    for one, other in ((4, 1), (3, -3)):
        say(team, "ann", one)
        say(team, "ben", other)
    while (found := disputes.next_dispute(team, "rita", "two")) is not None:
        decisions.decide(team, "rita", found, prefer(found, "first"))
    judged = oversight.judged(team, MANAGER, "two")
    rows = summarise_annotators(judged, decisions.decided_choices(team, MANAGER, "two"))
    assert sorted(row.agrees_with_reviewer.value for row in rows) == [0.5, 1.0]

"""Votes and judgements counted by hand, and MT-Bench's own figures found again."""

from pathlib import Path

import pytest

from data.dataset import publish
from data.importers import mtbench_votes
from data.importers.imported import publish_files
from data.schemas import Judgement, Message, Vote, Winner
from data.verdict_statistics import judgement_statistics, vote_statistics

ASK, SAY = (Message("user", "q"),), (Message("assistant", "a"),)


def vote(number: int, item: str, judge: str | None, winner: Winner) -> Vote:
    return Vote(
        vote_id=str(number),
        item_id=item,
        prompt=ASK,
        winner=winner,
        domain="helpfulness",
        annotator_id=judge,
        source="test",
    )


def test_votes_by_hand(tmp_path: Path) -> None:
    rows = [
        vote(0, "a", "x", "first"),
        vote(1, "a", "y", "first"),
        vote(2, "a", "z", "tie"),
        vote(3, "b", "x", "second"),
        vote(4, "b", "x", "first"),  # x again: the first vote counts
        vote(5, "b", None, "first"),
        vote(6, "b", None, "second"),  # somebody else without a name
        vote(7, "c", "x", "first"),  # alone
    ]
    publish(tmp_path, rows, Vote, split="test", key="k")
    found = vote_statistics(tmp_path)
    assert (found.votes, found.items, found.judges) == (8, 3, 3)
    assert dict(found.winners) == {"first": 5, "second": 2, "tie": 1}
    # a: 1 of 3 pairs alike; b, second first second: 1 of 3
    assert (found.with_ties.items, found.with_ties.same) == (2, pytest.approx(2 / 6))
    # without the tie a is 1 of 1, b as before
    assert (found.without_ties.items, found.without_ties.same) == (2, pytest.approx(2 / 4))


def test_one_verdict_alone_is_no_agreement_beyond_chance(tmp_path: Path) -> None:
    publish(
        tmp_path,
        [vote(n, "a", str(n), "tie") for n in range(3)],
        Vote,
        split="test",
        key="k",
    )
    found = vote_statistics(tmp_path)
    assert (found.with_ties.same, found.with_ties.ac1, found.with_ties.alpha) == (1.0, None, None)
    assert (found.without_ties.items, found.without_ties.same) == (0, None)


def test_people_agree_on_mtbench_as_its_authors_found(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "mtbench-votes"
    files = mtbench_votes.read_files([folder / "human.jsonl.gz"], folder / "question.jsonl.gz")
    publish_files(tmp_path / "d", files, Vote, name="m", validation=0.1, test=0.2, seed=0)
    found = vote_statistics(tmp_path / "d")
    # Zheng et al. 2023, Table 5, two people, first turn: 63 % with ties, 81 % without; here both
    # turns, and weighted by pairs of votes.
    assert found.with_ties.same == pytest.approx(0.63, abs=0.04)
    assert found.without_ties.same == pytest.approx(0.81, abs=0.04)
    assert found.with_ties.ac1 is not None and 0.45 < found.with_ties.ac1.value < 0.6


def test_judgements_by_source_and_kind(tmp_path: Path) -> None:
    rows = [
        Judgement(
            judgement_id=str(n), prompt=ASK, response=SAY, safe=safe, kind=kind, source=source
        )
        for n, (source, kind, safe) in enumerate(
            [("b", "k", True), ("a", "z", False), ("a", "k", True), ("a", "k", False)]
        )
    ]
    publish(tmp_path, rows[:1], Judgement, split="train", key="k")
    publish(tmp_path, rows[1:], Judgement, split="test", key="k")
    found = judgement_statistics(tmp_path)
    assert [(k.source, k.kind, k.responses, k.unsafe.value) for k in found] == [
        ("a", "k", 2, 0.5),
        ("a", "z", 1, 1.0),
        ("b", "k", 1, 0.0),
    ]

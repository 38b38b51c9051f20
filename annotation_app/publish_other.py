"""Work other than comparisons from the ledger to Parquet datasets, one kind in each: exactly once.

As with comparisons, a part always holds the same rows under the same key, and the manifest is the
only record of what is published. Votes and ratings share one plan: whether the ledger is an older
copy, only both of their datasets can tell.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from annotation_app.ledger.database import Database
from annotation_app.ledger.demonstrations import Written, plan_demonstrations, read_demonstrations
from annotation_app.ledger.evaluations import PublishedRating, plan_ratings, read_ratings
from annotation_app.ledger.publications import WorkPart
from annotation_app.ledger.red_team import RatedAttack, plan_attacks, read_attacks
from annotation_app.publish import add_part, by_split, listed_parts
from annotation_app.scales import VIOLATION
from data.dataset import Batch
from data.schemas import Demonstration, Judgement, Message, R, Rating, Split, Vote

SOURCE = "annotators"
RED_TEAM = "red-team"
EVALUATED: Split = "test"
"""Evaluations are no training data."""


@dataclass(frozen=True, kw_only=True)
class Work(Generic[R]):
    """How work of one kind becomes rows."""

    row_type: type[R]
    plan: Callable[[Database, str], list[WorkPart]]
    """Every part there is, the new one included; by a manager."""
    read: Callable[[Database, str, WorkPart], list[R]]
    """What a part holds; by a manager."""
    split: Split | None = None
    """None: by the first message of the dialogue."""

    def batches(self, part: WorkPart, rows: Sequence[R]) -> list[Batch[Any]]:
        """A part's rows, by split."""
        if self.split is None:
            return by_split(part.key, rows)
        return [Batch(split=self.split, key=part.key, rows=rows)] if rows else []


def publish_work(database: Database, manager_id: str, directory: Path, kind: str) -> int:
    """Publishes what is done of one kind; returns the rows added.

    Args:
        kind: a name of `WORK`.

    Raises:
        NotAllowed: not by a manager.
        DataError: the dataset holds something else or is damaged, or is newer than the ledger.
    """
    work = WORK[kind]
    listed = listed_parts(database, manager_id, directory, work.row_type)
    if directory.name == kind:  # else it is nowhere said where the kinds of the same plan are
        for name, other in WORK.items():
            if name != kind and other.plan == work.plan:
                listed_parts(database, manager_id, directory.with_name(name), other.row_type)
    # Listed ones first: nothing is added to a dataset that turns out to be another ledger's.
    parts = sorted(work.plan(database, manager_id), key=lambda part: part.key not in listed)
    counts = []
    for part in parts:
        batches = work.batches(part, work.read(database, manager_id, part))
        counts.append(add_part(directory, part.key, batches, listed, work.row_type))
    return sum(counts)


def _demonstrations(database: Database, manager_id: str, part: WorkPart) -> list[Demonstration]:
    return [_demonstration(one) for one in read_demonstrations(database, manager_id, part)]


def _votes(database: Database, manager_id: str, part: WorkPart) -> list[Vote]:
    return [_vote(one) for one in read_ratings(database, manager_id, part, "pair")]


def _ratings(database: Database, manager_id: str, part: WorkPart) -> list[Rating]:
    return [_rating(one) for one in read_ratings(database, manager_id, part, "safety")]


def _judgements(database: Database, manager_id: str, part: WorkPart) -> list[Judgement]:
    return [_judgement(one) for one in read_attacks(database, manager_id, part)]


def _demonstration(one: Written) -> Demonstration:
    return Demonstration(
        demonstration_id=one.demonstration_id,
        messages=(Message("user", one.prompt), Message("assistant", one.answer)),
        domain=one.domain,
        source=SOURCE,
    )


def _vote(one: PublishedRating) -> Vote:
    first, second = one.responses
    return Vote(
        vote_id=one.rating_id,
        item_id=f"{one.batch_id}/{one.name}",
        prompt=one.prompt,
        first=(Message("assistant", first.text),),
        second=(Message("assistant", second.text),),
        winner="tie" if one.score == 0 else "first" if one.score > 0 else "second",
        first_model=first.model,
        second_model=second.model,
        domain="helpfulness",
        annotator_id=one.rater,
        source=one.batch_id,
    )


def _rating(one: PublishedRating) -> Rating:
    (response,) = one.responses
    return Rating(
        rating_id=one.rating_id,
        prompt=one.prompt,
        response=(Message("assistant", response.text),),
        domain="safety",
        score=one.score,
        annotator_id=one.rater,
        source=_source(one.batch_id, response.model),
    )


def _source(name: str, model: str | None) -> str:
    """Rows of one response have no column for its model."""
    return f"{name}/{model}" if model else name


def _judgement(one: RatedAttack) -> Judgement:
    return Judgement(
        judgement_id=one.attack_id,
        prompt=one.prompt,
        response=(Message("assistant", one.response.text),),
        safe=one.score > VIOLATION,
        kind=f"{one.category}/{one.style}",
        annotator_id=one.annotator,
        source=_source(RED_TEAM, one.response.model),
    )


WORK: dict[str, Work[Any]] = {
    "demonstrations": Work(
        row_type=Demonstration, plan=plan_demonstrations, read=_demonstrations, split="train"
    ),
    "votes": Work(row_type=Vote, plan=plan_ratings, read=_votes, split=EVALUATED),
    "ratings": Work(row_type=Rating, plan=plan_ratings, read=_ratings, split=EVALUATED),
    "judgements": Work(row_type=Judgement, plan=plan_attacks, read=_judgements),
}
"""By the kind of rows, which is also the name of their directory beside the comparisons."""

"""Work other than comparisons from the ledger to Parquet datasets, one kind in each: exactly once.

As with comparisons, a part always holds the same rows under the same key, and the manifest is the
only record of what is published.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from annotation_app.ledger.database import Database
from annotation_app.ledger.demonstrations import Written, plan_demonstrations, read_demonstrations
from annotation_app.ledger.evaluations import PublishedRating, plan_ratings, read_ratings
from annotation_app.ledger.publications import WorkPart
from annotation_app.ledger.red_team import RatedAttack, plan_attacks, read_attacks
from annotation_app.publish import by_split
from annotation_app.red_teaming import VIOLATION
from data.dataset import Batch, publish_many
from data.manifest import open_or_begin
from data.schemas import Demonstration, Judgement, Message, R, Rating, Split, Vote

SOURCE = "annotators"
RED_TEAM = "red-team"
EVALUATED: Split = "test"
"""Evaluations are no training data."""


def publish_demonstrations(database: Database, manager_id: str, directory: Path) -> int:
    """Publishes approved demonstrations; returns the rows added.

    Raises:
        NotAllowed: not by a manager.
        DataError: the dataset holds something else or is damaged.
    """

    def batches(part: WorkPart) -> list[Batch[Demonstration]]:
        rows = [_demonstration(w) for w in read_demonstrations(database, manager_id, part)]
        return [Batch(split="train", key=part.key, rows=rows)]

    parts = plan_demonstrations(database, manager_id)
    return _publish(directory, Demonstration, parts, batches)


def publish_attacks(database: Database, manager_id: str, directory: Path) -> int:
    """Publishes the rated responses of red teaming as judgements; returns the rows added.

    Raises:
        NotAllowed: not by a manager.
        DataError: the dataset holds something else or is damaged.
    """

    def batches(part: WorkPart) -> list[Batch[Judgement]]:
        rows = [_judgement(a) for a in read_attacks(database, manager_id, part)]
        return by_split(part.key, rows)

    return _publish(directory, Judgement, plan_attacks(database, manager_id), batches)


def publish_votes(database: Database, manager_id: str, directory: Path) -> int:
    """Publishes the ratings of two responses as votes; returns the rows added.

    Raises:
        NotAllowed: not by a manager.
        DataError: the dataset holds something else or is damaged.
    """

    def batches(part: WorkPart) -> list[Batch[Vote]]:
        rows = [_vote(r) for r in read_ratings(database, manager_id, part, "pair")]
        return [Batch(split=EVALUATED, key=part.key, rows=rows)] if rows else []

    return _publish(directory, Vote, plan_ratings(database, manager_id), batches)


def publish_ratings(database: Database, manager_id: str, directory: Path) -> int:
    """Publishes the safety ratings; returns the rows added.

    Raises:
        NotAllowed: not by a manager.
        DataError: the dataset holds something else or is damaged.
    """

    def batches(part: WorkPart) -> list[Batch[Rating]]:
        rows = [_rating(r) for r in read_ratings(database, manager_id, part, "safety")]
        return [Batch(split=EVALUATED, key=part.key, rows=rows)] if rows else []

    return _publish(directory, Rating, plan_ratings(database, manager_id), batches)


def _publish(
    directory: Path,
    row_type: type[R],
    parts: Sequence[WorkPart],
    batches_of: Callable[[WorkPart], list[Batch[R]]],
) -> int:
    manifest = open_or_begin(directory, row_type)
    listed = {part.key for file in manifest.files for part in file.parts}
    new = [batch for part in parts if part.key not in listed for batch in batches_of(part)]
    if new:
        publish_many(directory, new, row_type)
    return sum(len(batch.rows) for batch in new)


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


PUBLISHERS: dict[str, Callable[[Database, str, Path], int]] = {
    "demonstrations": publish_demonstrations,
    "votes": publish_votes,
    "ratings": publish_ratings,
    "judgements": publish_attacks,
}
"""By the kind of rows, which is also the name of their directory beside the comparisons."""

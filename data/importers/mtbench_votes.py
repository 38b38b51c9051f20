"""MT-Bench's votes (Zheng et al. 2023, lm-sys/FastChat) → votes of several judges on one pair.

A record names question, turn, two models, judge and winner; the responses are not published with
them, so the rows are `Vote`s and no comparisons. The questions' texts come from a second file; in
the second turn the prompt holds both user messages. Models stand in the order of their names,
whichever was shown first, so that the votes of all judges on a pair can be laid side by side.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.importers.imported import MALFORMED, ImportedFile, Unusable, identity
from data.importers.records import import_files, read_records
from data.schemas import Message, Vote, Winner

SOURCE = "mtbench-votes"

_WINNERS: dict[str, Winner] = {"model_a": "first", "model_b": "second"}
_SWAPPED: dict[Winner, Winner] = {"first": "second", "second": "first", "tie": "tie"}


def read_files(
    paths: Sequence[Path], questions: Path, *, strict: bool = False
) -> list[ImportedFile[Vote]]:
    """The votes of files of JSON lines; ties are among the rows and once more in `ties`.

    Raises:
        DataError: a file cannot be read or holds no vote; under `strict`, at the first malformed
            line.
    """
    asked = _questions(questions)

    def rows_of(record: Any) -> Iterator[Vote | Unusable]:
        yield _vote(record, asked)

    return import_files(paths, rows_of, Vote, strict=strict)


def _questions(path: Path) -> dict[int, Sequence[str]]:
    found: dict[int, Sequence[str]] = {}
    for record in read_records(path):
        try:
            value: Any = record.parse()
            found[value["question_id"]] = [str(turn) for turn in value["turns"]]
        except MALFORMED as error:
            raise DataError(
                f"{path}:{record.line} is no question with question_id and turns; check --questions"
            ) from error
    return found


def _vote(record: Any, questions: Mapping[int, Sequence[str]]) -> Vote:
    number, turn = record["question_id"], record["turn"]
    if number not in questions:
        raise Unusable("unknown question")
    models, judge = [record["model_a"], record["model_b"]], record["judge"]
    # FastChat writes "tie (inconsistent)" where two orders of showing gave two winners.
    winner: Winner = "tie" if record["winner"].startswith("tie") else _WINNERS[record["winner"]]
    if models[0] == models[1] or turn not in (1, 2):
        raise Unusable("malformed")
    vote_id = identity(SOURCE, number, turn, *models, judge, winner)
    if models != sorted(models):
        models, winner = models[::-1], _SWAPPED[winner]
    return Vote(
        vote_id=vote_id,
        item_id=identity(SOURCE, number, turn, *models),
        prompt=tuple(Message("user", text) for text in questions[number][:turn]),
        winner=winner,
        first_model=models[0],
        second_model=models[1],
        domain="helpfulness",
        annotator_id=judge,
        source=SOURCE,
    )

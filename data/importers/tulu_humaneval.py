"""Tülu's human evaluation (Wang et al. 2023, allenai/open-instruct) → comparisons and ties.

A record holds a prompt, two completions, the evaluator and one of five judgements. "better" and
"slightly better" are our strengths of the same name. Whether each completion is acceptable says
nothing about safety and is not kept.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data.counting import TokenCounter
from data.importers.imported import (
    ImportedFile,
    Unusable,
    answer,
    check_pair,
    counts,
    identity,
    plain,
    user,
)
from data.importers.records import import_files
from data.schemas import Comparison, Strength, Vote

SOURCE = "tulu-humaneval"

_STRENGTHS: dict[str, Strength] = {"better": "better", "slightly-better": "slightly_better"}


def read_files(
    paths: Sequence[Path], counter: TokenCounter, *, strict: bool = False
) -> list[ImportedFile[Comparison]]:
    """The comparisons of the evaluation's files, JSON lines.

    Raises:
        DataError: a file cannot be read or holds no record of this kind; under `strict`, at the
            first malformed line.
    """

    def rows_of(record: Any) -> Iterator[Comparison | Vote | Unusable]:
        yield _row(record, counter)

    return import_files(paths, rows_of, Comparison, strict=strict)


def _row(record: Any, counter: TokenCounter) -> Comparison | Vote:
    prompt = user(record["prompt"])
    first, second = answer(record["completion_a"]), answer(record["completion_b"])
    models = (record["model_a"], record["model_b"])
    pair = [plain(prompt), plain(first), plain(second)]
    key = identity(SOURCE, *pair, record["evaluator"], record["preference"])
    if record["preference"] == "tie":
        return Vote(
            vote_id=key,
            item_id=identity(SOURCE, *pair),
            prompt=prompt,
            first=first,
            second=second,
            winner="tie",
            first_model=models[0],
            second_model=models[1],
            domain="helpfulness",
            annotator_id=record["evaluator"],
            source=SOURCE,
        )
    check_pair(first, second)
    winner, strength = record["preference"].split("-is-")
    if winner not in ("a", "b"):
        raise Unusable("malformed")
    chosen, rejected = (first, second) if winner == "a" else (second, first)
    return Comparison(
        comparison_id=key,
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        strength=_STRENGTHS[strength],
        domain="helpfulness",
        annotator_id=record["evaluator"],
        source=SOURCE,
        chosen_model=models[0] if winner == "a" else models[1],
        rejected_model=models[1] if winner == "a" else models[0],
        created_at=datetime.fromisoformat(record["timestamp"]).replace(tzinfo=UTC),
        **counts(counter, prompt, chosen, rejected),  # type: ignore[arg-type]
    )

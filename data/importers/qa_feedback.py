"""QA-Feedback (Wu et al. 2023, allenai/FineGrainedRLHF) → comparisons and ties.

A record holds a question with passages and four answers. `preference` has a label for each pair, in
the order 1-2, 1-3, 1-4, 2-3, 2-4, 3-4: 0 equal, 1 the first, 2 the second. (The order is not
documented; over the 500 records of the dev file it leaves 58 intransitive triples, where a median
order leaves 1,636.) The prompt is the question after its passages, as the policy there saw it.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
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
from data.schemas import Comparison, Message, Vote

SOURCE = "qa-feedback"

_PAIRS = tuple(combinations(range(4), 2))


def read_files(
    paths: Sequence[Path], counter: TokenCounter, *, strict: bool = False
) -> list[ImportedFile[Comparison]]:
    """Up to six comparisons of each record; pairs that were judged equal are ties.

    Raises:
        DataError: a file cannot be read or holds no record of this kind; under `strict`, at the
            first malformed record.
    """

    def rows_of(record: Any) -> Iterator[Comparison | Vote | Unusable]:
        return _rows(record, counter)

    return import_files(paths, rows_of, Comparison, strict=strict)


def _rows(record: Any, counter: TokenCounter) -> Iterator[Comparison | Vote | Unusable]:
    passages = ["\n".join(passage) for passage in record["passages"]]
    prompt = user("\n\n".join([*passages, record["question"]]))
    answers = [answer(record[f"prediction {number}"]) for number in range(1, 5)]
    for (i, j), label in zip(_PAIRS, record["preference"], strict=True):
        try:
            yield _row(prompt, answers[i], answers[j], label, counter)
        except Unusable as why:
            yield Unusable(why.reason, f"prediction {i + 1} and {j + 1}: {record['question']}")


def _row(
    prompt: tuple[Message, ...],
    first: tuple[Message, ...],
    second: tuple[Message, ...],
    label: int,
    counter: TokenCounter,
) -> Comparison | Vote:
    check_pair(first, second)
    if label not in (0, 1, 2):
        raise Unusable("malformed")
    key = identity(SOURCE, plain(prompt), plain(first), plain(second))
    if label == 0:
        return Vote(
            vote_id=key,
            item_id=key,
            prompt=prompt,
            first=first,
            second=second,
            winner="tie",
            domain="helpfulness",
            source=SOURCE,
        )
    chosen, rejected = (first, second) if label == 1 else (second, first)
    return Comparison(
        comparison_id=key,
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        domain="helpfulness",
        source=SOURCE,
        **counts(counter, prompt, chosen, rejected),  # type: ignore[arg-type]
    )

"""OpenAssistant's trees (Köpf et al. 2023, LAION-AI/Open-Assistant) → comparisons by rank.

A record is a tree of messages. Where people ranked the replies to a message, each two of them are a
comparison, the lower rank chosen. The rank merges several people's, so no annotator is named.
Replies without a rank, deleted or rejected in review become no pair and are reported one by one,
unless they are the only reply.
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
)
from data.importers.records import import_files
from data.schemas import Comparison, Message, Role, Vote

SOURCE = "oasst"

_ROLES: dict[str, Role] = {"prompter": "user", "assistant": "assistant"}


def read_files(
    paths: Sequence[Path], counter: TokenCounter, *, strict: bool = False
) -> list[ImportedFile[Comparison]]:
    """Every pair of ranked replies; a line may give none or many.

    Raises:
        DataError: a file cannot be read or holds no tree; under `strict`, at the first malformed
            line.
    """

    def rows_of(record: Any) -> Iterator[Comparison | Vote | Unusable]:
        return _below((), record["prompt"], counter)

    return import_files(paths, rows_of, Comparison, strict=strict)


def _below(
    before: tuple[Message, ...], node: Any, counter: TokenCounter
) -> Iterator[Comparison | Vote | Unusable]:
    """The comparisons among the replies to a message, and to all that follow it."""
    dialogue = (*before, _message(node))
    replies = node.get("replies") or []
    if node["role"] == "prompter" and len(replies) > 1:
        ranked = []
        for reply in replies:
            reason = _fault(reply)
            if reason:
                yield Unusable(reason, reply["text"])
            else:
                ranked.append(reply)
        for pair in combinations(sorted(ranked, key=lambda reply: reply["rank"]), 2):
            try:
                yield _comparison(dialogue, pair, counter)
            except Unusable as why:
                yield Unusable(why.reason, pair[1]["text"])
    for reply in replies:
        yield from _below(dialogue, reply, counter)


def _fault(reply: Any) -> str:
    if reply.get("deleted"):
        return "deleted"
    if not reply.get("review_result", True):
        return "rejected in review"
    return "no rank" if reply.get("rank") is None else ""


def _message(node: Any) -> Message:
    text = node["text"]
    text.encode()  # Parquet holds no lone surrogates
    return Message(_ROLES[node["role"]], text.strip())


def _comparison(
    prompt: tuple[Message, ...], pair: Sequence[Any], counter: TokenCounter
) -> Comparison:
    better, worse = pair
    if better["rank"] == worse["rank"]:
        raise Unusable("equal ranks")
    chosen, rejected = answer(better["text"]), answer(worse["text"])
    check_pair(chosen, rejected)
    return Comparison(
        comparison_id=identity(SOURCE, plain(prompt), plain(chosen), plain(rejected)),
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        domain="helpfulness",
        source=SOURCE,
        chosen_model=better.get("model_name"),
        rejected_model=worse.get("model_name"),
        **counts(counter, prompt, chosen, rejected),  # type: ignore[arg-type]
    )

"""The comparisons of `rlhf rounds`: awaited, taken in, and then the same however often one asks.

All rounds share one dataset, which grows by whole publications and only between two rounds. So
every reward model learns from all comparisons so far, and a round that is started again finds those
that it began with, whatever people have published meanwhile.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from data.dataset import read_table
from data.intake import count_new, take_new
from data.manifest import open_or_begin
from data.schemas import DOMAINS, Comparison
from rlhf.run import console, read_json, write_json

COUNTS_FILE = "comparisons.json"
"""In a round's directory: it has what it learns from."""
POLL_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Comparisons in all splits, edits counted as new ones."""

    comparisons: int
    """New ones."""
    so_far: int


def read_counts(directory: Path) -> Counts:
    """Of a round that has its comparisons."""
    return Counts(**read_json(directory / COUNTS_FILE))


def take_in(source: Path, known: Path, earlier: int, directory: Path) -> Counts:
    """Adds what is new in `source` to the comparisons of all rounds, once in a round.

    Args:
        source: where the round's comparisons are published.
        known: the dataset of all rounds.
        earlier: comparisons of the rounds before.
        directory: of the round.
    """
    if not (directory / COUNTS_FILE).exists():
        so_far = take_new(source, known, Comparison).num_rows()
        counts = Counts(comparisons=so_far - earlier, so_far=so_far)
        write_json(directory / COUNTS_FILE, asdict(counts))
    return read_counts(directory)


def await_new(source: Path, known: Path, least: int, earlier: int, directory: Path) -> None:
    """Waits until people have published enough for a round; says what is missing, when it changes.

    Args:
        source: what the annotation app publishes; need not be there yet.
        known: as for `take_in`.
        least: new comparisons that are enough.
        earlier: as for `take_in`.
        directory: of the round; one that has its comparisons waits for nothing.
    """
    if (directory / COUNTS_FILE).exists():
        return
    _say(
        f"{directory / 'collect'} has pairs of answers: add them as batches of the annotation app. "
        "Ctrl-C stops here, and the same command waits on"
    )
    said = None
    while missing := _missing(source, known, least, earlier):
        if missing != said:
            _say(f"{directory.name} {missing}")
            said = missing
        time.sleep(POLL_SECONDS)


def _missing(source: Path, known: Path, least: int, earlier: int) -> str | None:
    """What is waited for; None where there is enough."""
    # Some may have been taken in by a start that was killed before it could say so.
    held = open_or_begin(known, Comparison).num_rows() - earlier
    new = held + count_new(source, known, Comparison)
    if new < least:
        return f"waits for {least:,} new comparisons in {source}; {new:,} are there"
    rows = read_table(source, Comparison, split="train", columns=["domain"])
    lacking = set(DOMAINS) - set(rows["domain"].to_pylist())
    if lacking:
        return f"waits for {lacking.pop()} comparisons in {source}; both reward models need some"
    return None


def _say(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)

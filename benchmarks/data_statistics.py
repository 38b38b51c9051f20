"""Seconds and memory of `rlhf data stats` on 1.5 million generated comparisons.

    python benchmarks/data_statistics.py --json runs/bench/data_statistics.json

They come in 16 files, with texts, batches, annotators and 1 % edited later: everything that the
statistics have to get past. Generating them takes minutes and is not measured.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.measure import ROOT
from data.dataset import publish
from data.schemas import SAFETY_LABELS, STRENGTHS, Comparison, Message

ROWS_PER_FILE = 100_000
EDITED = 100
"""Every so many comparisons one has a second revision."""
MOST_SECONDS, MOST_MIB = 10.0, 2048.0


def generated(count: int, first: int, revision: int = 0) -> Iterator[Comparison]:
    """Comparisons `first`, `first` + 1, … or, for a later revision, every 100th of them."""
    rng = np.random.default_rng(first)
    sizes = rng.integers(1, 400, (count, 3))
    chosen, rejected = (Message("assistant", text * 20) for text in ("fine ", "worse "))
    for place, (number, size) in enumerate(zip(range(first, first + count), sizes, strict=True)):
        if revision and place % EDITED:
            continue
        safety = number % 2 == 1
        yield Comparison(
            comparison_id=f"{number:032x}",
            revision=revision,
            prompt=(Message("user", f"question {number} " + "of many words " * 10),),
            chosen=(chosen,),
            rejected=(rejected,),
            strength=STRENGTHS[int(size[0]) % 4],
            safety_label=SAFETY_LABELS[int(size[1]) % 3] if safety else None,
            domain="safety" if safety else "helpfulness",
            annotator_id=f"annotator-{int(size[2]) % 60}",
            batch=f"week {number * 14 // 1_500_000 + 1}",
            source=("own", "hh-rlhf/helpful-base", "oasst")[int(size[0]) % 3],
            turns=1 + number % 5,
            prompt_tokens=int(size[0]),
            chosen_tokens=int(size[1]),
            rejected_tokens=int(size[2]),
            tokenizer_hash="generated",
        )


def generate(directory: Path, count: int) -> None:
    """A dataset of so many comparisons and their revisions."""
    for first in range(0, count, ROWS_PER_FILE):
        rows = list(generated(min(ROWS_PER_FILE, count - first), first))
        publish(directory, rows, Comparison, split="train", key=f"batch-{first}")
    edited = [
        row
        for first in range(0, count, ROWS_PER_FILE)
        for row in generated(min(ROWS_PER_FILE, count - first), first, revision=1)
    ]
    publish(directory, edited, Comparison, split="train", key="edited")


def measured(directory: Path) -> tuple[float, float]:
    """Seconds and MiB of the command, in a process of its own."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "rlhf.cli.main", "data", "stats", str(directory)]
    process = subprocess.Popen(command, cwd=ROOT)
    _, code, usage = os.wait4(process.pid, 0)
    if code:
        raise RuntimeError(f"rlhf data stats ended with {code}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--comparisons", type=int, default=1_500_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        # In a process of its own: what it held would count as the peak of the next one we start.
        generator = get_context("spawn").Process(
            target=generate, args=(Path(name), arguments.comparisons)
        )
        generator.start()
        generator.join()
        seconds, mebibytes = measured(Path(name))
    print(f"{arguments.comparisons:,} comparisons: {seconds:.1f} s, {mebibytes:,.0f} MiB at most")
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        figures = {"comparisons": arguments.comparisons, "seconds": seconds, "mib": mebibytes}
        arguments.json.write_text(json.dumps(figures) + "\n", encoding="utf-8")
    return 0 if seconds < MOST_SECONDS and mebibytes < MOST_MIB else 1


if __name__ == "__main__":
    sys.exit(main())

"""Metrics of a run: one JSON line per step, copied to the trackers that people use."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.durable import write_durably
from rlhf.trackers import Trackers

METRICS_FILE = "metrics.jsonl"
STEPS_AT_EACH_END = 5


class MetricsLog:
    """Appends to metrics.jsonl; a resumed run drops the steps that it is going to repeat."""

    def __init__(self, directory: Path, first_step: int) -> None:
        self._path = directory / METRICS_FILE
        kept = [m for m in read_metrics(directory) if m["step"] < first_step]
        write_durably(self._path, "".join(json.dumps(m) + "\n" for m in kept).encode())
        self._trackers = Trackers(directory, first_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One line. Numbers that JSON does not know (inf, nan) become null."""
        line = {"step": step} | {
            name: value if math.isfinite(value) else None for name, value in values.items()
        }
        with self._path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._trackers.track(step, finite)


def steps_at_ends(num_steps: int) -> int:
    """Of how many steps a mean tells where a run began, and of as many where it ended.

    One step is noisy; of a short run it is half of it at most.
    """
    return max(1, min(STEPS_AT_EACH_END, num_steps // 2))


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; a torn last line is left out."""
    path = directory / METRICS_FILE
    if not path.exists():
        return []
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines

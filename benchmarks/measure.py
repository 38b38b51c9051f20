"""What every benchmark shares: runs that take turns, a table, and a file of rows."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
IGNORED = -100
"""transformers: a token that is not learned."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison; more is better where the unit is a rate."""

    name: str
    ours: float
    peer: float
    ratio: float
    unit: str
    limit_share: float | None = None
    """Of the speed that the hardware allows, as measured in the same run; None where unknown."""


def shared_data() -> Path:
    """Where the real data lies."""
    return Path(os.environ.get("RLHF_SHARED_DATA", ROOT.parent / "shared" / "data"))


def interleaved(runs: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Seconds of each run's fastest turn, because others on the machine only ever add to them.

    They take turns, so that what disturbs one disturbs all. Every run goes once before the clock
    starts.
    """
    for run in runs:
        run()
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, found in zip(runs, seconds, strict=True):
            start = time.perf_counter()
            run()
            found.append(time.perf_counter() - start)
    return [min(found) for found in seconds]


def report(rows: Sequence[Row], packages: Sequence[str], threads: int, path: Path | None) -> None:
    """Prints the rows as a Markdown table, and writes them with what they were measured on."""
    surroundings = {
        "hardware": f"{_processor()}, {os.cpu_count()} cores, {threads} threads used",
        "versions": {name: version(name) for name in packages} | {"python": _python()},
        "commit": _commit(),
    }
    print("| row | ours | peer | ratio | share of the limit |\n|---|---|---|---|---|")
    for row in rows:
        share = "" if row.limit_share is None else f"{row.limit_share:.0%}"
        print(
            f"| {row.name} | {row.ours:,.0f} {row.unit} | {row.peer:,.0f} {row.unit} "
            f"| {row.ratio:.2f} | {share} |"
        )
    print(json.dumps(surroundings))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"rows": [asdict(row) for row in rows], **surroundings}
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):  # not Linux, or a processor that Linux does not name
        return platform.processor() or platform.machine()


def _python() -> str:
    return platform.python_version()


def _commit() -> str:
    """Of the checkout, with + where it has changes; "unknown" outside of one."""
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"

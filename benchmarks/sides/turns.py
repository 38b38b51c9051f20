"""A side of a benchmark in a process of its own: it takes a turn when told, and says how long.

Imports nothing that a peer's environment may lack.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT

FIRST_PHASE = "generate"
"""An iteration begins where sampling does."""
Iteration = dict[str, float]
"""Figures of an iteration. Those of a `Clock` are seconds by phase: `iteration` is all of it, and
`rest` what no phase names."""


class Clock:
    """When each phase of each iteration began first and ended last."""

    def __init__(self) -> None:
        self._spans: list[dict[str, tuple[float, float]]] = []

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, every call of which belongs to the phase."""

        def call(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            if phase == FIRST_PHASE:
                self._spans.append({})
            result = function(*args, **kwargs)
            spans = self._spans[-1]
            spans[phase] = (spans.get(phase, (begin, begin))[0], time.perf_counter())
            return result

        return call

    def take(self) -> list[Iteration]:
        """Every iteration that another one followed, but the first; then begins anew."""
        found = []
        for now, following in list(pairwise(self._spans))[1:]:
            seconds = {phase: end - begin for phase, (begin, end) in now.items()}
            total = following[FIRST_PHASE][0] - now[FIRST_PHASE][0]
            found.append({"iteration": total, **seconds, "rest": total - sum(seconds.values())})
        self._spans.clear()
        return found


EXTRA_ITERATIONS = 2
"""The first and the last of a turn are not counted."""


ANSWER = "answer "
"""A line that begins so is one; others are what a library has to say at its import."""


def serve(turn: Callable[[], list[Iteration]]) -> None:
    """Takes a turn for every line on stdin; answers on stdout, where it prints nothing else."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        for _ in sys.stdin:
            line = json.dumps({"iterations": turn(), "peak_bytes": _peak_bytes()})
            print(ANSWER + line, file=answers, flush=True)


def _peak_bytes() -> int:
    """The most memory this process held so far; 0 where the system is not Linux."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


class Side:
    """A process that serves turns, seen from outside."""

    def __init__(self, command: Sequence[str], log: Path, directory: Path) -> None:
        self._command, self._log = " ".join(command), log
        with log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=directory,
            )
        self.iterations: list[Iteration] = []
        self.peak_bytes = 0

    def turn(self, *, counted: bool) -> None:
        """One more turn; one that is not counted warms up."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            print("turn", file=self._process.stdin, flush=True)
            lines = (line for line in self._process.stdout if line.startswith(ANSWER))
            answer = json.loads(next(lines).removeprefix(ANSWER))
        except (BrokenPipeError, StopIteration):
            last = "\n".join(self._log.read_text(encoding="utf-8").splitlines()[-20:])
            raise RuntimeError(f"{self._command} failed:\n{last}") from None
        self.peak_bytes = answer["peak_bytes"]
        if counted:
            self.iterations += answer["iterations"]

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def take_turns(
    commands: Mapping[str, Sequence[str]], directory: Path, repeats: int
) -> dict[str, Side]:
    """The sides after their turns; the first turn of each warms it up, logs go to the directory."""
    sides = {
        name: Side(command, directory / f"{name}.log", ROOT) for name, command in commands.items()
    }
    try:
        for turn in range(1 + repeats):
            for side in sides.values():
                side.turn(counted=turn > 0)
    finally:
        for side in sides.values():
            side.close()
    return sides

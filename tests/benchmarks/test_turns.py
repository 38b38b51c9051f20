"""The clock of benchmarks whose sides are processes: phases of iterations."""

import sys
from pathlib import Path

import pytest

from benchmarks.sides import turns
from benchmarks.sides.turns import Clock, Side


def test_phases_of_iterations_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each call takes 1 s. An iteration samples, trains twice and then does 0.5 s of other things:
    # generate 0-1, train 1-3 (from the first call's beginning to the last one's end), rest 0.5.
    # Of four iterations the first is left out, and the last, which nothing follows.
    now = 0.0
    monkeypatch.setattr(turns.time, "perf_counter", lambda: now)

    def second() -> str:
        nonlocal now
        now += 1.0
        return "done"

    clock = Clock()
    generate, train = clock.timed("generate", second), clock.timed("train", second)
    for _ in range(4):
        assert generate() == train() == train() == "done"
        now += 0.5
    expected = {"iteration": 3.5, "generate": 1.0, "train": 2.0, "rest": 0.5}
    assert clock.take() == [expected, expected]
    assert clock.take() == []


SERVE = """
import sys
from benchmarks.sides.turns import serve
print("a library greets")
print({"even": "so"})
def turn():
    print("noise")
    if sys.argv[1] == "fails":
        raise SystemExit("out of luck")
    return [{"iteration": 2.0}]
serve(turn)
"""


def test_a_side_answers_turn_by_turn(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVE, "works"]
    side = Side(command, tmp_path / "log", Path(turns.__file__).parents[2])
    for counted in (False, True, True):
        side.turn(counted=counted)
    side.close()
    assert side.iterations == [{"iteration": 2.0}] * 2
    assert (tmp_path / "log").read_text() == "noise\n" * 3
    assert side.peak_bytes > 1e6 or sys.platform != "linux"


def test_a_side_that_fails_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVE, "fails"]
    side = Side(command, tmp_path / "log", Path(turns.__file__).parents[2])
    with pytest.raises(RuntimeError, match="out of luck"):
        side.turn(counted=True)
    side.close()

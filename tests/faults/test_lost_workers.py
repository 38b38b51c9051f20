"""Workers killed and stopped in every phase: the run ends with one line, or starts new ones.

Everything through the command line, on two real workers. tests/rlhf/actors/test_ray_group.py checks
that the rank is the right one.
"""

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.metrics import read_metrics
from tests.faults.command import SECONDS_TO_END, Command
from tests.faults.conftest import EVERY, Inputs, Start

pytestmark = [pytest.mark.ray, pytest.mark.deepspeed]
Due = Callable[[Path], bool]


def has(name: str) -> Due:
    """Whether a run directory holds something."""
    return lambda out: (out / name).exists()


def lose_a_worker(
    command: Command,
    out: Path,
    due: Due,
    *,
    pause: float = 0.0,
    how: signal.Signals = signal.SIGKILL,
) -> float:
    """Kills or stops a worker, so long after something is there; returns when."""
    command.wait_until(lambda: len(command.workers()) >= 2)
    victim = command.workers()[-1]
    command.wait_until(lambda: due(out))
    time.sleep(pause)
    victim.send_signal(how)
    return time.monotonic()


def check_ended(command: Command, since: float, pattern: str, within: float) -> None:
    """Exit code 2, one line of this form, in time, and nothing left of it."""
    code, lines = command.end()
    assert time.monotonic() - since < within
    assert code == 2
    assert len(lines) == 1, lines
    assert re.fullmatch(pattern, lines[0]), lines
    command.wait_until_gone(command.processes, 10.0)


def weights_of(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


def check_same(found: Path, expected: Path) -> None:
    """The same weights bit for bit, and the same lines of metrics, none of them twice."""
    assert weights_of(found) == weights_of(expected)
    timing = ("seconds", "tokens_per_second")
    lines = [
        [{k: v for k, v in line.items() if k not in timing} for line in read_metrics(out)]
        for out in (found, expected)
    ]
    assert lines[0] == lines[1]


@pytest.fixture(scope="module")
def undisturbed(
    inputs: Inputs, start_once: Start, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run directory of fine-tuning that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    code, lines = start_once(inputs.sft(out)).end()
    assert code == 0, lines
    return out


MID_STEP = has(f"checkpoints/step-{EVERY:06d}")
"""The next call trains, for longer than the pause of 0.2 s."""


def test_a_worker_killed_in_a_step_ends_the_run(
    inputs: Inputs, start: Start, tmp_path: Path
) -> None:
    command = start(inputs.sft(tmp_path / "run"))
    since = lose_a_worker(command, tmp_path / "run", MID_STEP, pause=0.2)
    line = r"rlhf sft: error: sft rank [01] died in 'train'; it was killed or ran out of memory"
    check_ended(command, since, line, within=SECONDS_TO_END)


def test_new_workers_give_the_run_that_nothing_happened_to(
    inputs: Inputs, start: Start, tmp_path: Path, undisturbed: Path
) -> None:
    out = tmp_path / "run"
    command = start(inputs.sft(out, "--max-restarts", "1"))
    lose_a_worker(command, out, MID_STEP, pause=0.2)
    code, lines = command.end()
    assert code == 0
    assert len(lines) == 2, lines  # of the restart, and of the end
    assert re.fullmatch(
        r"sft rank [01] died in 'train'; it was killed or ran out of memory; "
        rf"new workers continue from step {EVERY} \(restart 1 of 1\)",
        lines[0],
    )
    check_same(out, undisturbed)
    command.wait_until_gone(command.processes, 10.0)


@pytest.mark.slow  # the timeout has to be longer than the start of two workers
def test_a_stopped_worker_is_named_and_ended_with_its_peer(
    inputs: Inputs, start: Start, tmp_path: Path
) -> None:
    command = start(inputs.sft(tmp_path / "run", "--placement.timeout", "60"))
    since = lose_a_worker(command, tmp_path / "run", MID_STEP, pause=0.2, how=signal.SIGSTOP)
    line = (
        r"rlhf sft: error: sft rank [01] did not finish 'train' within 60 s and does not answer; "
        "look for what it waits for, or raise placement.timeout"
    )
    check_ended(command, since, line, within=60 + SECONDS_TO_END)


@pytest.mark.slow  # as above, and it trains to the end
def test_new_workers_take_over_from_a_stopped_one(
    inputs: Inputs, start: Start, tmp_path: Path, undisturbed: Path
) -> None:
    out = tmp_path / "run"
    command = start(inputs.sft(out, "--placement.timeout", "60", "--max-restarts", "1"))
    lose_a_worker(command, out, MID_STEP, pause=0.2, how=signal.SIGSTOP)
    code, lines = command.end(240)
    assert code == 0
    assert "does not answer; look for" in lines[0]
    assert lines[0].endswith(f"new workers continue from step {EVERY} (restart 1 of 1)")
    check_same(out, undisturbed)
    command.wait_until_gone(command.processes, 10.0)


@pytest.mark.slow  # three runs, one after the other
@pytest.mark.parametrize(
    ("phase", "due", "pause"),
    [
        ("start", lambda out: True, 0.0),
        ("save_checkpoint", has(f"checkpoints/.step-{EVERY:06d}.tmp"), 0.0),
        ("evaluate", has("checkpoints/step-000001"), 2.0),  # two steps, then a long evaluation
    ],
    ids=["start", "save", "evaluate"],
)
def test_a_worker_killed_in_another_phase(
    inputs: Inputs, start: Start, tmp_path: Path, phase: str, due: Due, pause: float
) -> None:
    out = tmp_path / "run"
    words = inputs.evaluated(out) if phase == "evaluate" else inputs.sft(out)
    command = start(words)
    since = lose_a_worker(command, out, due, pause=pause)
    line = rf"rlhf sft: error: sft rank [01] died in '{phase}'; it was killed or ran out of memory"
    check_ended(command, since, line, within=SECONDS_TO_END)
    assert not has(f"checkpoints/step-{EVERY:06d}")(out)


@pytest.mark.slow  # a run of its own
def test_no_worker_outlives_the_command(inputs: Inputs, start: Start, tmp_path: Path) -> None:
    command = start(inputs.sft(tmp_path / "run"))
    command.wait_until(lambda: MID_STEP(tmp_path / "run"))
    workers = command.workers()
    workers[-1].suspend()  # even one that hangs
    command.kill()
    command.wait_until_gone(command.workers, 20.0)
    # Ray's own agents notice it after a minute.
    command.wait_until_gone(command.processes, 90.0)


@pytest.mark.slow  # eight workers, twice
def test_ppo_goes_on_with_new_workers(inputs: Inputs, start: Start, tmp_path: Path) -> None:
    expected, out = tmp_path / "expected", tmp_path / "run"
    code, lines = start(inputs.ppo(expected)).end(300)
    assert code == 0, lines
    command = start(inputs.ppo(out, "--max-restarts", "1"))
    lose_a_worker(command, out, has("checkpoints/step-000001"), pause=0.2)
    code, lines = command.end(400)
    assert code == 0
    assert re.search(r"^\w+ rank [01] died in '\w+'; .* continue from step 1 \(", lines[0]), lines
    check_same(out, expected)
    command.wait_until_gone(command.processes, 10.0)

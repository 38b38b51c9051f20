"""How often new workers are started, and for what; tests/faults loses real ones."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from data.errors import ConfigError, DataError
from rlhf.actors.group import WorkerError, WorkerLost
from rlhf.cli.main import main
from rlhf.cli.runs import Restarts
from rlhf.run import Run

TRAINING = ("pretrain", "sft", "reward train", "rejection-sampling", "ghost-attention", "ppo")


def failing(*errors: Exception) -> Callable[[], str]:
    """Work that fails with each of these, one after the other, and then is done."""
    left = list(errors)

    def work() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return work


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run", "test", {})


def test_lost_workers_are_replaced_so_often(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    restarts = Restarts(2)
    assert restarts.around(failing(WorkerLost("a rank died")), run) == "done"
    run.checkpoint(7, lambda directory: None, 1)
    # two more in other work of the same command: one too many
    with pytest.raises(WorkerLost, match=r"^the last$"):
        restarts.around(failing(WorkerLost("a [b] hangs"), WorkerLost("the last")), run)
    assert capsys.readouterr().err.splitlines() == [
        "a rank died; new workers begin anew (restart 1 of 2)",
        "a [b] hangs; new workers continue from step 7 (restart 2 of 2)",
    ]


def test_without_restarts_the_first_loss_ends_the_command(run: Run) -> None:
    with pytest.raises(WorkerLost):
        Restarts(0).around(failing(WorkerLost("it died")), run)


@pytest.mark.parametrize("error", [WorkerError("a bug in a worker"), DataError("a torn file")])
def test_what_would_come_again_is_no_reason(run: Run, error: Exception) -> None:
    with pytest.raises(type(error)):
        Restarts(3).around(failing(error), run)


def test_fewer_than_none() -> None:
    with pytest.raises(ConfigError, match=r"^max_restarts is -1; it must be 0"):
        Restarts(-1)


@pytest.mark.parametrize("name", TRAINING)
def test_every_training_command_has_them(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = import_module(f"rlhf.cli.{name.replace(' ', '_').replace('-', '_')}")
    assert module.Restarts is Restarts
    assert main([*name.split(), "--max-restarts", "two"]) == 2
    assert "max_restarts: expected a whole number; got two" in capsys.readouterr().err

"""Two Ray actors that train with DeepSpeed: one process's result, stopped or not."""

from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from rlhf.actors.group import WorkerError
from rlhf.actors.placement import Placement
from rlhf.engine.base import EngineConfig
from rlhf.engine.optim import OptimConfig
from rlhf.metrics import read_metrics
from rlhf.run import Run
from rlhf.training import LoopConfig, train
from tests.rlhf.toy_task import NUM_STEPS, TOKENS_PER_STEP, Toy

pytestmark = [pytest.mark.ray, pytest.mark.deepspeed, pytest.mark.usefixtures("local_ray")]
HERE, TWO = Placement(ray=False), Placement(workers=2, timeout=120)
LOOP = LoopConfig(log_every=2, evaluate_every=5, checkpoint_every=4)


def go(run: Run, placement: Placement, task: Toy) -> dict[str, float]:
    return train(
        task,
        run,
        optim=OptimConfig(lr=1e-3),
        engine=EngineConfig(),
        loop=LOOP,
        placement=placement,
        name="toy",
    )


def weights_of(run: Run) -> dict[str, Tensor]:
    return load_file(run.model / "model.safetensors")


def test_two_actors_are_one_process(tmp_path: Path) -> None:
    expected = Run(tmp_path / "expected", "toy", {})
    figures = go(expected, HERE, Toy())
    straight = Run(tmp_path / "straight", "toy", {})
    found = go(straight, TWO, Toy())
    assert found == pytest.approx(figures, rel=1e-4)
    assert found["tokens"] == NUM_STEPS * TOKENS_PER_STEP
    assert_close(weights_of(straight), weights_of(expected), atol=1e-5, rtol=0)
    for ours, theirs in zip(
        read_metrics(straight.directory), read_metrics(expected.directory), strict=True
    ):
        assert ours.pop("tokens_per_second") > 0
        assert ours == pytest.approx({k: theirs[k] for k in ours}, rel=1e-3)
        assert ours.keys() == theirs.keys() - {"tokens_per_second"}

    stopped = Run(tmp_path / "stopped", "toy", {})
    with pytest.raises(WorkerError, match=r"toy rank [01] failed in 'train': PowerCut"):
        go(stopped, TWO, Toy(stop_before=7))
    assert stopped.resume()[0] == 4
    go(stopped, TWO, Toy())
    assert_close(weights_of(stopped), weights_of(straight), atol=0, rtol=0)

"""Two Ray actors that train with DeepSpeed: one process's result, stopped or not."""

from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from rlhf.actors.group import WorkerError, start_workers
from rlhf.actors.placement import Placement
from rlhf.actors.workers import share_out
from rlhf.engine.base import EngineConfig
from rlhf.engine.optim import OptimConfig
from rlhf.generation.generator import generate
from rlhf.generation.sampling import SamplingConfig
from rlhf.metrics import read_metrics
from rlhf.run import Run
from rlhf.training import LoopConfig, TrainWorker, train
from rlhf.types import PromptIds, Rollout, merge_stats
from tests.rlhf.toy_task import NUM_STEPS, TOKENS_PER_STEP, Toy
from tests.tiny_models import small_language_model

pytestmark = [pytest.mark.ray, pytest.mark.deepspeed, pytest.mark.usefixtures("local_ray")]
HERE, TWO = Placement(ray=False), Placement(workers=2, timeout=300)
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


def test_sharded_weights_are_gathered_before_sampling() -> None:
    """Under ZeRO-3, in the middle of training, with shares of two prompts and of one."""
    prompts = [PromptIds(str(n), list(range(3, 8 + n))) for n in range(3)]
    sampling = SamplingConfig(max_new_tokens=8)

    def sample(placement: Placement) -> tuple[list[Rollout], float]:
        optim, engine = OptimConfig(lr=1e-2), EngineConfig(zero_stage=3)
        with start_workers(TrainWorker, placement, Toy(), engine, optim, name="toy") as workers:
            workers.broadcast(TrainWorker.train, 0, 5)
            requests = share_out(prompts, workers.size, sampling, eos_id=2, seed=0)
            parts = workers.scatter(TrainWorker.generate, requests)
            after = merge_stats(workers.broadcast(TrainWorker.train, 5, NUM_STEPS))
        return [rollout for part in parts for rollout in part], after["loss"].total

    here, loss_here = sample(HERE)
    two, loss_two = sample(TWO)
    untrained = generate(small_language_model(), prompts, sampling, eos_id=2, seed=0)
    assert [rollout.response_ids for rollout in two] == [rollout.response_ids for rollout in here]
    assert logprobs(two) == pytest.approx(logprobs(here), abs=1e-3)
    assert logprobs(two) != pytest.approx(logprobs(untrained), abs=0.1)
    assert loss_two == pytest.approx(loss_here, rel=1e-4)


def logprobs(rollouts: list[Rollout]) -> list[float]:
    return [sum(rollout.response_logprobs) for rollout in rollouts]

"""The training loop: what it logs, when it looks up, and that stopping it changes nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from data.errors import ConfigError
from rlhf.actors.placement import Placement
from rlhf.engine.base import EngineConfig
from rlhf.engine.optim import OptimConfig, learning_rate
from rlhf.engine.torch_engine import TorchEngine
from rlhf.metrics import read_metrics
from rlhf.run import Run
from rlhf.training import LoopConfig, device_of, on_device, train
from rlhf.types import Stats
from tests.rlhf.toy_task import NUM_STEPS, TOKENS_PER_STEP, PowerCut, Toy
from tests.tiny_models import random_tokens, small_language_model

OPTIM = OptimConfig(lr=1e-2)
TIMING = "tokens_per_second"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run", "toy", {})


def go(run: Run, loop: LoopConfig, task: Toy | None = None) -> dict[str, float]:
    return train(
        task or Toy(),
        run,
        optim=OPTIM,
        engine=EngineConfig(),
        loop=loop,
        placement=Placement(ray=False),
        name="toy",
    )


def weights_of(run: Run) -> dict[str, Tensor]:
    return load_file(run.model / "model.safetensors")


def lines_of(run: Run) -> list[dict[str, Any]]:
    """Metrics without what depends on the clock."""
    return [{k: v for k, v in line.items() if k != TIMING} for line in read_metrics(run.directory)]


def by_hand() -> tuple[TorchEngine, list[Stats]]:
    """The same steps without the loop; warm-up over 5 steps, then a cosine to a tenth."""
    engine = TorchEngine(small_language_model(), OPTIM)
    rates = [learning_rate(OPTIM, step, NUM_STEPS) for step in range(NUM_STEPS)]
    task = Toy()
    batches = [task.micro_batches(step, 0, 1) for step in range(NUM_STEPS)]
    return engine, [engine.train_step(b, task.loss, r) for b, r in zip(batches, rates, strict=True)]


def test_the_loop_is_the_steps_one_after_another(run: Run) -> None:
    engine, stats = by_hand()
    figures = go(run, LoopConfig(log_every=4))
    assert_close(weights_of(run), engine.gather_weights(), atol=0, rtol=0)
    assert figures["tokens"] == NUM_STEPS * TOKENS_PER_STEP
    lines = lines_of(run)
    # lines are numbered by the steps done; the last one is shorter
    assert [line["step"] for line in lines] == [4, 8, 10]
    assert [line["tokens"] for line in lines] == [168, 168, 84]
    for line, first, last in zip(lines, (0, 4, 8), (4, 8, 10), strict=True):
        losses = [step["loss"].total / step["loss"].count for step in stats[first:last]]
        norms = [step["grad_norm"].total for step in stats[first:last]]
        assert line["loss"] == pytest.approx(sum(losses) / len(losses))
        assert line["grad_norm"] == pytest.approx(sum(norms) / len(norms))
    # lr 0.01: step 3 of the warm-up over 5 is at 4/5; step 9 is at cos(π · 4/5):
    # 0.1 + 0.9 · ½ (1 − 0.809017) = 0.185942
    assert lines[0]["learning_rate"] == pytest.approx(0.008)
    assert lines[2]["learning_rate"] == pytest.approx(0.00185942, abs=1e-7)


def test_validation_comes_when_it_is_due_and_at_the_end(run: Run) -> None:
    figures = go(run, LoopConfig(log_every=3, evaluate_every=4, checkpoint_every=5))
    lines = lines_of(run)
    # multiples of 3, 4 and 5, wherever the step before stood
    assert [line["step"] for line in lines] == [3, 4, 5, 6, 8, 9, 10]
    found = {m["step"]: m["validation/loss"] for m in lines if "validation/loss" in m}
    assert list(found) == [4, 8, 10]
    assert figures["validation/loss"] == found[10]
    module = small_language_model()
    module.load_state_dict(weights_of(run))
    with torch.no_grad():
        expected, _ = Toy().loss(module, random_tokens(3, 7, seed=1000))
    assert found[10] == pytest.approx(float(expected))


def test_looking_up_changes_no_weight(run: Run, tmp_path: Path) -> None:
    go(run, LoopConfig(log_every=10))
    other = Run(tmp_path / "other", "toy", {})
    go(other, LoopConfig(log_every=1, evaluate_every=3, checkpoint_every=2))
    assert_close(weights_of(other), weights_of(run), atol=0, rtol=0)


@pytest.mark.parametrize("stop_before", [3, 7, 8, 9])
def test_resumed_is_uninterrupted_bit_for_bit(run: Run, tmp_path: Path, stop_before: int) -> None:
    loop = LoopConfig(log_every=2, evaluate_every=5, checkpoint_every=4)
    expected = go(run, loop)
    stopped = Run(tmp_path / "stopped", "toy", {})
    with pytest.raises(PowerCut):
        go(stopped, loop, Toy(stop_before=stop_before))
    again = Run(tmp_path / "stopped", "toy", {})
    assert again.resume()[0] == (0 if stop_before < 4 else 4 if stop_before < 8 else 8)
    assert go(again, loop) == expected
    assert_close(weights_of(again), weights_of(run), atol=0, rtol=0)
    assert lines_of(again) == lines_of(run)


def test_a_crash_in_the_middle_of_a_checkpoint(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(run, LoopConfig(log_every=2, checkpoint_every=4))
    stopped = Run(tmp_path / "stopped", "toy", {})
    save, calls = TorchEngine.save, iter(range(9))

    def torn(engine: TorchEngine, directory: Path) -> None:
        save(engine, directory)
        if next(calls) == 1:
            path = directory / "rank-00000.safetensors"
            path.write_bytes(path.read_bytes()[:100])
            raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(TorchEngine, "save", torn)
        with pytest.raises(PowerCut):
            go(stopped, LoopConfig(log_every=2, checkpoint_every=4))
    again = Run(tmp_path / "stopped", "toy", {})
    assert again.resume()[0] == 4  # and not 8
    go(again, LoopConfig(log_every=2, checkpoint_every=4))
    assert_close(weights_of(again), weights_of(run), atol=0, rtol=0)
    assert lines_of(again) == lines_of(run)


def test_without_checkpoints_everything_is_done_again(run: Run, tmp_path: Path) -> None:
    expected = go(run, LoopConfig(log_every=3))
    stopped = Run(tmp_path / "stopped", "toy", {})
    with pytest.raises(PowerCut):
        go(stopped, LoopConfig(log_every=3), Toy(stop_before=8))
    assert len(lines_of(stopped)) == 2
    assert not (stopped.directory / "checkpoints").exists()
    assert go(stopped, LoopConfig(log_every=3)) == expected
    assert lines_of(stopped) == lines_of(run)


@dataclass(frozen=True)
class Batch:
    """Tensors, none where one may be absent, and a number."""

    tokens: Tensor
    mask: Tensor | None
    num_global: int


def test_a_batch_moves_to_the_device_of_the_module() -> None:
    module = small_language_model().to("meta")
    moved = on_device(Batch(torch.ones(2, 3), None, 6), device_of(module))
    assert moved.tokens.is_meta and moved.tokens.shape == (2, 3)
    assert (moved.mask, moved.num_global) == (None, 6)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"log_every": 0}, "log_every is 0; it must be above 0"),
        ({"evaluate_every": -1}, r"evaluate_every is -1; it must be 0 \(off\) or more"),
        ({"checkpoint_every": -5}, r"checkpoint_every is -5; it must be 0 \(off\) or more"),
    ],
)
def test_settings_that_cannot_be(values: dict[str, int], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        LoopConfig(**values)

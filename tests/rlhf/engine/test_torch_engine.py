"""The plain engine: shares add up, norms are clipped, state comes back."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from data.errors import ConfigError
from rlhf.engine.base import Diverged, EngineConfig, check_finite
from rlhf.engine.build import build_engine
from rlhf.engine.distributed import Rank, free_address
from rlhf.engine.optim import OptimConfig
from rlhf.engine.torch_engine import TorchEngine
from rlhf.model.heads import LanguageModel
from rlhf.types import Mean, Stats, stat_values
from tests.tiny_models import random_tokens, small_language_model, small_scalar_model

OPTIM = OptimConfig(lr=1e-2, clip_norm=0.5)


def batch_of(seed: int, rows: int = 8) -> tuple[Tensor, Tensor]:
    """Tokens, and a mask that marks another number of them in every row."""
    tokens = random_tokens(rows, 10, seed=seed)
    mask = torch.rand(rows, 10, generator=torch.Generator().manual_seed(seed)) < 0.6
    mask[:, 0] = False
    return tokens, mask


def share_of(num_global: int) -> Any:
    """A loss function: negative log-likelihood over the number of marked tokens of all batches."""

    def loss(module: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Stats]:
        total = -module(*batch).logprobs.sum()
        return total / num_global, {"loss": Mean(float(total.detach()), float(batch[1].sum()))}

    return loss


def train(engine: TorchEngine, steps: range, micro_batch_size: int = 8) -> list[Stats]:
    """One batch of 8 rows per step, in micro-batches of so many."""
    found = []
    for step in steps:
        tokens, mask = batch_of(step)
        parts = list(zip(tokens.split(micro_batch_size), mask.split(micro_batch_size), strict=True))
        found.append(engine.train_step(parts, share_of(int(mask.sum())), 1e-2))
    return found


@pytest.mark.parametrize("micro_batch_size", [1, 3, 8])
def test_micro_batches_are_one_batch(micro_batch_size: int) -> None:
    whole = TorchEngine(small_language_model(), OPTIM)
    parts = TorchEngine(small_language_model(), OPTIM)
    expected = train(whole, range(3))
    found = train(parts, range(3), micro_batch_size)
    for ours, theirs in zip(found, expected, strict=True):
        assert stat_values(ours) == pytest.approx(stat_values(theirs), rel=1e-5)
    assert_close(parts.gather_weights(), whole.gather_weights(), atol=1e-5, rtol=0)


def test_recomputing_activations_changes_no_weight() -> None:
    engines = [
        build_engine(small_language_model(), config, OPTIM, Rank())
        for config in (EngineConfig(), EngineConfig(recompute_activations=True))
    ]
    for engine in engines:
        assert isinstance(engine, TorchEngine)
        train(engine, range(2))
    kept, recomputed = engines
    assert recomputed.module.get_submodule("model").recompute_activations
    assert_close(recomputed.gather_weights(), kept.gather_weights(), atol=0, rtol=0)


def test_training_lowers_the_loss() -> None:
    engine = TorchEngine(small_language_model(), OPTIM)
    loss = share_of(int(batch_of(0)[1].sum()))
    losses = [stat_values(engine.train_step([batch_of(0)], loss, 1e-2))["loss"] for _ in range(60)]
    assert losses[0] > 4  # log 61 = 4.1
    assert losses[-1] < 1


class Weighted(nn.Module):
    """A matrix of two weights whose gradient is its input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 2))


def dot(module: nn.Module, gradient: Tensor) -> tuple[Tensor, Stats]:
    return (module.weight * gradient).sum(), {}  # type: ignore[operator]


@pytest.mark.parametrize(
    ("clip_norm", "first", "second"),
    [
        # ε = 1, so the first step is −lr g / (|g| + 1); g = (3, 4), of norm 5
        (1.0, 0.6 / 1.6, 0.8 / 1.8),  # clipped to (0.6, 0.8)
        (2.5, 1.5 / 2.5, 2.0 / 3.0),
        (10.0, 3.0 / 4.0, 4.0 / 5.0),  # left alone
    ],
)
def test_clipping_by_hand(clip_norm: float, first: float, second: float) -> None:
    engine = TorchEngine(Weighted(), OptimConfig(clip_norm=clip_norm, eps=1.0))
    # two micro-batches whose gradients add up to (3, 4)
    shares = [torch.tensor([[1.0, 5.0]]), torch.tensor([[2.0, -1.0]])]
    stats = engine.train_step(shares, dot, 0.1)
    assert tuple(stats["grad_norm"]) == pytest.approx((5.0, 1))
    expected = torch.tensor([[-0.1 * first, -0.1 * second]])
    assert_close(engine.gather_weights()["weight"], expected, atol=1e-6, rtol=0)


def test_gradients_do_not_outlive_their_step() -> None:
    engine = TorchEngine(Weighted(), OptimConfig(clip_norm=100.0))
    gradient = torch.tensor([[3.0, 4.0]])
    norms = [engine.train_step([gradient], dot, 0.1)["grad_norm"].total for _ in range(3)]
    assert norms == pytest.approx([5.0, 5.0, 5.0])


def test_the_rate_is_the_steps_own() -> None:
    engine = TorchEngine(Weighted(), OptimConfig(lr=5.0, weight_decay=0.0, clip_norm=100.0))
    gradient = torch.tensor([[3.0, 4.0]])
    engine.train_step([gradient], dot, 0.0)
    assert not engine.gather_weights()["weight"].any()
    engine.train_step([gradient], dot, 0.25)
    expected = torch.tensor([[-0.25, -0.25]])
    assert_close(engine.gather_weights()["weight"], expected, atol=1e-4, rtol=0)


def test_saved_and_loaded_is_uninterrupted_bit_for_bit(tmp_path: Path) -> None:
    whole = TorchEngine(small_language_model(), OPTIM)
    train(whole, range(6))
    first = TorchEngine(small_language_model(), OPTIM)
    train(first, range(3))
    first.save(tmp_path)
    second = TorchEngine(small_language_model(seed=9), OPTIM)
    second.load(tmp_path)
    train(second, range(3, 6))
    assert_close(second.gather_weights(), whole.gather_weights(), atol=0, rtol=0)


def test_the_optimizers_moments_are_part_of_the_state(tmp_path: Path) -> None:
    """Without them the continued run would differ: the test above would not be vacuous."""
    whole = TorchEngine(small_language_model(), OPTIM)
    train(whole, range(3))
    fresh = TorchEngine(small_language_model(), OPTIM)
    fresh.module.load_state_dict(whole.gather_weights())
    train(whole, range(3, 4))
    train(fresh, range(3, 4))
    name = "lm_head.weight"
    difference = (whole.gather_weights()[name] - fresh.gather_weights()[name]).abs().max()
    assert difference > 1e-3


@pytest.mark.parametrize(
    ("gradient", "figure"),
    # after a step the weights are below 0; 1e30² is beyond float32
    [([3.0, torch.inf], "loss is -inf"), ([1e30, 1e30], "gradient's norm is no finite number")],
)
def test_a_step_that_diverges_is_told_and_not_taken(gradient: list[float], figure: str) -> None:
    engine = TorchEngine(Weighted(), OPTIM)
    engine.train_step([torch.tensor([[3.0, 4.0]])], dot, 0.1)
    before = engine.gather_weights()["weight"].clone()
    with pytest.raises(Diverged, match=f"in optimizer step 2: the {figure}; .*0.05 in this step"):
        engine.train_step([torch.tensor([gradient])], dot, 0.05)
    assert torch.equal(engine.gather_weights()["weight"], before)


@pytest.mark.parametrize(
    ("loss", "norm", "ends"),
    [(1.0, 2.0, False), (1.0, None, False), (1.0, 0.0, False), (1.0, -1.0, True),
     (1.0, float("nan"), True), (float("inf"), 2.0, True)],
)  # fmt: skip
def test_what_diverges(loss: float, norm: float | None, ends: bool) -> None:
    with pytest.raises(Diverged) if ends else nullcontext():
        check_finite(loss, norm, step=0, learning_rate=1e-3)


def test_weights_go_into_another_module() -> None:
    engine = TorchEngine(small_language_model(), OPTIM)
    target = small_language_model(seed=5)
    engine.copy_weights_to(target)
    assert_close(target.state_dict(), engine.gather_weights(), atol=0, rtol=0)
    train(engine, range(1))
    before = target.lm_head.weight.clone()
    assert not torch.equal(engine.gather_weights()["lm_head.weight"], before)  # a copy


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    engine = TorchEngine(small_language_model(tie_embeddings=True), OPTIM)
    train(engine, range(2))
    engine.save(tmp_path)
    other = TorchEngine(small_language_model(seed=9, tie_embeddings=True), OPTIM)
    other.load(tmp_path)
    train(other, range(2, 3))
    module = other.module
    assert isinstance(module, LanguageModel)
    assert module.lm_head.weight is module.model.embed_tokens.weight


def test_bf16_loses_no_update_that_it_cannot_represent(tmp_path: Path) -> None:
    # Constant gradients: every AdamW step is the rate itself. Between 1 and 0.5, bf16 has steps of
    # 2⁻⁸ = 0.0039; 1e-4 alone is rounded away, 40 of them make 1 − 0.004 = 0.996, in bf16 0.99609.
    module = Weighted()
    nn.init.ones_(module.weight)
    optim = OptimConfig(weight_decay=0.0, eps=1e-12, clip_norm=100.0)
    engine = TorchEngine(module, optim, "bf16")
    engine.train_step([torch.ones(1, 2)], dot, 1e-4)
    assert module.weight.dtype is torch.bfloat16
    assert module.weight.tolist() == [[1.0, 1.0]]
    assert engine.gather_weights()["weight"].tolist()[0] == pytest.approx([1 - 1e-4] * 2)
    engine.save(tmp_path)
    other = TorchEngine(Weighted(), optim, "bf16")
    other.load(tmp_path)
    for _ in range(39):
        other.train_step([torch.ones(1, 2)], dot, 1e-4)
    assert other.gather_weights()["weight"].tolist()[0] == pytest.approx([0.996] * 2, abs=1e-6)
    assert other.module.weight.tolist() == [[0.99609375, 0.99609375]]  # type: ignore[operator]


def test_bf16_adds_micro_batches_up_in_float32() -> None:
    # 256 + 1 is no number of bf16, so a sum in bf16 stays at 256 whatever the ones add
    engine = TorchEngine(Weighted(), OptimConfig(clip_norm=1e9), "bf16")
    shares = [torch.tensor([[256.0, 0.0]])] + [torch.tensor([[1.0, 0.0]])] * 8
    assert engine.train_step(shares, dot, 0.1)["grad_norm"].total == 264.0


def test_bf16_scores_are_float32() -> None:
    scalar = small_scalar_model().to(torch.bfloat16)
    values = scalar(random_tokens(2, 5))
    assert values.dtype is torch.float32
    assert not torch.equal(values, values.to(torch.bfloat16).float())  # finer than bf16's steps


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_tied_weights_are_gathered_under_both_names(precision: Any) -> None:
    engine = TorchEngine(small_language_model(tie_embeddings=True), OPTIM, precision)
    train(engine, range(1))
    weights = engine.gather_weights()
    assert weights.keys() == engine.module.state_dict().keys()
    assert torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


def test_which_engine_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    module, alone, one_of_two = Weighted(), Rank(), Rank(index=1, world_size=2)
    for kind in ("auto", "torch"):
        engine = build_engine(module, EngineConfig(kind=kind), OPTIM, alone)  # type: ignore[arg-type]
        assert isinstance(engine, TorchEngine)
        assert not engine.sharded
    with pytest.raises(ConfigError, match=r"runs one worker; set engine\.kind to deepspeed"):
        build_engine(module, EngineConfig(kind="torch"), OPTIM, one_of_two)
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # as on macOS
    with pytest.raises(ConfigError, match="DeepSpeed, which is not installed here; install it"):
        build_engine(module, EngineConfig(), OPTIM, one_of_two)
    with pytest.raises(ConfigError, match="zero_stage is 4; ZeRO has stages 0 to 3"):
        EngineConfig(zero_stage=4)


def test_where_offloading_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"is for DeepSpeed; set engine\.kind to deepspeed"):
        EngineConfig(kind="torch", offload_optimizer=True)
    with pytest.raises(ConfigError, match="needs a zero_stage of 1, 2 or 3; it is 0"):
        EngineConfig(offload_optimizer=True, zero_stage=0)
    with pytest.raises(ConfigError, match="one worker trains with plain torch; set"):
        build_engine(Weighted(), EngineConfig(offload_optimizer=True), OPTIM, Rank())


def test_an_address_that_nothing_listens_on() -> None:
    host, port = free_address().rsplit(":", 1)
    assert host
    assert 1024 < int(port) < 65536

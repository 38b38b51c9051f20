"""What `rlhf ppo --plan` computes is what a CPU model is measured to hold."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from policy.ppo import PpoConfig
from policy.ppo_plan import (
    Placements,
    PpoModels,
    Use,
    WorkerPlan,
    count_numbers,
    plan_ppo,
    sampling_memory,
    trainer_memory,
    update_rows,
)
from policy.ppo_workers import CriticWorker, PolicyWorker, UpdateSpec, own_minibatches
from reward.score import ScoreWorker
from rlhf.actors.group import Seat
from rlhf.actors.placement import Placement
from rlhf.actors.workers import GenerationRequest
from rlhf.engine.base import EngineConfig
from rlhf.engine.distributed import Rank
from rlhf.engine.optim import OptimConfig
from rlhf.generation.sampling import SamplingConfig
from rlhf.model import kernels, linear
from rlhf.model.config import SIZES, ModelConfig
from rlhf.model.heads import LanguageModel
from rlhf.model.init import init_language_model, scalar_model_from
from rlhf.model.kv_cache import KVCache
from rlhf.model.norm import RMSNorm
from rlhf.model.weights import save_model
from rlhf.types import Experience, PromptIds
from tests import made_up
from tests.live_bytes import LiveBytes

SHAPE = ModelConfig(
    vocab_size=500, dim=256, num_layers=4, num_heads=8, num_kv_heads=4, ffn_dim=688, context=256
)
"""Its parts have the proportions of a large model's: gradients and activations both count."""
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SAMPLING = SamplingConfig(max_new_tokens=64)
FULL = replace(SAMPLING, min_new_tokens=64)  # no response ends by chance
TRAIN = PpoConfig(prompts_per_iteration=8, minibatch_size=8, micro_batch_size=4, sampling=SAMPLING)
SEAT = Seat(rank=Rank(), threads=1, device="cpu", timeout=300.0)
ONE = Placement(ray=False)
SPEC = UpdateSpec(
    epochs=1, minibatch_size=8, micro_batch_size=4, clip_range=0.2, learning_rate=1e-6,
    temperature=1.0, seed=0,
)  # fmt: skip


class Normalised(torch.autograd.Function):
    """RMSNorm as a GPU does it: keeps its input and a number per row, where ours on CPUs keeps the
    normalised input in float32, twice as much."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight, x[..., :1].float())
        ctx.eps = eps
        return F.rms_norm(x, weight.shape, weight, eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, _ = ctx.saved_tensors
        return grad * weight, (grad * x).flatten(0, -2).sum(dim=0), None  # of the right shapes


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what only CPUs have: fused operations, copies of weights in oneDNN's order."""

    def forward(self: RMSNorm, x: Tensor) -> Tensor:
        return Normalised.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call, no-any-return]

    monkeypatch.setattr(RMSNorm, "forward", forward)
    monkeypatch.setattr(linear, "_suits_onednn", lambda x, weight: False)
    monkeypatch.setattr(kernels, "usable", lambda *tensors: False)


@pytest.fixture
def policy_model(tmp_path: Path) -> Path:
    save_model(init_language_model(SHAPE, 0), tmp_path / "model", IDS)
    return tmp_path / "model"


@pytest.fixture
def reward_model(tmp_path: Path) -> Path:
    save_model(scalar_model_from(init_language_model(SHAPE, 0), 1), tmp_path / "reward", IDS)
    return tmp_path / "reward"


def plan_of(role: str, engine: EngineConfig) -> WorkerPlan:
    models = PpoModels(policy=SHAPE, reference=SHAPE, critic=SHAPE, scorers={"safety": SHAPE})
    plans = plan_ppo(models, TRAIN, engine, Placements(ONE, ONE, ONE))
    return next(plan for plan in plans if plan.role == role)


def experience() -> Experience:
    """Eight rows that fill the context, 64 tokens of each sampled."""
    tokens = torch.randint(3, 500, (8, 256), generator=torch.Generator().manual_seed(0))
    rows = made_up.experience(tokens, 192)
    return rows.with_(advantages=torch.randn(8, 256) * rows.response_mask)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_policy_worker_holds_what_is_planned(
    policy_model: Path, precision: Any, recompute: bool
) -> None:
    """Between phases within 1 %; what a phase adds, within 15 % and hardly ever more."""
    engine = EngineConfig(precision=precision, recompute_activations=recompute)
    plan = plan_of("policy", engine)
    rows = experience()
    prompts = [PromptIds(str(n), ids[:192]) for n, ids in enumerate(rows.tokens.tolist())]
    request = GenerationRequest(prompts, list(range(8)), FULL, eos_id=2, seed=0)
    with LiveBytes() as memory:
        worker = PolicyWorker(SEAT, policy_model, policy_model, engine, OptimConfig(), 1.0)
        check(plan, memory, "starting")
        worker.generate(request)
        check(plan, memory, "sampling")
        worker.ref_logprobs(rows, 4)
        check(plan, memory, "reference")
        worker.update(rows, SPEC)
        check(plan, memory, "updating")


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_critic_holds_what_is_planned(reward_model: Path, precision: Any) -> None:
    engine = EngineConfig(precision=precision, recompute_activations=True)
    plan = plan_of("critic", engine)
    with LiveBytes() as memory:
        worker = CriticWorker(SEAT, reward_model, "helpfulness", engine, OptimConfig())
        check(plan, memory, "starting")
        worker.values(experience(), 4)
        check(plan, memory, "values")
        worker.update(experience(), SPEC)
        check(plan, memory, "updating")


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_scorer_holds_what_is_planned(reward_model: Path, precision: Any) -> None:
    engine = EngineConfig(precision=precision)
    plan = plan_of("safety scorer", engine)
    with LiveBytes() as memory:
        worker = ScoreWorker(SEAT, reward_model, engine.dtype)
        memory.since()
        worker.score(experience().tokens.repeat(2, 1).tolist())  # 16 times 256 are one pass
        check(plan, memory, "scoring")


def check(plan: WorkerPlan, memory: LiveBytes, phase: str) -> None:
    held = sum(plan.held.values(), Use()).total
    planned, found = plan.phases[phase].total, memory.since()
    assert memory.now == pytest.approx(held, rel=0.01)
    assert found - held == pytest.approx(planned - held, rel=0.15, abs=0.01 * held)
    assert found < 1.02 * planned


SEVEN = count_numbers(LanguageModel, SIZES["7b"])
ZERO_3 = EngineConfig(zero_stage=3, precision="bf16", recompute_activations=True)


def test_the_numbers_of_7b() -> None:
    # embedding and head: 2 · 32,000 · 4096                                           262,144,000
    # a block: 4 · 4096² + 3 · 4096 · 11,008 + 2 · 4096 = 202,383,360; times 32     6,476,267,520
    # the last norm                                                                         4,096
    assert SEVEN.all == 262_144_000 + 6_476_267_520 + 4_096 == 6_738_415_616
    assert SEVEN.whole == 65 * 4096  # norms, of fewer than 100,000 numbers
    assert SEVEN.largest == 32_000 * 4096


def test_the_trainer_of_7b_on_eight_gpus() -> None:
    trainer = trainer_memory(SEVEN, ZERO_3, 8)
    assert trainer.held == Use(
        parameters=1_685_069_824,  # 2 · ((6,738,415,616 − 266,240) / 8 + 266,240)
        gradients=3_369_207_808,  # 4 · 6,738,415,616 / 8
        optimizer=10_107_623_424,  # 12 · 6,738,415,616 / 8: masters and two moments
        buffers=200_000_000,  # 4 · 50,000,000
    )
    # in the step the gradients once more, 4 · 6,738,415,616 / 8; before, and with 32 workers more:
    # 2 · (1,000,000,000 + 50,000,000) gathered, and 8 · 131,072,000 for the embedding's gradients
    assert trainer.updating == Use(buffers=3_369_207_808)
    assert trainer_memory(SEVEN, ZERO_3, 32).updating == Use(buffers=3_148_576_000)
    # the embedding whole in bf16 beside it: 2 · 32,000 · 4096
    assert trainer.starting.total == trainer.held.total + 262_144_000


def test_everything_of_7b_on_one_gpu() -> None:
    trainer = trainer_memory(SEVEN, EngineConfig(precision="bf16"), 1)
    assert trainer.held.total == 14 * 6_738_415_616  # 2 in bf16, 4 of the master, 8 of the moments
    assert trainer.updating.total == 6 * 6_738_415_616  # gradients: 2 in bf16, 4 of the masters


def test_offloaded_states_are_in_the_hosts_memory() -> None:
    trainer = trainer_memory(SEVEN, replace(ZERO_3, offload_optimizer=True), 8)
    assert trainer.held == Use(parameters=1_685_069_824, buffers=200_000_000)
    assert trainer.host == 3_369_207_808 + 10_107_623_424
    first = trainer_memory(SEVEN, replace(ZERO_3, zero_stage=1, offload_optimizer=True), 8)
    assert first.updating.gradients == 6 * 6_738_415_616  # still whole: 4 in float32, 2 in bf16


def test_the_cache_of_7b() -> None:
    # 512 responses of 32 workers: 16 slots; keys and values of 32 layers, 4096 wide, 4096 long
    use = sampling_memory(SIZES["7b"], PpoConfig(), 32, 2)
    assert use.kv_cache == 2 * 32 * 16 * 4096 * 4096 * 2 == 32 * 2**30
    # grouped-query attention: 8 of 64 heads of keys and values, 80 layers
    use = sampling_memory(SIZES["70b"], PpoConfig(), 32, 2)
    assert use.kv_cache == 2 * 80 * 16 * 8 * 128 * 4096 * 2 == 20 * 2**30


def test_the_planned_cache_is_the_allocated_one() -> None:
    cache = KVCache(SHAPE, slots=8, capacity=256)
    assert sampling_memory(SHAPE, TRAIN, 1, 4).kv_cache == cache.keys.untyped_storage().nbytes()


@pytest.mark.parametrize(("minibatch", "micro", "workers"), [(64, 8, 1), (64, 3, 5), (7, 2, 3)])
def test_the_largest_micro_batch_is_the_one_that_is_dealt(
    minibatch: int, micro: int, workers: int
) -> None:
    train = PpoConfig(
        prompts_per_iteration=minibatch, minibatch_size=minibatch, micro_batch_size=micro
    )
    rows = experience().select(torch.arange(minibatch) % 8)
    spec = replace(SPEC, minibatch_size=minibatch, micro_batch_size=micro)
    dealt = [own_minibatches(rows, spec, rank, workers) for rank in range(workers)]
    sizes = [len(b.rows) for batches in dealt for parts in batches for b in parts]
    assert update_rows(train, workers) == max(sizes)


def test_workers_may_share_a_gpu() -> None:
    half = Placement(workers=2, gpus_per_worker=0.5)
    models = PpoModels(policy=SHAPE, reference=SHAPE, critic=SHAPE, scorers={})
    policy, critic = plan_ppo(models, TRAIN, ZERO_3, Placements(half, half, half))
    assert policy.per_gpu == 2 * policy.phases[policy.peak].total
    assert critic.per_gpu == 2 * critic.phases[critic.peak].total

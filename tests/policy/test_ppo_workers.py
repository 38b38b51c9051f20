"""The roles of PPO that train: losses on a real model, mini-batches, values."""

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from policy.ppo_workers import (
    CriticWorker,
    MicroBatch,
    PolicyWorker,
    UpdateSpec,
    by_length,
    own_minibatches,
    policy_loss,
    value_loss,
)
from rlhf.actors.group import LocalGroup
from rlhf.actors.placement import Placement
from rlhf.engine.optim import OptimConfig
from rlhf.model.heads import LanguageModel
from rlhf.model.weights import load_language_model, load_scalar_model
from rlhf.types import Experience, Rollout
from tests.reward.tiny import TORCH, VOCAB_SIZE

HERE = Placement(ray=False)


def spec(**changes: Any) -> UpdateSpec:
    values: dict[str, Any] = {
        "epochs": 2,
        "minibatch_size": 4,
        "micro_batch_size": 2,
        "clip_range": 0.2,
        "learning_rate": 1e-3,
        "temperature": 0.7,
        "seed": 5,
    }
    return UpdateSpec(**values | changes)


@pytest.fixture
def rows() -> Experience:
    """12 rollouts; row n has n + 3 tokens, the last n // 2 + 1 of them sampled."""
    rng, generator = random.Random(0), torch.Generator().manual_seed(0)
    rollouts = []
    for number in range(12):
        ids = [rng.randrange(VOCAB_SIZE) for _ in range(number + 3)]
        cut = len(ids) - number // 2 - 1
        rollouts.append(
            Rollout(
                prompt_id=str(number),
                prompt_ids=ids[:cut],
                response_ids=ids[cut:],
                response_logprobs=[-5.5 + 0.2 * n for n in range(len(ids) - cut)],
                finish_reason="length",
                policy_version=0,
            )
        )
    rows = Experience.from_rollouts(rollouts, pad_id=0)
    noise = [torch.randn(rows.tokens.shape, generator=generator) for _ in range(3)]
    masked = [values * rows.response_mask for values in noise]
    return rows.with_(advantages=masked[0], values=masked[1], returns=masked[2])


@torch.no_grad()
def naive_log_probs(model: LanguageModel, ids: list[int], temperature: float) -> Tensor:
    """[T, V] log-probabilities of what follows each token: no packing, no padding, no shift."""
    hidden = model.model(torch.tensor([ids]))
    return (model.lm_head(hidden)[0] / temperature).log_softmax(dim=-1)


def test_policy_loss_by_loops(rows: Experience, chat_model: Path) -> None:
    model = load_language_model(chat_model)
    total = entropy = clipped = kl = 0.0
    count = 0
    assert rows.advantages is not None
    for b in range(12):
        ids = rows.tokens[b, : int(rows.lengths[b])].tolist()
        log_probs = naive_log_probs(model, ids, 0.7)
        for t in rows.response_mask[b].nonzero().squeeze(1).tolist():
            log_ratio = float(log_probs[t - 1, ids[t]]) - float(rows.logprobs[b, t])
            ratio, advantage = math.exp(log_ratio), float(rows.advantages[b, t])
            held = min(max(ratio, 0.8), 1.2)
            total -= min(ratio * advantage, held * advantage)
            clipped += held * advantage < ratio * advantage
            kl += log_ratio**2 / 2
            entropy -= float((log_probs[t - 1].exp() * log_probs[t - 1]).sum())
            count += 1
    assert count == int(rows.response_mask.sum()) == 42  # 2 · (1 + 2 + … + 6)
    assert 0 < clipped < count
    loss, stats = policy_loss(model, MicroBatch(rows, 100), spec())
    assert loss.item() == pytest.approx(total / 100, rel=1e-4)  # the GLOBAL count divides
    means = {name: mean.total / mean.count for name, mean in stats.items()}
    assert means["loss/policy_avg"] == pytest.approx(total / 42, rel=1e-4)
    assert means["policy/clipfrac_avg"] == pytest.approx(clipped / 42)
    assert means["policy/entropy_avg"] == pytest.approx(entropy / 42, rel=1e-4)
    assert means["policy/approxkl_avg"] == pytest.approx(kl / 42, rel=1e-4)


def test_value_loss_by_loops(rows: Experience, critic_model: Path) -> None:
    model = load_scalar_model(critic_model)
    assert rows.values is not None and rows.returns is not None
    total = clipped = 0.0
    for b in range(12):
        ids = rows.tokens[b, : int(rows.lengths[b])]
        with torch.no_grad():
            values = model(ids[None])[0]
        for t in rows.response_mask[b].nonzero().squeeze(1).tolist():
            # V before token t was chosen: what the critic says after having read token t − 1
            value, old = float(values[t - 1]), float(rows.values[b, t])
            target = float(rows.returns[b, t])
            held = min(max(value, old - 0.2), old + 0.2)
            total += max((value - target) ** 2, (held - target) ** 2) / 2
            clipped += (held - target) ** 2 > (value - target) ** 2
    loss, stats = value_loss(model, MicroBatch(rows, 100), 0.2)
    assert loss.item() == pytest.approx(total / 100, rel=1e-4)
    assert stats["val/clipfrac_avg"] == (pytest.approx(clipped), 42)


def test_prompts_feel_no_gradient(rows: Experience, chat_model: Path) -> None:
    # What the losses are told about prompt tokens must not matter.
    model = load_language_model(chat_model)
    noise = torch.randn(rows.tokens.shape) * ~rows.response_mask
    assert rows.advantages is not None
    dirty = rows.with_(advantages=rows.advantages + noise, logprobs=rows.logprobs + noise)
    losses = [policy_loss(model, MicroBatch(r, 100), spec())[0] for r in (rows, dirty)]
    assert_close(losses[0], losses[1], rtol=0, atol=0)


def drawn(rows: Experience, world_size: int, **changes: Any) -> list[set[int]]:
    """Rows of each mini-batch, over all ranks; row n has n + 3 tokens."""
    ranks = [own_minibatches(rows, spec(**changes), r, world_size) for r in range(world_size)]
    return [
        {int(n) - 3 for batches in shares for batch in batches for n in batch.rows.lengths}
        for shares in zip(*ranks, strict=True)
    ]


def test_every_epoch_sees_every_row_once_in_a_new_order(rows: Experience) -> None:
    batches = drawn(rows, 1)
    assert len(batches) == 6  # 2 epochs of 12 / 4
    for epoch in (batches[:3], batches[3:]):
        assert [len(batch) for batch in epoch] == [4, 4, 4]
        assert set.union(*epoch) == set(range(12))
    assert batches[:3] != batches[3:]
    assert drawn(rows, 1) == batches and drawn(rows, 1, seed=6) != batches


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_minibatches_do_not_depend_on_ranks(rows: Experience, world_size: int) -> None:
    assert drawn(rows, world_size) == drawn(rows, 1)


def test_minibatches_are_divided_by_all_their_tokens(rows: Experience) -> None:
    ranks = [list(own_minibatches(rows, spec(), rank, 2)) for rank in range(2)]
    for shares in zip(*ranks, strict=True):
        batches = [batch for share in shares for batch in share]
        assert {batch.num_global_tokens for batch in batches} == {
            sum(batch.rows.num_response_tokens for batch in batches)
        }


def test_ranks_carry_equal_loads(rows: Experience) -> None:
    # One mini-batch of all: rank 0 gets the longest, 3rd longest …, rank 1 the 2nd, 4th …
    shares = [next(own_minibatches(rows, spec(minibatch_size=12), rank, 2)) for rank in (0, 1)]
    lengths = [[int(n) for batch in share for n in batch.rows.lengths] for share in shares]
    assert lengths == [[14, 12, 10, 8, 6, 4], [13, 11, 9, 7, 5, 3]]


def test_by_length_takes_neighbours() -> None:
    parts = [part.tolist() for part in by_length(torch.tensor([5, 1, 9, 2, 7]), 3)]
    assert parts == [[1, 3], [0, 4], [2]]


def test_values_are_the_critics_before_each_token(rows: Experience, critic_model: Path) -> None:
    critic = LocalGroup(CriticWorker, HERE, critic_model, "helpfulness", TORCH, OptimConfig())
    model = load_scalar_model(critic_model)
    for micro_batch_size in (1, 5, 12):
        (values,) = critic.broadcast(CriticWorker.values, rows, micro_batch_size)
        for b in range(12):
            with torch.no_grad():
                plain = model(rows.tokens[b : b + 1, : int(rows.lengths[b])])[0]
            steps = rows.response_mask[b].nonzero().squeeze(1)
            assert_close(values[b, steps], plain[steps - 1], rtol=0, atol=1e-5)
        assert (values[~rows.response_mask] == 0).all()


def test_a_zero_head_values_everything_at_0_and_learns(
    rows: Experience, critic_model: Path
) -> None:
    critic = LocalGroup(CriticWorker, HERE, critic_model, "zero_head", TORCH, OptimConfig())
    (values,) = critic.broadcast(CriticWorker.values, rows, 12)
    assert (values == 0).all()
    before = rows.with_(values=values)
    losses = [
        critic.broadcast(CriticWorker.update, before, spec(clip_range=100.0, learning_rate=1e-2))[0]
        for _ in range(8)
    ]
    errors = [s["loss/value_avg"].total / s["loss/value_avg"].count for s in losses]
    assert errors[-1] < 0.5 * errors[0]
    assert losses[0]["critic/grad_norm"].count == 6  # one per optimizer step


def test_reference_stays_while_the_policy_moves(rows: Experience, chat_model: Path) -> None:
    policy = LocalGroup(PolicyWorker, HERE, chat_model, chat_model, TORCH, OptimConfig(), 0.7)
    model = load_language_model(chat_model)

    def both() -> tuple[Tensor, Tensor]:
        (reference,) = policy.broadcast(PolicyWorker.ref_logprobs, rows, 5)
        (current,) = policy.broadcast(PolicyWorker.logprobs, rows, 5)
        return reference, current

    reference, current = both()
    assert torch.equal(reference, current)
    for b in range(12):
        ids = rows.tokens[b, : int(rows.lengths[b])].tolist()
        log_probs = naive_log_probs(model, ids, 0.7)
        for t in range(len(ids)):
            expected = float(log_probs[t - 1, ids[t]]) if rows.response_mask[b, t] else 0.0
            assert float(reference[b, t]) == pytest.approx(expected, abs=1e-5)
    policy.broadcast(PolicyWorker.update, rows, spec())
    after_reference, after = both()
    assert torch.equal(after_reference, reference)
    assert not torch.allclose(after, current, atol=1e-3)

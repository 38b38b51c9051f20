"""Batches of a step: bounded by tokens, the prompt computed once, and nothing changed by either."""

import pytest
import torch
from torch import nn
from torch.nn.functional import logsigmoid
from torch.testing import assert_close

from reward.train import EncodedPair, RewardTask, token_bounded
from tests.reward.test_train import draw_pairs, gradients, plain_score, task_of, total_loss


def plain_loss(pairs: list[EncodedPair], module: nn.Module) -> torch.Tensor:
    """Mean ranking loss over comparisons, two whole sequences for each, nothing packed."""
    chosen, rejected = (
        torch.stack([plain_score(module, p.prompt + getattr(p, side)) for p in pairs])
        for side in ("chosen", "rejected")
    )
    margin, weight = (torch.tensor([getattr(p, n) for p in pairs]) for n in ("margin", "weight"))
    return -(weight * logsigmoid(chosen - rejected - margin)).mean()


@pytest.mark.parametrize("tokens", [1, 150, 100_000])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_loss_and_gradients_are_those_of_plain_sequences(world_size: int, tokens: int) -> None:
    pairs = draw_pairs(7)
    task = task_of(pairs, micro_batch_pairs=0, micro_batch_tokens=tokens, safety_coef=0.0)
    module = task.build()
    expected = plain_loss(pairs, module)
    expected.backward()
    plain = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    found = gradients(task, module, world_size)
    assert set(found) == set(plain)
    for name, gradient in plain.items():
        assert_close(found[name], gradient, rtol=0, atol=1e-5)
    assert_close(total_loss(task, module, world_size), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_every_comparison_is_in_one_micro_batch_of_one_rank(world_size: int) -> None:
    pairs = draw_pairs(11)
    task = task_of(pairs, micro_batch_pairs=0, micro_batch_tokens=100)
    ranks = [task.micro_batches(0, rank, world_size) for rank in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1  # the ranks step together
    batches = [batch for rank in ranks for batch in rank]
    assert sum(len(b.margin) for b in batches) == 11
    assert sum(int((b.documents >= 0).sum()) for b in batches) == sum(map(len, pairs))
    assert {b.num_global_pairs for b in batches} == {11}


def test_no_micro_batch_holds_more_tokens_than_allowed() -> None:
    pairs = draw_pairs(40)
    (*batches,) = task_of(pairs, micro_batch_pairs=0, micro_batch_tokens=200).micro_batches(0, 0, 1)
    assert 1 < len(batches) < 40
    assert max(b.tokens.numel() for b in batches) <= 200  # padding included


def test_micro_batches_by_hand() -> None:
    def pair(tokens: int) -> EncodedPair:
        return EncodedPair(prompt=[5] * (tokens - 2), chosen=[6], rejected=[7], margin=0, safe=None)

    parts = token_bounded([pair(n) for n in (3, 50, 10, 9, 4, 8)], 30)
    # 50 is over 30 and alone; 10, 9, 8: 3 × 10 = 30; then 4 and 3
    assert [[len(p) for p in part] for part in parts] == [[50], [10, 9, 8], [4, 3]]
    assert token_bounded([], 30) == []


def test_similar_lengths_waste_little() -> None:
    pairs = draw_pairs(200)
    used = sum(map(len, pairs))

    def computed(task: RewardTask) -> int:
        return sum(b.tokens.numel() for b in task.micro_batches(0, 0, 1))

    bounded = task_of(pairs, micro_batch_pairs=0, micro_batch_tokens=512)
    assert used <= computed(bounded) < 1.1 * used
    # one comparison after the other, each response with its own prompt, padded in batches of 16
    plain = [max(len(p.prompt) + len(s) for s in (p.chosen, p.rejected)) for p in pairs]
    padded = sum(2 * 16 * max(plain[i : i + 16]) for i in range(0, 200, 16))
    assert computed(bounded) < padded / 2


def test_weights_smoothing_and_centring_in_the_loss() -> None:
    pair = draw_pairs(1)[0]
    pairs = [
        EncodedPair(
            prompt=pair.prompt,
            chosen=pair.chosen,
            rejected=pair.rejected,
            margin=0.5,
            weight=3.0,
            safe=None,
        )
    ]
    plain, other = (
        task_of(pairs, **options)
        for options in ({}, {"label_smoothing": 0.1, "centring_coef": 0.01})
    )
    module = plain.build()
    chosen, rejected = (plain_score(module, pair.prompt + s) for s in (pair.chosen, pair.rejected))
    right, wrong = (-logsigmoid(s * (chosen - rejected - 0.5)) for s in (1, -1))
    assert_close(total_loss(plain, module), 3 * right, rtol=0, atol=1e-5)
    expected = 3 * (0.9 * right + 0.1 * wrong) + 0.01 * (chosen + rejected) ** 2
    assert_close(total_loss(other, module), expected, rtol=0, atol=1e-5)

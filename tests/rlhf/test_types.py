"""Statistics that add up, and batches of rollouts."""

import pytest
import torch
from torch.testing import assert_close

from rlhf.types import Experience, Mean, Rollout, Stats, merge_stats, stat_values


def rollout(prompt: list[int], response: list[int], *, eos: bool) -> Rollout:
    return Rollout(
        prompt_id="p",
        prompt_ids=prompt,
        response_ids=response,
        response_logprobs=[-0.5 * (n + 1) for n in range(len(response))],
        finish_reason="eos" if eos else "length",
        policy_version=0,
    )


@pytest.fixture
def experience() -> Experience:
    rollouts = [rollout([5, 6], [7, 8, 2], eos=True), rollout([5, 6, 9], [7], eos=False)]
    return Experience.from_rollouts(rollouts, pad_id=0)


def test_means_add_up_exactly() -> None:
    # (1 + 5) / (2 + 3), not the mean of ½ and 5/3
    parts: list[Stats] = [
        {"loss": Mean(1.0, 2.0), "tokens": Mean(7, 0)},
        {"loss": Mean(5.0, 3.0), "tokens": Mean(4, 0)},
        {"rare": Mean(2.0, 4.0)},
    ]
    merged = merge_stats(parts)
    assert merged == {"loss": (6.0, 5.0), "tokens": (11, 0), "rare": (2.0, 4.0)}
    # a pure total has no mean
    assert stat_values(merged) == {"loss": 1.2, "rare": 0.5}


def test_the_order_of_merging_changes_nothing() -> None:
    parts: list[Stats] = [{"a": Mean(float(n), n + 1.0)} for n in range(5)]
    at_once = merge_stats(parts)
    stepwise = merge_stats([merge_stats(parts[:2]), merge_stats(parts[2:])])
    assert at_once == stepwise == {"a": (10.0, 15.0)}
    assert merge_stats([]) == {}


def test_rollouts_are_padded_on_the_right(experience: Experience) -> None:
    assert experience.tokens.tolist() == [[5, 6, 7, 8, 2], [5, 6, 9, 7, 0]]
    assert experience.lengths.tolist() == [5, 4]
    assert experience.response_mask.int().tolist() == [[0, 0, 1, 1, 1], [0, 0, 0, 1, 0]]
    assert experience.ended.tolist() == [True, False]
    assert experience.logprobs.tolist() == [[0, 0, -0.5, -1.0, -1.5], [0, 0, 0, -0.5, 0]]
    assert len(experience) == 2
    assert experience.num_response_tokens == 4


def test_a_copy_with_more_is_known(experience: Experience) -> None:
    scored = experience.with_(scores=torch.tensor([1.0, 2.0]))
    assert experience.scores is None
    assert scored.scores is not None
    assert scored.tokens is experience.tokens


def test_selected_rows_are_cut_to_their_longest(experience: Experience) -> None:
    full = experience.with_(
        scores=torch.tensor([1.0, 2.0]), values=torch.arange(10.0).reshape(2, 5)
    )
    short = full.select(torch.tensor([1]))
    assert short.tokens.tolist() == [[5, 6, 9, 7]]
    assert short.lengths.tolist() == [4]
    assert short.scores is not None
    assert short.values is not None
    assert short.scores.tolist() == [2.0]
    assert short.values.tolist() == [[5.0, 6.0, 7.0, 8.0]]
    assert short.ref_logprobs is None
    both = full.select(torch.tensor([1, 0]))
    assert both.tokens.tolist() == full.tokens.flip(0).tolist()
    assert_close(full.select(torch.tensor([0, 1])).logprobs, full.logprobs)


def test_a_rollouts_ids() -> None:
    assert rollout([1, 2], [3], eos=False).ids == [1, 2, 3]

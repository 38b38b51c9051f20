"""The best of K, and how good the best of N is."""

from itertools import combinations

import numpy as np
import pytest

from data.errors import ConfigError
from data.schemas import Demonstration, Message
from policy.prompts import PromptSet
from policy.rejection_sampling import (
    RejectionSamplingConfig,
    best_of_n_curve,
    best_per_prompt,
    demonstrations_from,
    those_that_fit,
)
from rlhf.types import FinishReason, Rollout
from tests.reward.tiny import tiny_chat


def test_best_per_prompt() -> None:
    scores = np.array([[0.1, 0.9, 0.3], [-1.0, -3.0, -2.0], [2.0, 5.0, 5.0]])
    assert best_per_prompt(scores).tolist() == [1, 0, 1]  # the first of equals


def test_maximum_is_the_mean_over_all_subsets() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 8))
    scores[3, :4] = 0.5  # equal scores
    curve = best_of_n_curve(scores)
    assert [point["n"] for point in curve] == [1, 2, 4, 8]
    for point in curve:
        subsets = list(combinations(range(8), int(point["n"])))
        brute = np.mean([[scores[p, list(s)].max() for s in subsets] for p in range(5)])
        assert point["maximum"] == pytest.approx(brute)


def test_curve_by_hand() -> None:
    # scores 1, 2, 6, 4.  Pairs and their maxima: 12:2 16:6 14:4 26:6 24:4 64:6, mean 28/6
    curve = best_of_n_curve(np.array([[1.0, 2.0, 6.0, 4.0]]))
    assert [point["maximum"] for point in curve] == pytest.approx([13 / 4, 28 / 6, 6.0])
    # median and mean of the first N: 1;  1, 2;  1, 2, 6, 4
    assert [point["median"] for point in curve] == pytest.approx([1.0, 1.5, 3.0])
    assert [point["mean"] for point in curve] == pytest.approx([1.0, 1.5, 3.25])


def test_sizes_are_powers_of_two_up_to_k() -> None:
    scores = np.zeros((2, 10))
    assert [point["n"] for point in best_of_n_curve(scores)] == [1, 2, 4, 8]
    assert [point["n"] for point in best_of_n_curve(scores[:, :1])] == [1]


def test_maximum_grows_and_median_stays() -> None:
    # Figure 7's shape on 400 normal prompts: E max of 1, 2, 4, 8, 16 is 0, 0.56, 1.03, 1.42, 1.77
    scores = np.random.default_rng(0).normal(size=(400, 16))
    curve = best_of_n_curve(scores)
    expected = [0.0, 0.5642, 1.0294, 1.4236, 1.7660]
    assert [point["maximum"] for point in curve] == pytest.approx(expected, abs=0.06)
    assert max(abs(point["median"]) for point in curve) < 0.15


def sample(text: str, finish_reason: FinishReason = "eos") -> Rollout:
    ids = tiny_chat().encode_response(text)
    return Rollout(
        prompt_id="p",
        prompt_ids=[1],
        response_ids=ids if finish_reason == "eos" else ids[:-1],
        response_logprobs=[0.0] * len(ids),
        finish_reason=finish_reason,
        policy_version=0,
    )


def test_the_best_become_demonstrations(prompts: PromptSet) -> None:
    some = prompts.select([0, 3, 5])
    rollouts = [
        *(sample("a"), sample("b")),
        *(sample("c"), sample("d", "length")),  # the best of the second prompt was cut off
        *(sample("e"), sample("f")),
    ]
    found = demonstrations_from(some, rollouts, np.array([1, 1, 0]), tiny_chat())
    assert [d.demonstration_id for d in found] == ["best-p0", "best-p5"]
    assert [d.messages[-1].content for d in found] == ["b", "e"]
    for demonstration, row in zip(found, (some.rows[0], some.rows[2]), strict=True):
        assert demonstration.messages[:-1] == row.prompt
        assert (demonstration.loss_on, demonstration.domain) == ("last", row.domain)
        assert demonstration.messages[-1].role == "assistant"


def test_one_sample_at_least() -> None:
    with pytest.raises(ConfigError, match="samples_per_prompt is 0; it must be above 0"):
        RejectionSamplingConfig(samples_per_prompt=0)
    with pytest.raises(ConfigError, match="seed is -1; it must be 0 or more"):
        RejectionSamplingConfig(seed=-1)


def test_dialogues_longer_than_a_row_are_left_out() -> None:
    chat = tiny_chat()
    short, long = (
        Demonstration(
            demonstration_id=f"{count}",
            messages=(Message("user", "one"), Message("assistant", "two " * count)),
            domain="helpfulness",
            source="test",
        )
        for count in (1, 5)
    )
    length = len(chat.encode_dialogue(short.messages, loss_on="all").ids)
    assert those_that_fit([short, long], chat, length) == [short]
    assert those_that_fit([short, long], chat, length - 1) == []

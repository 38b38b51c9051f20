"""The best samples as dialogues to imitate, and the settings of a round."""

import numpy as np
import pytest

from data.errors import ConfigError
from data.schemas import Demonstration, Message
from policy.prompts import PromptSet
from policy.rejection_sampling import (
    RejectionSamplingConfig,
    demonstrations_from,
    finished,
    those_that_fit,
)
from rlhf.types import FinishReason, Rollout
from tests.reward.tiny import tiny_chat


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
    mask = np.array([[False, True], [False, True], [True, False]])
    places = finished(rollouts, np.flatnonzero(mask))
    assert places == [1, 4]
    found = demonstrations_from(some, rollouts, places, tiny_chat())
    assert [d.demonstration_id for d in found] == ["best-p0", "best-p5"]
    assert [d.messages[-1].content for d in found] == ["b", "e"]
    for demonstration, row in zip(found, (some.rows[0], some.rows[2]), strict=True):
        assert demonstration.messages[:-1] == row.prompt
        assert (demonstration.loss_on, demonstration.domain) == ("last", row.domain)
        assert demonstration.messages[-1].role == "assistant"


def test_several_samples_of_a_prompt_have_names_of_their_own(prompts: PromptSet) -> None:
    rollouts = [sample(text) for text in "abcdef"]
    found = demonstrations_from(prompts.select([0, 3]), rollouts, [0, 2, 3, 5], tiny_chat())
    names = [d.demonstration_id for d in found]
    assert names == ["best-p0", "best-p0-1", "best-p3", "best-p3-1"]
    assert [d.messages[-1].content for d in found] == ["a", "c", "d", "f"]


def test_temperatures() -> None:
    config = RejectionSamplingConfig(samples_per_prompt=2, temperatures=(0.5, 1.0), keep=4)
    assert config.plan((0.5, 1.0)).temperatures == (0.5, 1.0)
    with pytest.raises(ConfigError, match="keep is 5; it must be at most 4, the samples"):
        RejectionSamplingConfig(samples_per_prompt=2, temperatures=(0.5, 1.0), keep=5)
    with pytest.raises(ConfigError, match=r"temperature is -1\.0; it must be 0 \(greedy\) or more"):
        RejectionSamplingConfig(temperatures=(0.5, -1.0))
    with pytest.raises(
        ConfigError, match=r"temperatures is \[0\.5, 0\.5\]; name each of them once"
    ):
        RejectionSamplingConfig(temperatures=(0.5, 0.5))


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
